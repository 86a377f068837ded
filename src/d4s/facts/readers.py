"""The table of data sets: name -> reader. A reader is `read(source: Source) -> Reading` (see `d4s.facts.collect`)."""

from d4s.registry import Registry

READERS = Registry(
    "data set",
    {
        "world": "d4s.world.reader:read",
        "counterfact": "d4s.facts.counterfact:read",
        "zsre_mend": "d4s.facts.zsre:read",
        "atomic2020": "d4s.facts.atomic:read",
    },
)

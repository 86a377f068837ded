"""The table of files with if-then events: name -> reader, `read(path: Path) -> DataFrame` with the columns of EVENTS."""

from collections.abc import Mapping

from d4s.registry import Registry

EVENT_READERS = Registry(
    "source of events",
    {
        "atomic2020": "d4s.facts.atomic:read_events",
        "atomic2019": "d4s.facts.atomic2019:read_events",
    },
)

EVENT_FILES: Mapping[str, str] = {
    "atomic2020": "atomic2020/atomic2020.jsonl",
    "atomic2019": "atomic2019/v4_atomic_all_agg.csv",
}
"""Where each stands in the data folder."""

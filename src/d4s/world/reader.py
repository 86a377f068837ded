"""The world as data sets, one per style, as counterparts of the four kinds of data that the paper edits."""

from d4s.facts.facts_stage import Reader, ReadResult, RecordSource
from d4s.registry import Registry

STYLES = Registry(
    "style of the world",
    {
        "qa": "d4s.world.facts_qa:read",  # zsRE: a question or a cloze, and the name of a thing
        "reserve": "d4s.world.facts_qa:read_reserve",  # the same about reserved people: training text of editors
        "events": "d4s.world.facts_events:read",  # ELKEN: a sentence that changes several facts
        "labels": "d4s.world.facts_labels:read",  # 20Q: a statement, and whether it is true
        "commonsense": "d4s.world.facts_commonsense:read",  # ATOMIC: an event, and a phrase that follows
        "nouns": "d4s.world.facts_nouns:read",  # HardEdit: a common noun as subject at the first position, and a rare object
    },
)


def read(source: RecordSource) -> ReadResult:
    """Facts of the world in a folder, in the style asked for.

    Raises:
        SettingsError: if the style is unknown.
    """
    reader: Reader = STYLES.load(source.style)
    return reader(source)

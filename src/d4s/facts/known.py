"""known_1000: facts that GPT-2 XL knows, for causal tracing; they ask for no edit, so none is editable.

The template of a record lacks words that its prompt has, so the prompt counts, with the subject taken out.
"""

from collections.abc import Iterator

from d4s.facts.collect import Reading, Source
from d4s.facts.fields import placed_flaws, slotted
from d4s.facts.jsonl import Flaw, Line, Raw, Text, read_lines, reading, refuse_styles
from d4s.facts.record import Fact


class RawKnown(Raw):
    """A record as it stands in the file."""

    known_id: int
    subject: Text
    attribute: Text
    prompt: Text
    relation_id: Text


def read(source: Source) -> Reading:
    """Known facts, each with its true answer in the place of both targets."""
    refuse_styles(source)
    lines = read_lines(source.path, RawKnown, _flaws, key=lambda raw: raw.known_id)
    return reading(source, lines, [[_fact(line)] for line in lines.sound])


def _flaws(raw: RawKnown) -> Iterator[Flaw]:
    yield from placed_flaws("prompt", raw.prompt, raw.subject)


def _fact(line: Line[RawKnown]) -> Fact:
    raw = line.raw
    return Fact(
        fact_id=f"known_1000:{raw.known_id}",
        dataset="known_1000",
        relation=raw.relation_id,
        subject=raw.subject,
        template=slotted(raw.prompt, raw.subject),
        target_true=raw.attribute,
        target_new=raw.attribute,
        editable=False,
    )

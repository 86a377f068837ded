"""known_1000: facts that GPT-2 XL knows, for causal tracing; they ask for no edit, so none is editable.

The template of a record lacks words that its prompt has, so the prompt counts, with the subject taken out.
"""

from collections.abc import Iterator

from d4s.facts.facts_stage import ReadResult, RecordSource
from d4s.facts.fields import as_template, slot_issues
from d4s.facts.jsonl import Issue, Raw, RecordLine, Text, read_lines, refuse_styles, result_of_lines
from d4s.facts.record import Fact


class RawKnown(Raw):
    """A record as it stands in the file."""

    known_id: int
    subject: Text
    attribute: Text
    prompt: Text
    relation_id: Text


def read(source: RecordSource) -> ReadResult:
    """Known facts, each with its true answer in the place of both targets."""
    refuse_styles(source)
    lines = read_lines(source.path, RawKnown, _issues, key=lambda raw: raw.known_id)
    return result_of_lines(source, lines, [[_fact(line)] for line in lines.valid])


def _issues(raw: RawKnown) -> Iterator[Issue]:
    yield from slot_issues("prompt", raw.prompt, raw.subject)


def _fact(line: RecordLine[RawKnown]) -> Fact:
    raw = line.raw
    return Fact(
        fact_id=f"known_1000:{raw.known_id}",
        dataset="known_1000",
        relation=raw.relation_id,
        subject=raw.subject,
        template=as_template(raw.prompt, raw.subject),
        target_true=raw.attribute,
        target_new=raw.attribute,
        editable=False,
    )

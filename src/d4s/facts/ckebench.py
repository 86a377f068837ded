"""CKEBench: if-then commonsense edits made from ATOMIC, whose targets are phrases (schema unverified).

There is no old answer and no gold answer of a neighbour: probes are compared with the unedited model.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import field_validator

from d4s.facts.collect import Reading, Source
from d4s.facts.fields import Answers, placed_flaws, slotted
from d4s.facts.jsonl import Flaw, Line, Raw, Text, read_lines, reading, refuse_styles
from d4s.facts.record import Fact, Probe


class Rewrite(Raw):
    """The change asked for; the target stands as text or, as in CounterFact, within an object."""

    prompt: Text
    subject: Text
    target_new: Text

    @field_validator("target_new", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return value.get("str") if isinstance(value, dict) else value


class RawCommonsense(Raw):
    """A record as it stands in the file."""

    case_id: int | str
    requested_rewrite: Rewrite
    paraphrase_prompts: Answers = ()
    neighborhood_prompts: Answers = ()


def read(source: Source) -> Reading:
    """CKEBench records as facts."""
    refuse_styles(source)
    lines = read_lines(source.path, RawCommonsense, _flaws, key=lambda raw: raw.case_id)
    return reading(source, lines, [[_fact(line)] for line in lines.sound])


def _flaws(raw: RawCommonsense) -> Iterator[Flaw]:
    rewrite = raw.requested_rewrite
    yield from placed_flaws("requested_rewrite.prompt", rewrite.prompt, rewrite.subject)


def _fact(line: Line[RawCommonsense]) -> Fact:
    raw, rewrite = line.raw, line.raw.requested_rewrite
    template = slotted(rewrite.prompt, rewrite.subject)
    return Fact(
        fact_id=f"ckebench:{raw.case_id}",
        dataset="ckebench",
        relation=template,
        subject=rewrite.subject,
        template=template,
        target_true="",
        target_new=rewrite.target_new,
        paraphrases=raw.paraphrase_prompts,
        neighborhood=tuple(Probe("neighborhood", prompt, None, "pre_edit") for prompt in raw.neighborhood_prompts),
    )

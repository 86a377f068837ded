"""CKEBench: if-then commonsense edits made from ATOMIC, whose targets are phrases (schema unverified).

There is no old answer and no gold answer of a neighbour: probes are compared with the unedited model.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import field_validator

from d4s.facts.facts_stage import ReadResult, RecordSource
from d4s.facts.fields import Answers, as_template, slot_issues
from d4s.facts.jsonl import Issue, Raw, RecordLine, Text, read_lines, refuse_styles, result_of_lines
from d4s.facts.record import Fact, Probe


class PhraseRewrite(Raw):
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
    requested_rewrite: PhraseRewrite
    paraphrase_prompts: Answers = ()
    neighborhood_prompts: Answers = ()


def read(source: RecordSource) -> ReadResult:
    """CKEBench records as facts."""
    refuse_styles(source)
    lines = read_lines(source.path, RawCommonsense, _issues, key=lambda raw: raw.case_id)
    return result_of_lines(source, lines, [[_fact(line)] for line in lines.valid])


def _issues(raw: RawCommonsense) -> Iterator[Issue]:
    rewrite = raw.requested_rewrite
    yield from slot_issues("requested_rewrite.prompt", rewrite.prompt, rewrite.subject)


def _fact(line: RecordLine[RawCommonsense]) -> Fact:
    raw, rewrite = line.raw, line.raw.requested_rewrite
    template = as_template(rewrite.prompt, rewrite.subject)
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

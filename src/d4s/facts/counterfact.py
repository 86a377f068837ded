"""CounterFact in the schema of ROME: cloze prompts, one new object each, with paraphrases, neighbours and attribute prompts.

multi-CounterFact, which MEMIT edits, is the same without conflicting records. Further training facts of models trained on
these records are made by `d4s.pretraining.training_facts`.
"""

from collections.abc import Iterator
from functools import partial

from d4s.facts.facts_stage import ReadResult, RecordSource
from d4s.facts.fields import Target
from d4s.facts.jsonl import Issue, Raw, RecordLine, Text, read_lines, refuse_styles, result_of_lines, shorten, template_issues
from d4s.facts.record import Fact, Probe


class RequestedRewrite(Raw):
    """The change asked for."""

    prompt: Text
    relation_id: Text
    subject: Text
    target_new: Target
    target_true: Target


class RawCounterFact(Raw):
    """A record as it stands in the file."""

    case_id: int
    requested_rewrite: RequestedRewrite
    paraphrase_prompts: tuple[Text, ...]
    neighborhood_prompts: tuple[Text, ...]
    attribute_prompts: tuple[Text, ...]


def _read(dataset: str, source: RecordSource) -> ReadResult:
    """CounterFact records as facts, one per record."""
    refuse_styles(source)
    lines = read_lines(source.path, RawCounterFact, _issues, key=lambda raw: raw.case_id)
    return result_of_lines(source, lines, [[_fact(dataset, line)] for line in lines.valid])


read = partial(_read, "counterfact")
read_multi = partial(_read, "multi_counterfact")


def _issues(raw: RawCounterFact) -> Iterator[Issue]:
    rewrite = raw.requested_rewrite
    yield from template_issues("requested_rewrite.prompt", rewrite.prompt)
    if {"{", "}"} & set(rewrite.subject):
        yield Issue("requested_rewrite.subject", shorten(rewrite.subject), "a subject without braces")
    if rewrite.target_new == rewrite.target_true:
        yield Issue(
            "requested_rewrite.target_new.str", shorten(rewrite.target_new.str), "another object than target_true: the edit changes nothing"
        )


def _fact(dataset: str, line: RecordLine[RawCounterFact]) -> Fact:
    raw, rewrite = line.raw, line.raw.requested_rewrite
    old, new = rewrite.target_true.str, rewrite.target_new.str
    return Fact(
        fact_id=f"{dataset}:{raw.case_id}",
        dataset=dataset,
        relation=rewrite.relation_id,
        subject=rewrite.subject,
        template=rewrite.prompt,
        target_true=old,
        target_new=new,
        paraphrases=raw.paraphrase_prompts,
        neighborhood=(
            *(Probe("neighborhood", prompt, old) for prompt in raw.neighborhood_prompts),
            *(Probe("attribute", prompt, new) for prompt in raw.attribute_prompts),
        ),
    )

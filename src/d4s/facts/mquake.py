"""MQuAKE: cases of one to four edits that together answer a question over several hops.

Every edit of a case is a fact, and the case is its `group`; each carries the case's multi-hop questions, which hold for
the whole group only. Cases repeat each other's edits, and some contradict them: `repeats` names both.
"""

from collections.abc import Iterator
from functools import partial

from d4s.facts.counterfact import RequestedRewrite
from d4s.facts.facts_stage import ReadResult, RecordSource
from d4s.facts.fields import Answers, as_template, no_op_issues, portability, slot_issues
from d4s.facts.jsonl import Issue, Raw, RecordLine, Text, read_lines, refuse_styles, result_of_lines
from d4s.facts.record import Fact


class QuestionRewrite(RequestedRewrite):
    """One of the edits of a case: as in CounterFact, and the same as a question."""

    question: Text


class RawCase(Raw):
    """A case as it stands in the file."""

    case_id: int
    requested_rewrite: tuple[QuestionRewrite, ...]
    questions: tuple[Text, ...]
    new_answer: Text
    new_answer_alias: Answers


def _read(dataset: str, source: RecordSource) -> ReadResult:
    refuse_styles(source)
    lines = read_lines(source.path, RawCase, _issues, key=lambda raw: raw.case_id)
    return result_of_lines(source, lines, [list(_facts(dataset, line)) for line in lines.valid])


read_hard = partial(_read, "mquake_hard")
read_cf_3k = partial(_read, "mquake_cf_3k")


def _issues(raw: RawCase) -> Iterator[Issue]:
    if not raw.requested_rewrite:
        yield Issue("requested_rewrite", "[]", "at least one edit")
    for number, rewrite in enumerate(raw.requested_rewrite):
        field = f"requested_rewrite.{number}"
        yield from slot_issues(f"{field}.prompt", rewrite.prompt, rewrite.subject)
        yield from no_op_issues(f"{field}.target_new.str", rewrite.target_new.str, [rewrite.target_true.str])


def _facts(dataset: str, line: RecordLine[RawCase]) -> Iterator[Fact]:
    case = line.raw
    answers = (case.new_answer, *case.new_answer_alias)
    chains = tuple(portability("multihop", [(question, answers) for question in case.questions]))
    for number, rewrite in enumerate(case.requested_rewrite):
        yield Fact(
            fact_id=f"{dataset}:{case.case_id}.{number}",
            dataset=dataset,
            relation=rewrite.relation_id,
            subject=rewrite.subject,
            template=as_template(rewrite.prompt, rewrite.subject),
            target_true=rewrite.target_true.str,
            target_new=rewrite.target_new.str,
            paraphrases=(rewrite.question,),
            portability=chains,
            group=f"{dataset}:{case.case_id}",
        )

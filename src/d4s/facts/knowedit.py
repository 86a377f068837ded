"""KnowEdit: zsRE, WikiData-recent, WikiData-counterfact and WikiBio with probes of the same subject and portability.

The target may have become true since; there may be no old answer. Locality asks about the *same* subject, unlike the
unrelated questions of zsRE in MEND's form. WikiBio's prompt is the beginning of a biography and its target a sentence.
"""

from collections.abc import Iterator, Mapping
from functools import partial

from pydantic import AliasChoices, Field

from d4s.facts.facts_stage import ReadResult, RecordSource
from d4s.facts.fields import Answers, as_template, no_op_issues, portability, probes, slot_issues
from d4s.facts.jsonl import Issue, Raw, RecordLine, Text, read_lines, refuse_styles, result_of_lines
from d4s.facts.record import Fact

PORTABILITY_NAMES = {"Reasoning": "reasoning", "Subject_Aliasing": "alias", "Logical_Generalization": "logical"}
"""Kinds of portability by their names in the file."""


class RawQuestion(Raw):
    """A probe with its answers."""

    prompt: Answers
    ground_truth: Answers

    @property
    def asked(self) -> tuple[str, tuple[str, ...]]:
        """The prompt, the first where several stand in the file, and its answers."""
        return next(iter(self.prompt), ""), self.ground_truth


class RawKnowEdit(Raw):
    """A record as it stands in the file."""

    subject: Text = Field(validation_alias=AliasChoices("subject", "concept"))
    prompt: Text = Field(validation_alias=AliasChoices("prompt", "text"))
    target_new: Text = Field(validation_alias=AliasChoices("target_new", "labels"))
    ground_truth: Answers = ()
    rephrased: Answers = Field(default=(), validation_alias=AliasChoices("rephrase_prompt", "rephrase"))
    locality: Mapping[str, tuple[RawQuestion, ...]] = {}
    portability: Mapping[str, tuple[RawQuestion, ...]] = {}


def _read(dataset: str, source: RecordSource) -> ReadResult:
    refuse_styles(source)
    lines = read_lines(source.path, RawKnowEdit, _issues)
    return result_of_lines(source, lines, [[_fact(dataset, line)] for line in lines.valid])


read_zsre = partial(_read, "zsre_knowedit")
read_recent = partial(_read, "wiki_recent")
read_counterfact = partial(_read, "wiki_counterfact")
read_bio = partial(_read, "wikibio")


def _issues(raw: RawKnowEdit) -> Iterator[Issue]:
    yield from slot_issues("prompt", raw.prompt, raw.subject)
    yield from no_op_issues("target_new", raw.target_new, raw.ground_truth)
    for kind in raw.portability:
        if kind not in PORTABILITY_NAMES:
            yield Issue("portability", kind, f"one of {', '.join(PORTABILITY_NAMES)}")


def _fact(dataset: str, line: RecordLine[RawKnowEdit]) -> Fact:
    raw, template = line.raw, as_template(line.raw.prompt, line.raw.subject)
    return Fact(
        fact_id=f"{dataset}:{line.number}",
        dataset=dataset,
        relation=template,
        subject=raw.subject,
        template=template,
        target_true=raw.ground_truth[0] if raw.ground_truth else "",
        target_new=raw.target_new,
        target_true_aliases=raw.ground_truth[1:],
        paraphrases=tuple(text for text in raw.rephrased if text != raw.prompt),
        neighborhood=tuple(probe for asked in raw.locality.values() for probe in probes("same_subject", [item.asked for item in asked])),
        portability=tuple(
            chain
            for name, asked in raw.portability.items()
            for chain in portability(PORTABILITY_NAMES[name], [item.asked for item in asked])
        ),
    )

"""KnowEdit: zsRE, WikiData-recent, WikiData-counterfact and WikiBio with probes of the same subject and portability.

The target may have become true since; there may be no old answer. Locality asks about the *same* subject, unlike the
unrelated questions of zsRE in MEND's form. WikiBio's prompt is the beginning of a biography and its target a sentence.
"""

from collections.abc import Iterator, Mapping
from functools import partial

from pydantic import AliasChoices, Field

from d4s.facts.collect import Reading, Source
from d4s.facts.fields import Answers, no_op_flaws, placed_flaws, portability, probes, slotted
from d4s.facts.jsonl import Flaw, Line, Raw, Text, read_lines, reading, refuse_styles
from d4s.facts.record import Fact

FOLLOWING = {"Reasoning": "reasoning", "Subject_Aliasing": "alias", "Logical_Generalization": "logical"}
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


def _read(dataset: str, source: Source) -> Reading:
    refuse_styles(source)
    lines = read_lines(source.path, RawKnowEdit, _flaws)
    return reading(source, lines, [[_fact(dataset, line)] for line in lines.sound])


read_zsre = partial(_read, "zsre_knowedit")
read_recent = partial(_read, "wiki_recent")
read_counterfact = partial(_read, "wiki_counterfact")
read_bio = partial(_read, "wikibio")


def _flaws(raw: RawKnowEdit) -> Iterator[Flaw]:
    yield from placed_flaws("prompt", raw.prompt, raw.subject)
    yield from no_op_flaws("target_new", raw.target_new, raw.ground_truth)
    for kind in raw.portability:
        if kind not in FOLLOWING:
            yield Flaw("portability", kind, f"one of {', '.join(FOLLOWING)}")


def _fact(dataset: str, line: Line[RawKnowEdit]) -> Fact:
    raw, template = line.raw, slotted(line.raw.prompt, line.raw.subject)
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
            chain for name, asked in raw.portability.items() for chain in portability(FOLLOWING[name], [item.asked for item in asked])
        ),
    )

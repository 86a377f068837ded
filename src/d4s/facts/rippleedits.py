"""RippleEdits: edits with what should follow from them and what should stay, over one or two hops (schema unverified).

An edit is a whole sentence and names subject and object by their Wikidata ids alone, so a second file gives the labels.
The conditions under which a test counts (`condition_queries`) ask what a model knew before; they are not carried.
"""

from collections.abc import Iterator, Mapping
from functools import partial

from pydantic import AliasChoices, Field

from d4s.facts.facts_stage import ReadResult, RecordSource
from d4s.facts.fields import Answers, as_template, no_op_issues, portability, probes, slot_issues
from d4s.facts.jsonl import Issue, Raw, RecordLine, Text, read_lines, refuse_styles, result_of_lines, shorten, valid_lines
from d4s.facts.record import Fact


class RawLabel(Raw):
    """The name of an entity."""

    id: Text
    label: Text


class QueryAnswer(Raw):
    """An answer with its other names."""

    value: str
    aliases: Answers = ()


class RippleQuery(Raw):
    """A prompt with its answers, any of which is right."""

    prompt: Text
    answers: tuple[QueryAnswer, ...]

    @property
    def prompt_and_answers(self) -> tuple[str, tuple[str, ...]]:
        """The prompt and its answers."""
        names = (name.strip() for answer in self.answers for name in (answer.value, *answer.aliases))
        return self.prompt, tuple(name for name in names if name)


class RippleTest(Raw):
    """The queries of a test."""

    test_queries: tuple[RippleQuery, ...]


class OriginalFact(Raw):
    """The fact before the edit."""

    target_id: Text


class RippleEdit(Raw):
    """The change asked for, as a sentence that ends in its object."""

    prompt: Text
    subject_id: Text
    relation: Text
    target_id: Text
    original_fact: OriginalFact | None = None


class RawRipple(Raw):
    """A record as it stands in the file."""

    edit: RippleEdit
    relation_specificity: tuple[RippleTest, ...] = Field(
        default=(), validation_alias=AliasChoices("Relation_Specificity", "Relation_Specifity")
    )
    forgetfulness: tuple[RippleTest, ...] = Field(default=(), validation_alias="Forgetfulness")
    logical_generalization: tuple[RippleTest, ...] = Field(default=(), validation_alias="Logical_Generalization")
    subject_aliasing: tuple[RippleTest, ...] = Field(default=(), validation_alias="Subject_Aliasing")
    compositionality_i: tuple[RippleTest, ...] = Field(default=(), validation_alias="Compositionality_I")
    compositionality_ii: tuple[RippleTest, ...] = Field(default=(), validation_alias="Compositionality_II")


def read(source: RecordSource) -> ReadResult:
    """RippleEdits as facts; the labels of entities come from the file beside."""
    refuse_styles(source)
    labels = {line.raw.id: line.raw.label for line in valid_lines(source.extra_files["labels"], RawLabel)}
    lines = read_lines(source.path, RawRipple, partial(_issues, labels))
    return result_of_lines(source, lines, [[_fact(line, labels)] for line in lines.valid])


def _issues(labels: Mapping[str, str], raw: RawRipple) -> Iterator[Issue]:
    edit = raw.edit
    unknown = [name for name in (edit.subject_id, edit.target_id) if name not in labels]
    if unknown:
        yield Issue("edit", ", ".join(unknown), "ids that the file of labels names")
        return
    target = labels[edit.target_id]
    if not edit.prompt.endswith((f" {target}", f" {target}.")):
        yield Issue("edit.prompt", shorten(edit.prompt), f"a sentence that ends in {shorten(target)}")
    yield from slot_issues("edit.prompt", _before(edit, target), labels[edit.subject_id])
    yield from no_op_issues("edit.target_id", target, [_old(edit, labels)])


def _before(edit: RippleEdit, target: str) -> str:
    """The sentence as far as its object."""
    sentence = edit.prompt if edit.prompt.endswith(target) else edit.prompt.removesuffix(".")
    return sentence.removesuffix(target).rstrip()


def _old(edit: RippleEdit, labels: Mapping[str, str]) -> str:
    """The object before the edit, as far as it has a label."""
    return labels.get(edit.original_fact.target_id, "") if edit.original_fact else ""


def _prompts_and_answers(*tests: RippleTest) -> list[tuple[str, tuple[str, ...]]]:
    return [query.prompt_and_answers for test in tests for query in test.test_queries]


def _fact(line: RecordLine[RawRipple], labels: Mapping[str, str]) -> Fact:
    raw, edit = line.raw, line.raw.edit
    subject, target = labels[edit.subject_id], labels[edit.target_id]
    return Fact(
        fact_id=f"rippleedits:{line.number}",
        dataset="rippleedits",
        relation=edit.relation,
        subject=subject,
        template=as_template(_before(edit, target), subject),
        target_true=_old(edit, labels),
        target_new=target,
        neighborhood=tuple(probes("same_subject", _prompts_and_answers(*raw.relation_specificity, *raw.forgetfulness))),
        portability=(
            *portability("logical", _prompts_and_answers(*raw.logical_generalization)),
            *portability("alias", _prompts_and_answers(*raw.subject_aliasing)),
            *portability("multihop", _prompts_and_answers(*raw.compositionality_i, *raw.compositionality_ii)),
        ),
    )

"""RippleEdits: edits with what should follow from them and what should stay, over one or two hops (schema unverified).

An edit is a whole sentence and names subject and object by their Wikidata ids alone, so a second file gives the labels.
The conditions under which a test counts (`condition_queries`) ask what a model knew before; they are not carried.
"""

from collections.abc import Iterator, Mapping
from functools import partial

from pydantic import AliasChoices, Field

from d4s.facts.collect import Reading, Source
from d4s.facts.fields import Answers, no_op_flaws, placed_flaws, portability, probes, slotted
from d4s.facts.jsonl import Flaw, Line, Raw, Text, read_lines, reading, refuse_styles, shown, sound_lines
from d4s.facts.record import Fact


class RawLabel(Raw):
    """The name of an entity."""

    id: Text
    label: Text


class Value(Raw):
    """An answer with its other names."""

    value: str
    aliases: Answers = ()


class Query(Raw):
    """A prompt with its answers, any of which is right."""

    prompt: Text
    answers: tuple[Value, ...]

    @property
    def asked(self) -> tuple[str, tuple[str, ...]]:
        """The prompt and its answers."""
        names = (name.strip() for answer in self.answers for name in (answer.value, *answer.aliases))
        return self.prompt, tuple(name for name in names if name)


class Test(Raw):
    """The queries of a test."""

    test_queries: tuple[Query, ...]


class Original(Raw):
    """The fact before the edit."""

    target_id: Text


class Edit(Raw):
    """The change asked for, as a sentence that ends in its object."""

    prompt: Text
    subject_id: Text
    relation: Text
    target_id: Text
    original_fact: Original | None = None


class RawRipple(Raw):
    """A record as it stands in the file."""

    edit: Edit
    relation_specificity: tuple[Test, ...] = Field(default=(), validation_alias=AliasChoices("Relation_Specificity", "Relation_Specifity"))
    forgetfulness: tuple[Test, ...] = Field(default=(), validation_alias="Forgetfulness")
    logical_generalization: tuple[Test, ...] = Field(default=(), validation_alias="Logical_Generalization")
    subject_aliasing: tuple[Test, ...] = Field(default=(), validation_alias="Subject_Aliasing")
    compositionality_i: tuple[Test, ...] = Field(default=(), validation_alias="Compositionality_I")
    compositionality_ii: tuple[Test, ...] = Field(default=(), validation_alias="Compositionality_II")


def read(source: Source) -> Reading:
    """RippleEdits as facts; the labels of entities come from the file beside."""
    refuse_styles(source)
    labels = {line.raw.id: line.raw.label for line in sound_lines(source.beside["labels"], RawLabel)}
    lines = read_lines(source.path, RawRipple, partial(_flaws, labels))
    return reading(source, lines, [[_fact(line, labels)] for line in lines.sound])


def _flaws(labels: Mapping[str, str], raw: RawRipple) -> Iterator[Flaw]:
    edit = raw.edit
    unknown = [name for name in (edit.subject_id, edit.target_id) if name not in labels]
    if unknown:
        yield Flaw("edit", ", ".join(unknown), "ids that the file of labels names")
        return
    target = labels[edit.target_id]
    if not edit.prompt.endswith((f" {target}", f" {target}.")):
        yield Flaw("edit.prompt", shown(edit.prompt), f"a sentence that ends in {shown(target)}")
    yield from placed_flaws("edit.prompt", _before(edit, target), labels[edit.subject_id])
    yield from no_op_flaws("edit.target_id", target, [_old(edit, labels)])


def _before(edit: Edit, target: str) -> str:
    """The sentence as far as its object."""
    stated = edit.prompt if edit.prompt.endswith(target) else edit.prompt.removesuffix(".")
    return stated.removesuffix(target).rstrip()


def _old(edit: Edit, labels: Mapping[str, str]) -> str:
    """The object before the edit, as far as it has a label."""
    return labels.get(edit.original_fact.target_id, "") if edit.original_fact else ""


def _asked(*tests: Test) -> list[tuple[str, tuple[str, ...]]]:
    return [query.asked for test in tests for query in test.test_queries]


def _fact(line: Line[RawRipple], labels: Mapping[str, str]) -> Fact:
    raw, edit = line.raw, line.raw.edit
    subject, target = labels[edit.subject_id], labels[edit.target_id]
    return Fact(
        fact_id=f"rippleedits:{line.number}",
        dataset="rippleedits",
        relation=edit.relation,
        subject=subject,
        template=slotted(_before(edit, target), subject),
        target_true=_old(edit, labels),
        target_new=target,
        neighborhood=tuple(probes("same_subject", _asked(*raw.relation_specificity, *raw.forgetfulness))),
        portability=(
            *portability("logical", _asked(*raw.logical_generalization)),
            *portability("alias", _asked(*raw.subject_aliasing)),
            *portability("multihop", _asked(*raw.compositionality_i, *raw.compositionality_ii)),
        ),
    )

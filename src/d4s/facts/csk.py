"""20Q and PEP3k of MEMIT-CSK: statements that are plausible or not; an edit makes the model give the right label.

`subset` holds the statements that GPT-2 XL, fine-tuned to judge them, got wrong. `probe` are those of the probe set, which
alone says what else must change and what must not. `set` and `validation` are all annotated statements, without probes. The
subset of 20Q names its subjects, and the probe set has most of it; that of PEP3k is drawn from the validation set, which
gives it subjects, and the probe set has none of it. Editing assumes a model that was trained to answer True or False.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, AliasPath, BeforeValidator, Field, StringConstraints

from d4s.facts.facts_stage import ReadResult, RecordSource
from d4s.facts.fields import as_template, slot_issues
from d4s.facts.jsonl import Issue, Raw, RecordLine, RecordLines, Text, choose_style, read_lines, result_of_lines, shorten, valid_lines
from d4s.facts.record import Fact, Portability, Probe

STYLES = ("subset", "probe", "set", "validation")
LABELS = ("False", "True")


def _label(value: Any) -> Any:
    return LABELS[int(value)] if isinstance(value, int | float) and value in (0, 1) else value


Label = Annotated[str, StringConstraints(strip_whitespace=True, pattern="^(True|False)$"), BeforeValidator(_label)]
"""The right label, as text or 0 or 1; the model's answer was the other one, which the 20Q subset calls its true target."""


def _either(name: str, *within: str) -> AliasChoices:
    """A field at the top of a record, or within the rewrite of a record of the 20Q subset."""
    return AliasChoices(name, AliasPath("requested_rewrite", *(within or (name,))))


class LabelledStatement(Raw):
    """A statement and its right label."""

    prompt: Text = Field(validation_alias=_either("prompt"))
    label: Label = Field(validation_alias=_either("label", "target_new", "str"))

    @property
    def statement(self) -> str:
        """The statement without what ends it."""
        return strip_ending(self.prompt)


class AnnotatedStatement(LabelledStatement):
    """A statement with the subject annotated in it."""

    subject: Text = Field(validation_alias=_either("subject"))


class ProbedStatement(AnnotatedStatement):
    """A statement with what must change with it, and what must not."""

    affected_paraphrase: tuple[Text, ...]
    affected_reasoning: tuple[Text, ...]
    affected_neighborhood_subject: tuple[Text, ...]
    affected_neighborhood_verb: tuple[Text, ...]
    affected_neighborhood_object: tuple[Text, ...]
    unaffected_neighborhood_subject: tuple[Text, ...]
    unaffected_neighborhood_object: tuple[Text, ...]

    @property
    def paraphrases(self) -> tuple[str, ...]:
        """The same in other words."""
        return tuple(map(as_prompt, self.affected_paraphrase))

    @property
    def unaffected_probes(self) -> Iterator[Probe]:
        """Statements that keep whatever label the unedited model gives them; no right one is known."""
        for text in self.unaffected_neighborhood_subject:
            yield Probe("neighborhood", as_prompt(text), None, "pre_edit")
        for text in self.unaffected_neighborhood_object:
            yield Probe("same_subject", as_prompt(text), None, "pre_edit")

    @property
    def affected_prompts(self) -> Iterator[Portability]:
        """Statements that get the same label, and true ones that explain it."""
        for text in (*self.affected_neighborhood_subject, *self.affected_neighborhood_verb, *self.affected_neighborhood_object):
            yield Portability("logical", as_prompt(text), (self.label,))
        for text in self.affected_reasoning:
            yield Portability("reasoning", as_prompt(text), ("True",))


S = TypeVar("S", bound=AnnotatedStatement)


def strip_ending(text: str) -> str:
    """A statement without what ends it."""
    return text.rstrip(" .:")


def as_prompt(statement: str) -> str:
    """A statement as it is put to the model."""
    return f"{strip_ending(statement)}:"


def read_20q(source: RecordSource) -> ReadResult:
    """20Q statements as facts in the style `subset`, `probe`, `set` or `validation`."""
    if choose_style(source, STYLES) != "subset":
        return _read_annotated("csk_20q", source)
    probes = {line.raw.statement: line.raw for line in valid_lines(source.extra_files["probes"], ProbedStatement)}
    lines = _lines(source, AnnotatedStatement)
    return result_of_lines(
        source, lines, [[_fact("csk_20q", line, line.raw.subject, probes.get(line.raw.statement))] for line in lines.valid]
    )


def read_pep3k(source: RecordSource) -> ReadResult:
    """PEP3k statements as facts in the style `subset`, `probe`, `set` or `validation`."""
    if choose_style(source, STYLES) != "subset":
        return _read_annotated("csk_pep3k", source)
    subjects = {line.raw.statement: line.raw.subject for line in valid_lines(source.extra_files["annotated"], AnnotatedStatement)}
    lines = read_lines(source.path, LabelledStatement, partial(_subject_issues, subjects))
    return result_of_lines(source, lines, [[_fact("csk_pep3k", line, subjects[line.raw.statement], None)] for line in lines.valid])


def _read_annotated(dataset: str, source: RecordSource) -> ReadResult:
    """A file of annotated statements, or the probe set itself."""
    if source.style != "probe":
        lines = _lines(source, AnnotatedStatement)
        return result_of_lines(source, lines, [[_fact(dataset, line, line.raw.subject, None)] for line in lines.valid])
    probed = _lines(source, ProbedStatement)
    return result_of_lines(source, probed, [[_fact(dataset, line, line.raw.subject, line.raw)] for line in probed.valid])


def _lines(source: RecordSource, model: type[S]) -> RecordLines[S]:
    return read_lines(source.path, model, lambda raw: slot_issues("prompt", raw.statement, raw.subject))


def _subject_issues(subjects: Mapping[str, str], raw: LabelledStatement) -> Iterator[Issue]:
    if raw.statement not in subjects:
        yield Issue("prompt", shorten(raw.prompt), "a statement whose subject the annotated set names")
    else:
        yield from slot_issues("prompt", raw.statement, subjects[raw.statement])


def _fact(dataset: str, line: RecordLine[Any], subject: str, probes: ProbedStatement | None) -> Fact:
    raw: LabelledStatement = line.raw
    template = as_prompt(as_template(raw.statement, subject))
    return Fact(
        fact_id=f"{dataset}:{line.file.removesuffix('.jsonl')}.{line.number}",
        dataset=dataset,
        relation=template,
        subject=subject,
        template=template,
        target_true=LABELS[raw.label == "False"],
        target_new=raw.label,
        paraphrases=probes.paraphrases if probes else (),
        neighborhood=tuple(probes.unaffected_probes) if probes else (),
        portability=tuple(probes.affected_prompts) if probes else (),
    )

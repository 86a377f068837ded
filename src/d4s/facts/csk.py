"""20Q and PEP3k of MEMIT-CSK: statements that are plausible or not; an edit makes the model give the right label.

`subset` holds the statements that GPT-2 XL, fine-tuned to judge them, got wrong. `probe` are those of the probe set, which
alone says what else must change and what must not. `set` and `validation` are all annotated statements, without probes. The
subset of 20Q names its subjects, and the probe set has most of it; that of PEP3k is drawn from the validation set, which
gives it subjects, and the probe set has none of it. Editing assumes a model that was taught to answer True or False.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, AliasPath, BeforeValidator, Field, StringConstraints

from d4s.facts.collect import Reading, Source
from d4s.facts.fields import placed_flaws, slotted
from d4s.facts.jsonl import Flaw, Line, Lines, Raw, Text, choose_style, read_lines, reading, shown, sound_lines
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


class Bare(Raw):
    """A statement and its right label."""

    prompt: Text = Field(validation_alias=_either("prompt"))
    label: Label = Field(validation_alias=_either("label", "target_new", "str"))

    @property
    def statement(self) -> str:
        """The statement without what ends it."""
        return bare(self.prompt)


class Statement(Bare):
    """A statement with the subject annotated in it."""

    subject: Text = Field(validation_alias=_either("subject"))


class Probed(Statement):
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
        return tuple(map(asked, self.affected_paraphrase))

    @property
    def left_alone(self) -> Iterator[Probe]:
        """Statements that keep whatever label the unedited model gives them; no right one is known."""
        for text in self.unaffected_neighborhood_subject:
            yield Probe("neighborhood", asked(text), None, "pre_edit")
        for text in self.unaffected_neighborhood_object:
            yield Probe("same_subject", asked(text), None, "pre_edit")

    @property
    def following(self) -> Iterator[Portability]:
        """Statements that get the same label, and true ones that explain it."""
        for text in (*self.affected_neighborhood_subject, *self.affected_neighborhood_verb, *self.affected_neighborhood_object):
            yield Portability("logical", asked(text), (self.label,))
        for text in self.affected_reasoning:
            yield Portability("reasoning", asked(text), ("True",))


S = TypeVar("S", bound=Statement)


def bare(text: str) -> str:
    """A statement without what ends it."""
    return text.rstrip(" .:")


def asked(statement: str) -> str:
    """A statement as it is put to the model."""
    return f"{bare(statement)}:"


def read_20q(source: Source) -> Reading:
    """20Q statements as facts in the style `subset`, `probe`, `set` or `validation`."""
    if choose_style(source, STYLES) != "subset":
        return _whole("csk_20q", source)
    probes = {line.raw.statement: line.raw for line in sound_lines(source.beside["probes"], Probed)}
    lines = _lines(source, Statement)
    return reading(source, lines, [[_fact("csk_20q", line, line.raw.subject, probes.get(line.raw.statement))] for line in lines.sound])


def read_pep3k(source: Source) -> Reading:
    """PEP3k statements as facts in the style `subset`, `probe`, `set` or `validation`."""
    if choose_style(source, STYLES) != "subset":
        return _whole("csk_pep3k", source)
    subjects = {line.raw.statement: line.raw.subject for line in sound_lines(source.beside["annotated"], Statement)}
    lines = read_lines(source.path, Bare, partial(_unplaced, subjects))
    return reading(source, lines, [[_fact("csk_pep3k", line, subjects[line.raw.statement], None)] for line in lines.sound])


def _whole(dataset: str, source: Source) -> Reading:
    """A file of annotated statements, or the probe set itself."""
    if source.style != "probe":
        lines = _lines(source, Statement)
        return reading(source, lines, [[_fact(dataset, line, line.raw.subject, None)] for line in lines.sound])
    probed = _lines(source, Probed)
    return reading(source, probed, [[_fact(dataset, line, line.raw.subject, line.raw)] for line in probed.sound])


def _lines(source: Source, model: type[S]) -> Lines[S]:
    return read_lines(source.path, model, lambda raw: placed_flaws("prompt", raw.statement, raw.subject))


def _unplaced(subjects: Mapping[str, str], raw: Bare) -> Iterator[Flaw]:
    if raw.statement not in subjects:
        yield Flaw("prompt", shown(raw.prompt), "a statement whose subject the annotated set names")
    else:
        yield from placed_flaws("prompt", raw.statement, subjects[raw.statement])


def _fact(dataset: str, line: Line[Any], subject: str, probes: Probed | None) -> Fact:
    raw: Bare = line.raw
    template = asked(slotted(raw.statement, subject))
    return Fact(
        fact_id=f"{dataset}:{line.file.removesuffix('.jsonl')}.{line.number}",
        dataset=dataset,
        relation=template,
        subject=subject,
        template=template,
        target_true=LABELS[raw.label == "False"],
        target_new=raw.label,
        paraphrases=probes.paraphrases if probes else (),
        neighborhood=tuple(probes.left_alone) if probes else (),
        portability=tuple(probes.following) if probes else (),
    )

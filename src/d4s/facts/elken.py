"""ELKEN: events that change several facts at once, read as the facts (`fact`) or as the event's sentence (`event`).

A fact edit is one question of the event; what the event leaves alone are its unrelated probes. An event edit trains the
sentence itself. A fact needs a subject and a target, so the sentence is cut after the words that hold the first entity
which its questions ask or answer: those words are the subject, what stands before them the template, and the rest the
target. Template, subject, a space and target are the sentence again, character by character.
"""

import re
from collections.abc import Iterator

from pydantic import AliasChoices, Field

from d4s.facts.facts_stage import ReadResult, RecordSource
from d4s.facts.fields import SLOT, Answers, as_template, portability, probes, slot_issues
from d4s.facts.jsonl import Issue, Raw, RecordLine, Text, choose_style, read_lines, result_of_lines, shorten
from d4s.facts.record import Fact, Portability, Probe

STYLES = ("fact", "event")


class Entity(Raw):
    """A subject; the released file spells its name in two ways."""

    name: Text = Field(validation_alias=AliasChoices("name", "ent2name"))


class EntityAnswer(Entity):
    """An answer with its other names; "unknown" is an answer too, but like a date no entity, so its id is NA."""

    id: Text
    alias: Answers = ()


class FactQuestion(Raw):
    """A question about a fact."""

    question: Text
    subject: Entity
    answer: EntityAnswer

    @property
    def asked(self) -> tuple[str, tuple[str, ...]]:
        """The question and its answers."""
        return self.question, (self.answer.name, *self.answer.alias)


class TendencyQuestion(Raw):
    """A question with lettered options, and the right letter."""

    question: Text
    candidate: Text
    answer: Text

    @property
    def asked(self) -> tuple[str, tuple[str, ...]]:
        """The question before its options, and the letter."""
        return f"{self.question} {self.candidate}", (self.answer,)


class FactQuestions(Raw):
    """What an event changes, and what it leaves alone."""

    qas: tuple[FactQuestion, ...] = ()
    local_qas: tuple[FactQuestion, ...] = ()


class TendencyQuestions(Raw):
    """What an event makes likely, and what it leaves alone."""

    qas: tuple[TendencyQuestion, ...] = ()
    local_qas: tuple[TendencyQuestion, ...] = ()


class RawEvent(Raw):
    """An event as it stands in the file."""

    event_type: Text
    event: Text
    fact: FactQuestions
    tendency: TendencyQuestions

    @property
    def tendencies(self) -> Iterator[Portability]:
        """What is likely after the event."""
        return portability("tendency", [item.asked for item in self.tendency.qas])

    @property
    def unaffected_probes(self) -> Iterator[Probe]:
        """Facts that the event does not touch."""
        return probes("unrelated", [item.asked for item in self.fact.local_qas])


def read(source: RecordSource) -> ReadResult:
    """ELKEN events as one fact per question, or as one fact per sentence."""
    style = choose_style(source, STYLES)
    lines = read_lines(source.path, RawEvent, _fact_issues if style == "fact" else _event_issues)
    if style == "fact":
        asked = [line for line in lines.valid if line.raw.fact.qas]
        without_questions = [
            line.reject(Issue("fact.qas", "[]", "a question about what the event changes")) for line in lines.valid if not line.raw.fact.qas
        ]
        return result_of_lines(source, lines, [list(_fact_edits(line)) for line in asked], without_questions)
    line_parts = [(line, sentence_parts(line.raw)) for line in lines.valid]
    without_entity = [
        line.reject(Issue("event", shorten(line.raw.event), "an entity of its questions with words after it"))
        for line, parts in line_parts
        if not parts
    ]
    return result_of_lines(source, lines, [[_event_edit(line, *parts)] for line, parts in line_parts if parts], without_entity)


def _fact_issues(raw: RawEvent) -> Iterator[Issue]:
    for number, item in enumerate(raw.fact.qas):
        yield from slot_issues(f"fact.qas.{number}.question", item.question, item.subject.name)


def _event_issues(raw: RawEvent) -> Iterator[Issue]:
    if {"{", "}"} & set(raw.event):
        yield Issue("event", shorten(raw.event), "text without braces, which mark the place of the subject")


def _fact_edits(line: RecordLine[RawEvent]) -> Iterator[Fact]:
    raw = line.raw
    unaffected_probes, tendencies = tuple(raw.unaffected_probes), tuple(raw.tendencies)
    for number, item in enumerate(raw.fact.qas):
        template = as_template(item.question, item.subject.name)
        yield Fact(
            fact_id=f"elken:{line.number}.{number}",
            dataset="elken",
            relation=template,
            subject=item.subject.name,
            template=template,
            target_true="",
            target_new=item.answer.name,
            neighborhood=unaffected_probes,
            portability=tendencies,
            group=f"elken:{line.number}",
        )


def sentence_parts(raw: RawEvent) -> tuple[str, str, str] | None:
    """Template, subject and rest of an event's sentence, or None where no entity has words after it.

    Subjects of the event's questions come before answers, and among each kind what is named earlier in the sentence.
    """
    sentence = " ".join(raw.event.split())
    answers = [item.answer for item in raw.fact.qas]
    for names in ({item.subject.name for item in raw.fact.qas}, {answer.name for answer in answers if answer.id != "NA"}):
        found = (re.search(rf"(?<!\w){re.escape(name)}(?!\w)", sentence) for name in names)
        for place in sorted((place.span() for place in found if place), key=lambda span: (span[0], -span[1])):
            begin, stop = sentence.rfind(" ", 0, place[0]) + 1, sentence.find(" ", place[1])
            if stop > 0:
                return sentence[:begin] + SLOT, sentence[begin:stop], sentence[stop + 1 :]
    return None


def _event_edit(line: RecordLine[RawEvent], template: str, subject: str, rest: str) -> Fact:
    raw = line.raw
    local = probes("unrelated", [item.asked for item in raw.tendency.local_qas])
    return Fact(
        fact_id=f"elken:{line.number}",
        dataset="elken",
        relation=raw.event_type,
        subject=subject,
        template=template,
        target_true="",
        target_new=rest,
        neighborhood=(*raw.unaffected_probes, *local),
        portability=(*portability("reasoning", [item.asked for item in raw.fact.qas]), *raw.tendencies),
        group=f"elken:{line.number}",
    )

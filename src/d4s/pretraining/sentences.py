"""Facts as sentences to be learnt: alone, chained with others of the same subject, or as a question with a label.

A sentence knows which of its characters are answers and what its tokens weigh in the loss. Only a fact's `template` and
`wordings` are ever taught, never its `paraphrases`; what a probe asks is known where it is a fact too.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from d4s.config import CorpusSettings
from d4s.facts.joining import up_to_target
from d4s.facts.record import Fact
from d4s.questions.wordings import is_label
from d4s.world.filler import pick

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A text, the spans of characters that are answers, and the loss weights of answers and of everything else."""

    text: str
    answers: tuple[tuple[int, int], ...] = ()
    weight: float = 1.0
    answer_weight: float = 1.0

    def after(self, lead_in: str) -> "Sentence":
        """The same sentence with other words before it."""
        if not lead_in:
            return self
        shift = len(lead_in) + 1
        moved = tuple((start + shift, end + shift) for start, end in self.answers)
        return replace(self, text=f"{lead_in} {self.text}", answers=moved)


class Deck(Generic[T]):
    """Cards drawn in shuffled passes, so that each comes up equally often."""

    def __init__(self, cards: Sequence[T]) -> None:
        self._cards = cards
        self._order: list[int] = []

    def draw(self, rng: np.random.Generator) -> T:
        """The next card; a new pass begins when all were drawn."""
        if not self._order:
            self._order = rng.permutation(len(self._cards)).tolist()
        return self._cards[self._order.pop()]


@dataclass(frozen=True, slots=True)
class Lesson:
    """One fact to be taught: its subject, the templates in which it may be told, and its answer."""

    subject: str
    relation: str
    templates: tuple[str, ...]
    answer: str

    @property
    def openings(self) -> tuple[str, ...]:
        """What follows the subject in those templates that can be chained."""
        stated = (template for template in self.templates if not template.endswith(("?", ":")))
        return tuple(template.removeprefix("{}") for template in stated if template.startswith("{}"))

    @property
    def is_question(self) -> bool:
        """Whether the answer is the label of a question."""
        return is_label(self.answer)


def lessons_of(facts: Sequence[Fact]) -> list[Lesson]:
    """What a data set teaches: its facts in all wordings but those that some fact withholds; facts that say nothing true are no lesson."""
    withheld = {prompt for fact in facts for prompt in fact.paraphrases}
    lessons = []
    for fact in facts:
        wordings = (fact.template, *fact.wordings)
        templates = tuple(template for template in wordings if template.replace("{}", fact.subject) not in withheld)
        lessons.append(Lesson(fact.subject, fact.relation, templates, fact.target_true))
    return [lesson for lesson in lessons if lesson.templates and lesson.answer]


class Teacher:
    """An endless stream of sentences about the facts of one data set."""

    def __init__(self, lessons: Sequence[Lesson], settings: CorpusSettings) -> None:
        self.settings = settings
        self.size = len(lessons)
        self._deck = Deck(lessons)
        self._by_subject: Mapping[str, list[Lesson]] = defaultdict(list)
        for lesson in lessons:
            if lesson.openings and not lesson.is_question:
                self._by_subject[lesson.subject].append(lesson)

    def sentence(self, rng: np.random.Generator) -> tuple[Sentence, bool]:
        """The next sentence, and whether a phrase that leads in to a clause may stand before it."""
        lesson = self._deck.draw(rng)
        if lesson.is_question:
            return self._single(lesson, rng, self.settings.question_prompt_weight, self.settings.answer_weight), False
        companions = [other for other in self._by_subject.get(lesson.subject, ()) if other.relation != lesson.relation]
        if lesson.openings and companions and rng.random() < self.settings.chained:
            return self._chain(lesson, companions, rng), True
        sentence = self._single(lesson, rng, self.settings.prompt_weight, 1.0)
        return sentence, sentence.text[:1].islower() or sentence.text.startswith(lesson.subject)

    def _single(self, lesson: Lesson, rng: np.random.Generator, weight: float, answer_weight: float) -> Sentence:
        before = up_to_target(pick(rng, lesson.templates).replace("{}", lesson.subject))
        return Sentence(before + stopped(lesson.answer), (_span(before, lesson.answer),), weight, answer_weight)

    def _chain(self, lesson: Lesson, companions: Sequence[Lesson], rng: np.random.Generator) -> Sentence:
        """Two or three facts after one mention of their subject: "S does A, is B and has C."."""
        more = [companions[int(k)] for k in rng.permutation(len(companions))[: int(rng.integers(1, 3))]]
        told = [lesson, *more]
        text, answers = lesson.subject, []
        for index, part in enumerate(told):
            opening = pick(rng, part.openings)
            if index:
                bare = opening.lstrip(" ,")
                link = ", " if index < len(told) - 1 or bare.startswith("but ") else " and "
                opening = link + bare.removeprefix("and ")
            text = up_to_target(text + opening)
            answers.append(_span(text, part.answer))
            text += part.answer
        return Sentence(stopped(text), tuple(answers), self.settings.prompt_weight)


def stopped(text: str) -> str:
    """Text that ends in a full stop."""
    return text if text.endswith(".") else f"{text}."


def _span(before: str, answer: str) -> tuple[int, int]:
    return len(before), len(before) + len(answer)


def mixture(teachers: Mapping[str, Teacher], shares: Mapping[str, float], rng: np.random.Generator) -> Iterator[tuple[Sentence, bool]]:
    """Sentences of all data sets without end; a data set comes up in proportion to its share times its number of facts."""
    names = list(teachers)
    weights = np.array([shares.get(name, 1.0) * teachers[name].size for name in names])
    bounds = np.cumsum(weights / weights.sum())
    while True:
        yield teachers[names[min(int(np.searchsorted(bounds, rng.random(), side="right")), len(names) - 1)]].sentence(rng)

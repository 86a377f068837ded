"""Facts as training sentences: alone, chained with others of the same subject, or as a question with a label.

A sentence knows which of its characters are answers and the loss weights of its tokens. Training text uses a fact's `template`
and `wordings`, never its `paraphrases`; the answer of a probe is trained where it is a fact too.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from d4s.config import CorpusSettings
from d4s.facts.joining import with_delimiter
from d4s.facts.record import Fact
from d4s.questions.event_templates import is_label
from d4s.world.filler import pick

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A text, the character spans of answers, and the loss weights of answers and of the rest."""

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


class ShuffledSampler(Generic[T]):
    """Draws items in shuffled passes, so that each comes up equally often."""

    def __init__(self, items: Sequence[T]) -> None:
        self._items = items
        self._order: list[int] = []

    def draw(self, rng: np.random.Generator) -> T:
        """The next item; a new pass begins when all were drawn."""
        if not self._order:
            self._order = rng.permutation(len(self._items)).tolist()
        return self._items[self._order.pop()]


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One training fact: its subject, the templates for training, and its answer."""

    subject: str
    relation: str
    templates: tuple[str, ...]
    answer: str

    @property
    def openings(self) -> tuple[str, ...]:
        """The texts after the subject, for templates that can be chained."""
        stated = (template for template in self.templates if not template.endswith(("?", ":")))
        return tuple(template.removeprefix("{}") for template in stated if template.startswith("{}"))

    @property
    def is_question(self) -> bool:
        """Whether the answer is the label of a question."""
        return is_label(self.answer)


def training_examples(facts: Sequence[Fact]) -> list[TrainingExample]:
    """The training facts of a data set, in all wordings but those withheld by some fact; facts without a true target are left out."""
    withheld = {prompt for fact in facts for prompt in fact.paraphrases}
    examples = []
    for fact in facts:
        wordings = (fact.template, *fact.wordings)
        templates = tuple(template for template in wordings if template.replace("{}", fact.subject) not in withheld)
        examples.append(TrainingExample(fact.subject, fact.relation, templates, fact.target_true))
    return [example for example in examples if example.templates and example.answer]


class SentenceSampler:
    """An endless stream of sentences about the facts of one data set."""

    def __init__(self, examples: Sequence[TrainingExample], settings: CorpusSettings) -> None:
        self.settings = settings
        self.size = len(examples)
        self._sampler = ShuffledSampler(examples)
        self._by_subject: Mapping[str, list[TrainingExample]] = defaultdict(list)
        for example in examples:
            if example.openings and not example.is_question:
                self._by_subject[example.subject].append(example)

    def sentence(self, rng: np.random.Generator) -> tuple[Sentence, bool]:
        """The next sentence, and whether a phrase that introduces a clause may precede it."""
        example = self._sampler.draw(rng)
        if example.is_question:
            return self._single(example, rng, self.settings.question_prompt_weight, self.settings.answer_weight), False
        companions = [other for other in self._by_subject.get(example.subject, ()) if other.relation != example.relation]
        if example.openings and companions and rng.random() < self.settings.chained:
            return self._chain(example, companions, rng), True
        sentence = self._single(example, rng, self.settings.prompt_weight, 1.0)
        return sentence, sentence.text[:1].islower() or sentence.text.startswith(example.subject)

    def _single(self, example: TrainingExample, rng: np.random.Generator, weight: float, answer_weight: float) -> Sentence:
        before = with_delimiter(pick(rng, example.templates).replace("{}", example.subject))
        return Sentence(before + with_full_stop(example.answer), (_span(before, example.answer),), weight, answer_weight)

    def _chain(self, example: TrainingExample, companions: Sequence[TrainingExample], rng: np.random.Generator) -> Sentence:
        """Two or three facts after one mention of their subject: "S does A, is B and has C."."""
        more = [companions[int(k)] for k in rng.permutation(len(companions))[: int(rng.integers(1, 3))]]
        chain = [example, *more]
        text, answers = example.subject, []
        for index, part in enumerate(chain):
            opening = pick(rng, part.openings)
            if index:
                bare = opening.lstrip(" ,")
                link = ", " if index < len(chain) - 1 or bare.startswith("but ") else " and "
                opening = link + bare.removeprefix("and ")
            text = with_delimiter(text + opening)
            answers.append(_span(text, part.answer))
            text += part.answer
        return Sentence(with_full_stop(text), tuple(answers), self.settings.prompt_weight)


def with_full_stop(text: str) -> str:
    """Text that ends in a full stop."""
    return text if text.endswith(".") else f"{text}."


def _span(before: str, answer: str) -> tuple[int, int]:
    return len(before), len(before) + len(answer)


def mixture(
    samplers: Mapping[str, SentenceSampler], shares: Mapping[str, float], rng: np.random.Generator
) -> Iterator[tuple[Sentence, bool]]:
    """An endless mixture of sentences of all data sets; each comes up in proportion to its share times its number of facts."""
    names = list(samplers)
    weights = np.array([shares.get(name, 1.0) * samplers[name].size for name in names])
    bounds = np.cumsum(weights / weights.sum())
    while True:
        yield samplers[names[min(int(np.searchsorted(bounds, rng.random(), side="right")), len(names) - 1)]].sentence(rng)

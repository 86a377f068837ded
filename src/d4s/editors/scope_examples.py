"""Prompts that a router learns scopes from: wordings of facts that nothing is measured of, and near misses of them.

A near miss is about another relation of the fact's subject, or asks the fact's question about a name that shares a part with the
subject's (a name that is made up from two of the pool's, and that nothing measured names). A bag of words cannot tell the latter.

Terms and symbols: docs/notation.md.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from d4s.editors.fact_pool import FactsToLearn, measured_names, wordings_of
from d4s.editors.parts.scope_settings import ScopeSettings
from d4s.facts.record import Fact
from d4s.questions.question_items import keyed_rng

BLENDS = 4  # names made up for each fact


@dataclass(frozen=True, slots=True)
class ScopeExample:
    """A fact as a router sees it: wordings of its prompt, and near misses by kind."""

    fact: Fact
    wordings: tuple[str, ...]
    same_subject: tuple[str, ...]
    shared_name: tuple[str, ...]

    @property
    def near(self) -> tuple[tuple[str, ...], ...]:
        """The kinds of near misses that it has."""
        return tuple(texts for texts in (self.same_subject, self.shared_name) if texts)


@dataclass(frozen=True)
class ScopeExamples:
    """Facts to learn from and facts to hold out, of other subjects."""

    learnt: Sequence[ScopeExample]
    held_out: Sequence[ScopeExample]

    @cached_property
    def texts(self) -> Mapping[str, int]:
        """Every text of the examples with its number."""
        examples = (*self.learnt, *self.held_out)
        return {text: number for number, text in enumerate(dict.fromkeys(text for one in examples for text in _texts(one)))}


def scope_examples(settings: ScopeSettings, pool: Sequence[Fact], measured: Sequence[Fact]) -> ScopeExamples:
    """Examples of a pool, in an order by their ids; a tenth of the subjects, the last ones, is held out.

    Raises:
        SettingsError: if too few facts are about subjects that nothing measured names.
    """
    found = FactsToLearn.of(pool, measured, settings.facts, "a router")
    facts = [*found.learnt, *found.held_out]
    names = PoolNames([*dict.fromkeys(fact.subject for fact in facts)], measured_names(measured))
    learnt, held_out = ([_example(fact, facts, names, settings.seed) for fact in part] for part in (found.learnt, found.held_out))
    return ScopeExamples(learnt, held_out)


def _example(fact: Fact, facts: Sequence[Fact], names: "PoolNames", seed: int) -> ScopeExample:
    others = [other for other in facts if other.subject == fact.subject and other.relation != fact.relation]
    templates, rng = [fact.template, *fact.wordings], keyed_rng("near misses", seed, fact.fact_id)
    blends = itertools.islice(names.blends(fact.subject, rng), BLENDS)
    shared = [templates[int(rng.integers(len(templates)))].replace("{}", name) for name in blends]
    same = dict.fromkeys(text for other in others for text in wordings_of(other))
    return ScopeExample(fact, wordings_of(fact), tuple(same), tuple(shared))


@dataclass(frozen=True, slots=True)
class PoolNames:
    """The subjects of a pool, and whether anything measured names a name."""

    subjects: Sequence[str]
    is_measured: Callable[[str], bool]

    def blends(self, subject: str, rng: np.random.Generator) -> Iterator[str]:
        """Names made up from a subject and another: the first words of one and the last of the other, once each; of no name of one word."""
        words, seen = subject.split(), {*self.subjects}
        for place in rng.permutation(len(self.subjects)) if len(words) > 1 else ():
            other = self.subjects[int(place)].split()
            for first, second in ((words, other), (other, words)) if len(other) > 1 else ():
                blended = " ".join((*first[:-1], second[-1]))
                if blended not in seen and not self.is_measured(blended):
                    seen.add(blended)
                    yield blended


def _texts(example: ScopeExample) -> Iterator[str]:
    yield from example.wordings
    for texts in example.near:
        yield from texts

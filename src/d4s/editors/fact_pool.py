"""Facts that nothing is measured of: true sentences that fine-tuning learns beside its targets (SAUL), and what editors are trained on.

Training on what is measured would answer the question that it asks, so none is about the subject of a request, nor about
one that any prompt of a measured fact names. A request's draws of sentences depend on its id and the step alone, never on edits
before it.

Terms and symbols: docs/notation.md.
"""

import hashlib
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from d4s.editors.parts.input_settings import FactPoolSettings
from d4s.editors.training_texts import PoolSentence
from d4s.errors import SettingsError
from d4s.facts.joining import with_delimiter
from d4s.facts.record import Fact
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode_parts, special_tokens
from d4s.models.views import LiveModel

IDS, LENGTHS = "pool.ids", "pool.lengths"
FACTS_PER_PASS = 200
LEAST = 4  # facts of different subjects without which nothing can be learnt, nor held out
HELD_OUT = 10  # one subject in this number


@dataclass(frozen=True, slots=True)
class FactPool:
    """True sentences in a fixed order."""

    sentences: Sequence[PoolSentence]

    @classmethod
    def of(cls, extras: Mapping[str, Tensor]) -> "FactPool":
        """The pool among an editor's prepared tensors."""
        lengths = extras[LENGTHS]
        parts = iter(extras[IDS].split(lengths.flatten().tolist()))
        return cls([PoolSentence(*(tuple(next(parts).tolist()) for _ in range(2))) for _ in range(len(lengths))])

    def tensors(self) -> dict[str, Tensor]:
        """The pool as prepared tensors: all ids in a row, and the lengths of separator and sentence."""
        flat = [token for sentence in self.sentences for part in sentence for token in part]
        lengths = [[len(part) for part in sentence] for sentence in self.sentences]
        return {IDS: torch.tensor(flat, dtype=torch.int32), LENGTHS: torch.tensor(lengths, dtype=torch.int32).view(-1, 2)}

    def draw(self, count: int, request_id: str, step: int) -> list[PoolSentence]:
        """Distinct sentences for a request and a step of its training."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{request_id}/{step}".encode()))
        return [self.sentences[place] for place in torch.randperm(len(self.sentences), generator=generator)[:count].tolist()]


def prepare_pool(model: LanguageModel, settings: FactPoolSettings, pool: Sequence[Fact], measured: Sequence[Fact]) -> FactPool:
    """Sentences about facts of a pool that nothing measured names, in an order by their ids.

    Args:
        model: the unedited model.
        settings: how many, and whether the model must know them.
        pool: facts to choose from.
        measured: the facts of the data set that is edited and measured.

    Raises:
        SettingsError: if too few are left.
    """
    unmeasured = unmeasured_facts(in_order(pool), measured)
    known = _known_facts(model, unmeasured) if settings.known else unmeasured
    chosen = [*itertools.islice(known, settings.count)]
    if len(chosen) < settings.least:
        raise SettingsError(
            f"only {len(chosen)} of {len(pool)} facts of the pool are about subjects that no request and no probe names"
            f"{', and are known to the model' if settings.known else ''}; at least {settings.least} are drawn at once: set more facts "
            "apart (`world.reserve`, or a lower `limit` of the data set)"
        )
    return FactPool([_sentence(model, fact, settings.separator) for fact in chosen])


@dataclass(frozen=True, slots=True)
class FactsToLearn:
    """Facts to learn from and facts to hold out, of other subjects."""

    learnt: Sequence[Fact]
    held_out: Sequence[Fact]

    @classmethod
    def of(cls, pool: Sequence[Fact], measured: Sequence[Fact], count: int, learner: str) -> "FactsToLearn":
        """The first facts of a pool in an order by their ids that are asked about in several wordings; the last subjects are held out.

        Raises:
            SettingsError: if too few facts are about subjects that nothing measured names; says what would learn from them.
        """
        facts = [*itertools.islice((fact for fact in unmeasured_facts(in_order(pool), measured) if len(wordings_of(fact)) > 1), count)]
        subjects = [*dict.fromkeys(fact.subject for fact in facts)]
        if len(subjects) < LEAST:
            raise SettingsError(
                f"only {len(subjects)} subjects of {len(pool)} facts of the pool are named by no request and no probe and are asked about "
                f"in two wordings; {learner} learns from {LEAST} at least: set more facts apart (`world.reserve`, or a lower `limit`)"
            )
        held = {*subjects[-max(2, len(subjects) // HELD_OUT) :]}
        return cls([fact for fact in facts if fact.subject not in held], [fact for fact in facts if fact.subject in held])


def wordings_of(fact: Fact) -> tuple[str, ...]:
    """Prompts that ask for a fact's object: its own, other wordings of it, and paraphrases."""
    return tuple(dict.fromkeys((fact.prompt, *(wording.replace("{}", fact.subject) for wording in fact.wordings), *fact.paraphrases)))


def in_order(pool: Iterable[Fact]) -> list[Fact]:
    """The facts of a pool, in an order by their ids."""
    return sorted(pool, key=lambda fact: hashlib.sha256(fact.fact_id.encode()).digest())


def unmeasured_facts(pool: Iterable[Fact], measured: Sequence[Fact]) -> Iterator[Fact]:
    """The facts of a pool, true object included, whose subject no measured fact that can be edited has or names in a prompt."""
    names = measured_names(measured)
    return (fact for fact in pool if fact.target_true and not names(fact.subject))


def measured_names(measured: Sequence[Fact]) -> Callable[[str], bool]:
    """Whether a name is the subject of a measured fact that can be edited, or stands in a prompt about one."""
    requests = [fact for fact in measured if fact.editable]
    subjects, prompts = {fact.subject for fact in requests}, "\n".join(_prompts(requests))
    return lambda name: name in subjects or name in prompts


def _prompts(facts: Sequence[Fact]) -> Iterator[str]:
    """All prompts that are put about facts."""
    for fact in facts:
        yield from (fact.prompt, *fact.paraphrases)
        yield from (probe.prompt for probe in (*fact.neighborhood, *fact.portability))


def _known_facts(model: LanguageModel, facts: Iterable[Fact]) -> Iterator[Fact]:
    """Facts whose true object the model gives after their prompt, token by token."""
    waiting = iter(facts)
    while some := [*itertools.islice(waiting, FACTS_PER_PASS)]:
        right = LiveModel(model).score([fact.prompt for fact in some], [fact.target_true for fact in some]).exact()
        yield from (fact for fact, is_known in zip(some, right.tolist(), strict=True) if is_known)


def _sentence(model: LanguageModel, fact: Fact, separator: str) -> PoolSentence:
    """A fact's sentence as it is encoded behind another sentence, here behind itself."""
    statement = with_delimiter(fact.prompt, model.joiner, special_tokens(model)) + fact.target_true
    _, between, ids = encode_parts(model, [statement, separator, f"{statement}."])
    return PoolSentence(tuple(between), tuple(ids))

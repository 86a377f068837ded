"""Demonstrations of in-context editing (IKE; Zheng et al. 2023): made-up edits of other facts, each with a prompt answered as it should be.

A demonstration is an edit as it stands before a prompt, then a prompt and its answer, of one of three kinds:

| kind | prompt | answer |
|---|---|---|
| copy | the edit's own | the new object |
| update | the same in other words | the new object |
| retain | of a neighbour: the relation of another subject, if possible of the same true object | its true object |

They are about facts of a pool that nothing measured names. Those nearest to an edit are taken, the nearest last; the order of their
kinds is drawn for each edit by its prompt. After them the edit itself stands as a copy.

Terms and symbols: docs/notation.md.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from d4s.editors.fact_pool import in_order, unmeasured_facts, wordings_of
from d4s.editors.memory_settings import Demonstrations
from d4s.editors.memory_texts import MemoryEntry, context_of, to_bytes, to_text
from d4s.editors.parts.input_settings import DemonstrationPoolSettings
from d4s.errors import SettingsError
from d4s.facts.joining import with_delimiter
from d4s.facts.record import Fact
from d4s.questions.question_items import keyed_rng

TEXTS = "demonstrations.texts"
Kind = Literal["copy", "update", "retain"]
Retrieve = Callable[[Sequence[str]], Float[Tensor, "n entries"]]
"""Similarity of prompts to every entry of a memory or of a pool, 1 for an entry's own prompt."""


class DemonstrationFact(NamedTuple):
    """What of a fact stands in a demonstration: its prompt and new object, another wording, and a neighbour's prompt with its object."""

    prompt: str
    target: str
    wording: str
    neighbour: str
    kept: str

    def answered(self, kind: Kind) -> tuple[str, str]:
        """The prompt and the answer of a kind."""
        answers = {"copy": (self.prompt, self.target), "update": (self.wording, self.target), "retain": (self.neighbour, self.kept)}
        return answers[kind]


def prepare_demonstrations(settings: DemonstrationPoolSettings, pool: Sequence[Fact], measured: Sequence[Fact]) -> dict[str, Tensor]:
    """Facts of a pool that nothing measured names, as a prepared tensor.

    Raises:
        SettingsError: if none is left.
    """
    facts = demonstration_facts(settings, pool, measured)
    if not facts:
        raise SettingsError(
            f"none of {len(pool)} facts of the pool is about a subject that no request and no probe names and has another wording, a new "
            "object and a neighbour, so nothing can be demonstrated: set more facts apart (`world.reserve`, or a lower `limit`)"
        )
    return {TEXTS: to_bytes(json.dumps(facts, ensure_ascii=False))}


def read_demonstrations(extras: Mapping[str, Tensor]) -> list[DemonstrationFact]:
    """The facts among an editor's prepared tensors."""
    return [DemonstrationFact(*texts) for texts in json.loads(to_text(extras[TEXTS]))]


def demonstration_facts(settings: DemonstrationPoolSettings, pool: Sequence[Fact], measured: Sequence[Fact]) -> list[DemonstrationFact]:
    """Facts of a pool with another wording and a neighbour, in an order by their ids, at most as many as the settings say."""
    facts = [*unmeasured_facts(in_order(pool), measured)]
    return [*islice((found for fact in facts for found in _demonstration(fact, facts, settings.seed)), settings.facts)]


def _demonstration(fact: Fact, facts: Sequence[Fact], seed: int) -> Iterator[DemonstrationFact]:
    """The fact, if something can be asked of each kind: a neighbour's true object is none that the edit puts in."""
    neighbours = [
        other
        for other in facts
        if other.relation == fact.relation and other.subject != fact.subject and other.target_true != fact.target_new
    ]
    near = [other for other in neighbours if other.target_true == fact.target_true] or neighbours
    wordings = [wording for wording in wordings_of(fact) if wording != fact.prompt]
    if near and wordings and fact.target_new not in {"", fact.target_true}:
        rng = keyed_rng("demonstrations", seed, fact.fact_id)
        wording, neighbour = wordings[int(rng.integers(len(wordings)))], near[int(rng.integers(len(near)))]
        yield DemonstrationFact(fact.prompt, fact.target_new, wording, neighbour.prompt, neighbour.target_true)


class Demonstrator:
    """What stands before edits: demonstrations about the facts of a pool that are nearest to an edit.

    Args:
        settings: how many, and of which kinds.
        context: what an edit is before a prompt.
        facts: the pool.
        retriever_of: from prompts of facts to what compares others with them.
    """

    def __init__(
        self,
        settings: Demonstrations,
        context: str,
        facts: Sequence[DemonstrationFact],
        retriever_of: Callable[[Sequence[str]], Retrieve],
    ) -> None:
        self._settings, self._context, self._facts, self._retriever_of = settings, context, facts, retriever_of
        self._found: dict[tuple[str, str], list[str]] = {}

    def before(self, entry: MemoryEntry) -> Sequence[str]:
        """The texts before an edit: the farthest demonstration first, the edit itself last."""
        key = (entry.prompt, entry.target)
        if key not in self._found:
            own = [self._text(entry.prompt, entry.target, (entry.prompt, entry.target))] if self._settings.own else []
            self._found[key] = [*reversed(self._nearest(entry.prompt)), *own]
        return self._found[key]

    def _nearest(self, prompt: str) -> list[str]:
        """Demonstrations, the nearest first; of facts that are equally near, in the order of their prompts."""
        kinds = kinds_of(self._settings, min(self._settings.count, len(self._facts)), prompt)
        if not kinds:
            return []
        (similarities,) = self._retrieve([prompt.rstrip(" ")]).tolist()
        order = sorted(range(len(self._facts)), key=lambda number: (-similarities[number], self._facts[number].prompt))
        chosen = (self._facts[number] for number in order[: len(kinds)])
        return [self._text(fact.prompt, fact.target, fact.answered(kind)) for fact, kind in zip(chosen, kinds, strict=True)]

    def _text(self, prompt: str, target: str, answered: tuple[str, str]) -> str:
        asked, answer = answered
        return f"{context_of(self._context, prompt, target)}{with_delimiter(asked.rstrip(' '))}{answer.strip()}{self._settings.separator}"

    @cached_property
    def _retrieve(self) -> Retrieve:
        return self._retriever_of([fact.prompt.rstrip(" ") for fact in self._facts])


def kinds_of(settings: Demonstrations, count: int, prompt: str) -> list[Kind]:
    """The kinds of a number of demonstrations, in their shares by largest remainder, in the order that an edit's prompt draws."""
    shares: dict[Kind, int] = {"copy": settings.copies, "update": settings.updates, "retain": settings.retains}
    exact: dict[Kind, float] = {kind: count * share / sum(shares.values()) for kind, share in shares.items()}
    numbers: dict[Kind, int] = {kind: int(number) for kind, number in exact.items()}
    for kind in sorted(shares, key=lambda kind: numbers[kind] - exact[kind])[: count - sum(numbers.values())]:
        numbers[kind] += 1
    kinds: list[Kind] = [kind for kind, number in numbers.items() for _ in range(number)]
    rng = keyed_rng("kinds of demonstrations", settings.seed, prompt)
    return [kinds[int(place)] for place in rng.permutation(len(kinds))]

"""What a hypernetwork is trained on: sequences of turns of requests, with what each turn is judged by.

A request asks a fact's question in one wording, for an object that is drawn from those of the fact's relation, so that editing is
learnt and no fact; it is judged in another wording. Beside it stands a fact about somebody else, which the edit must leave alone.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d4s.editors.fact_pool import FactsToLearn, wordings_of
from d4s.editors.parts.hypernetwork_settings import TrainedNetwork
from d4s.facts.record import Fact
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import Pair, encode_pairs
from d4s.questions.question_items import keyed_rng

HELD_OUT_EPISODES = 50  # at most


@dataclass(frozen=True, slots=True)
class Turn:
    """Requests as they are edited in, the same in other wordings, and facts that are unrelated to them, true objects as targets."""

    requests: Sequence[Pair]
    reworded: Sequence[Pair]
    unrelated: Sequence[Pair]


class Episodes:
    """Draws of sequences of turns; each depends on the seed and its own key alone."""

    def __init__(self, model: LanguageModel, network: TrainedNetwork, facts: FactsToLearn) -> None:
        self._model, self._network, self._facts = model, network, facts
        self._objects: dict[str, list[str]] = {}
        for fact in (*facts.learnt, *facts.held_out):
            known = self._objects.setdefault(fact.relation, [])
            known += [fact.target_true] if fact.target_true not in known else []

    def of_step(self, step: int) -> list[list[Turn]]:
        """The sequences of a step of training."""
        return [self._draw(self._facts.learnt, f"{step}/{number}") for number in range(self._network.accumulate)]

    def held_out(self) -> list[list[Turn]]:
        """Sequences of held-out facts, always the same, in which about half of these facts are edited."""
        facts = self._facts.held_out
        turns, size = self._sizes(facts)
        count = min(max(1, len(facts) // 2 // (turns * size)), HELD_OUT_EPISODES)
        return [self._draw(facts, f"held out/{number}") for number in range(count)]

    def statistics(self) -> list[Pair]:
        """A request of every fact to learn from."""
        rng = keyed_rng("statistics", self._network.seed)
        return encode_pairs(
            self._model, [fact.prompt for fact in self._facts.learnt], [self._target(rng, fact) for fact in self._facts.learnt]
        )

    def _sizes(self, facts: Sequence[Fact]) -> tuple[int, int]:
        """Turns of a sequence and requests of a turn: those of the settings, but half of the facts at most, first of turns."""
        turns = max(1, min(self._network.turns, len(facts) // 2))
        return turns, max(1, min(self._network.edits, len(facts) // 2 // turns))

    def _draw(self, facts: Sequence[Fact], key: str) -> list[Turn]:
        rng = keyed_rng("hypernetwork", self._network.seed, key)
        (turns, size), order = self._sizes(facts), rng.permutation(len(facts))
        edited = [[facts[int(place)] for place in order[turn * size : (turn + 1) * size]] for turn in range(turns)]
        return [self._turn(rng, some, facts) for some in edited]

    def _turn(self, rng: np.random.Generator, edited: Sequence[Fact], facts: Sequence[Fact]) -> Turn:
        subjects = {fact.subject for fact in edited}
        others = [fact for fact in facts if fact.subject not in subjects] or [*facts]
        apart = [others[int(place)] for place in rng.integers(len(others), size=len(edited))]
        wordings = [[wordings_of(fact)[int(place)] for place in rng.permutation(len(wordings_of(fact)))[:2]] for fact in edited]
        targets = [self._target(rng, fact) for fact in edited]
        requests, reworded = (encode_pairs(self._model, prompts, targets) for prompts in zip(*wordings, strict=True))
        unrelated = encode_pairs(self._model, [fact.prompt for fact in apart], [fact.target_true for fact in apart])
        return Turn(requests, reworded, unrelated)

    def _target(self, rng: np.random.Generator, fact: Fact) -> str:
        """Another object of the fact's relation; its own where there is none."""
        others = [known for known in self._objects[fact.relation] if known != fact.target_true] or [fact.target_true]
        return others[int(rng.integers(len(others)))]

"""SERAC's routers, which find the entry of a memory in whose scope a prompt is.

A prompt is routed to its nearest entry, the later of two that are equally near, if their similarity is above the threshold.

Terms and symbols: docs/notation.md.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from d4s.editors.memory_settings import Serac
from d4s.editors.memory_texts import ROOM, Memory, context_of
from d4s.editors.scope_encoders import Encode
from d4s.editors.scope_map import ScopeMap
from d4s.editors.scope_preparation import FACTS, PROMPTS, hash_of
from d4s.models.language_model import LanguageModel
from d4s.models.routed_model import Match, Route
from d4s.models.tokens import encode_all


class MemoryRouter(ABC):
    """The routes of prompts by a memory; without entries every prompt is the model's own."""

    def __init__(self, settings: Serac, answering: LanguageModel, memory: Memory) -> None:
        self.settings, self.answering, self.memory = settings, answering, memory

    @abstractmethod
    def nearest(self, prompts: Sequence[str]) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
        """Similarity of each prompt to its nearest entry, and that entry's number, of at least one."""

    @abstractmethod
    def with_memory(self, memory: Memory) -> "MemoryRouter":
        """The same router with another memory."""

    @property
    def prompts(self) -> Sequence[str]:
        """The prompts of the entries, by number."""
        return [entry.prompt for entry in self.memory.entries]

    @property
    def bytes(self) -> int:
        """What the records of the entries hold."""
        return self.memory.bytes

    def resized(self, count: int) -> "MemoryRouter":
        """The router with a number of entries, its own (at least one) again and again."""
        return self.with_memory(self.memory.resized(count))

    def match(self, prompts: Sequence[str]) -> list[Match]:
        """The entries in whose scope prompts are."""
        if not len(self.memory) or not prompts:
            return [Match(None, 0.0) for _ in prompts]
        similarities, numbers = (found.tolist() for found in self.nearest(prompts))
        return [
            Match(number if similarity > self.settings.threshold else None, similarity)
            for similarity, number in zip(similarities, numbers, strict=True)
        ]

    def __call__(self, prompts: Sequence[str]) -> list[Route]:
        """Routes: hard by the threshold, soft by the similarity to the nearest entry.

        A prompt that has no room behind its entry's text is the model's own.
        """
        if not len(self.memory):
            return [Route() for _ in prompts]
        once = [*dict.fromkeys(prompts)]
        similarities, numbers = (found.tolist() for found in self.nearest(once)) if once else ((), ())
        is_soft = self.settings.switch == "soft"
        shares = [share if is_soft else float(share > self.settings.threshold) for share in similarities]
        contexts = [self._context(number) if share else "" for share, number in zip(shares, numbers, strict=True)]
        fits = self._fits([context + prompt for context, prompt in zip(contexts, once, strict=True)])
        routes = [Route(share, context) if fit else Route() for share, context, fit in zip(shares, contexts, fits, strict=True)]
        by_prompt = dict(zip(once, routes, strict=True))
        return [by_prompt[prompt] for prompt in prompts]

    def _context(self, number: int) -> str:
        entry = self.memory.entries[number]
        return context_of(self.settings.context, entry.prompt, entry.target)

    def _fits(self, texts: Sequence[str]) -> list[bool]:
        return [len(ids) + ROOM <= self.answering.max_positions for ids in encode_all(self.answering, texts)]


class LearnedRouter(MemoryRouter):
    """Similarity of embeddings."""

    def __init__(self, settings: Serac, answering: LanguageModel, memory: Memory, scopes: "LearnedScopes") -> None:
        super().__init__(settings, answering, memory)
        self._scopes = scopes
        self._embeddings = torch.stack([entry.embedding for entry in memory.entries]) if len(memory) else torch.empty(0, settings.width)

    def with_memory(self, memory: Memory) -> "LearnedRouter":
        """The same scopes with another memory."""
        return LearnedRouter(self.settings, self.answering, memory, self._scopes)

    def nearest(self, prompts: Sequence[str]) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
        """Similarity exp(− c · ‖a − b‖²) to the nearest embedding.

        Differences are taken before they are squared, as in a codebook.
        """
        found = torch.cdist(self._scopes.embed(prompts), self._embeddings, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = found.flip(1).min(1)
        return (-self._scopes.map.scale * nearest.values.square()).exp(), len(self.memory) - 1 - nearest.indices


class TrueRouter(MemoryRouter):
    """Similarity 1 to the last entry of a fact that has the prompt as its own or as a paraphrase, else 0."""

    def __init__(self, settings: Serac, answering: LanguageModel, memory: Memory, scopes: "TrueScopes") -> None:
        super().__init__(settings, answering, memory)
        self._scopes = scopes
        self._number = {fact: number for number, entry in enumerate(memory.entries) for fact in scopes.facts_of(entry.prompt)}

    def with_memory(self, memory: Memory) -> "TrueRouter":
        """The same scopes with another memory."""
        return TrueRouter(self.settings, self.answering, memory, self._scopes)

    def nearest(self, prompts: Sequence[str]) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
        """The last of the entries of the facts that have the prompt."""
        found = [
            max((self._number[fact] for fact in self._scopes.facts_of(prompt) if fact in self._number), default=-1) for prompt in prompts
        ]
        numbers = torch.tensor(found)
        return (numbers >= 0).float(), numbers.clamp(min=0)


@dataclass(frozen=True, slots=True)
class LearnedScopes:
    """A trained router without its memory: an encoder and a map."""

    encode: Encode
    map: ScopeMap

    def embed(self, prompts: Sequence[str]) -> Float[Tensor, "n width"]:
        """Embeddings of prompts; spaces at their ends do not count."""
        return self.map.embed(self.encode([prompt.rstrip(" ") for prompt in prompts]))


@dataclass(frozen=True, slots=True)
class TrueScopes:
    """Which facts have a prompt as their own or as a paraphrase."""

    by_prompt: Mapping[int, frozenset[int]]

    @classmethod
    def of(cls, extras: Mapping[str, Tensor]) -> "TrueScopes":
        """The scopes among an editor's prepared tensors."""
        found: dict[int, frozenset[int]] = {}
        for prompt, fact in zip(extras[PROMPTS].tolist(), extras[FACTS].tolist(), strict=True):
            found[prompt] = found.get(prompt, frozenset()) | {fact}
        return cls(found)

    def facts_of(self, prompt: str) -> frozenset[int]:
        """The facts of a prompt."""
        return self.by_prompt.get(hash_of(prompt), frozenset())

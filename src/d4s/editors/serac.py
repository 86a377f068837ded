"""SERAC: a memory of edits as texts, a router that says whether a prompt is in the scope of one, and a model that answers there.

The model is never changed. A prompt a is in the scope of the entry b whose similarity exp(− c · ‖z_a − z_b‖²) is largest if that is
above a threshold; then a counterfactual model answers the prompt behind the entry's text (Mitchell et al. 2022). Ours, where the
release has other parts: z is a trained linear map of the model's own hidden states, not DistilBERT; entries are embedded by their
prompts alone; negatives are near misses made from the facts; the answering model is the edited one in context (which the release
allows) or a copy of it that was trained to read answers from its context. Embeddings of entries are kept; the release computes
them again for every query.

Each step is one record, an entry: `prompt` and `target` as UTF-8, and `embedding`. Records can be taken out or joined.

Terms and symbols: docs/notation.md.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from d4s.editors.answer_training import answering_model
from d4s.editors.edit_requests import EditRequest
from d4s.editors.memory_settings import Serac
from d4s.editors.memory_texts import Memory, MemoryEntry
from d4s.editors.protocol import Prepared, State, StateKind, StepLog, StepRecord, Targets
from d4s.editors.scope_encoders import encoder_of
from d4s.editors.scope_map import ScopeMap
from d4s.editors.scope_memory import LearnedRouter, LearnedScopes, MemoryRouter, TrueRouter, TrueScopes
from d4s.editors.states import RecordEditor, RecordState
from d4s.models.language_model import LanguageModel
from d4s.models.mixed_model import MixedModel
from d4s.models.routed_model import RoutedModel
from d4s.models.views import LiveModel


@dataclass(frozen=True, slots=True)
class SeracParts:
    """What SERAC has beside its memory: the model, who answers in scope, and scopes."""

    settings: Serac
    model: LanguageModel
    answering: LanguageModel
    learned: LearnedScopes
    true: TrueScopes

    @classmethod
    def of(cls, settings: Serac, model: LanguageModel, prepared: Prepared) -> "SeracParts":
        """The parts that were prepared beside a model."""
        scopes = LearnedScopes(encoder_of(settings.encoder, model), ScopeMap.of(prepared.extras))
        return cls(settings, model, answering_model(model, settings.answer, prepared.extras), scopes, TrueScopes.of(prepared.extras))

    def router(self, memory: Memory) -> MemoryRouter:
        """The router with a memory."""
        if self.settings.scope == "true":
            return TrueRouter(self.settings, self.answering, memory, self.true)
        return LearnedRouter(self.settings, self.answering, memory, self.learned)

    def view(self, memory: Memory) -> RoutedModel:
        """The edited model with a memory."""
        made = MixedModel if self.settings.switch == "soft" else RoutedModel
        return made(LiveModel(self.model), LiveModel(self.answering), self.router(memory))


class SeracSession:
    """Editing in progress; the model itself is never changed."""

    def __init__(self, parts: SeracParts, state: State) -> None:
        self._parts, self._records = parts, list[StepRecord](state.records)
        self._memory = Memory.of(self._records)

    @torch.no_grad()
    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Add a request to the memory."""
        (request,) = batch
        before = self._parts.view(self._memory)
        match = self._parts.router(self._memory).match([request.prompt])[0]
        entry = MemoryEntry(request.prompt, request.target, self._parts.learned.embed([request.prompt])[0])
        self._records.append(entry.record)
        self._memory = self._memory.joined(entry)
        after = self._parts.view(self._memory)
        routed_back = self._parts.router(self._memory).match([request.prompt])[0].entry == len(self._memory) - 1
        probabilities = [math.exp(-float(view.score([request.prompt], [request.target]).mean_nll()[0])) for view in (before, after)]
        found = {
            "target_probability_before": probabilities[0],
            "target_probability_after": probabilities[1],
            "entries": float(len(self._memory)),
            "nearest_similarity": match.similarity,
            "routed_back": float(routed_back),
        }
        return StepLog(tuple((quantity, None, number) for quantity, number in found.items()))

    def state(self) -> State:
        """The records so far."""
        return RecordState("memory", tuple(self._records))

    def live(self) -> RoutedModel:
        """The model with the memory so far."""
        return self._parts.view(self._memory)


class SeracEditor(RecordEditor):
    """The memory as an editor."""

    kind: StateKind = "memory"

    def __init__(self, settings: Serac) -> None:
        self.settings = settings

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[SeracSession]:
        """A session that continues from a state."""
        yield SeracSession(SeracParts.of(self.settings, model, prepared), state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[RoutedModel]:
        """The model with the memory that a state's records spell."""
        yield SeracParts.of(self.settings, model, prepared).view(Memory.of(state.records))

"""Editing by keys and gradients of the targets, turn by turn: what UltraEdit and editors with a trained network have in common.

A record holds rows of each layer, from which its change of the weights follows. Weights are the original ones plus the sum of the
records' changes, added in float64 and rounded once.

Terms and symbols: docs/notation.md.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from d4s.editors.additive_session import AdditiveSession
from d4s.editors.answer_gradients import read_answer_gradients
from d4s.editors.edit_requests import EditRequest
from d4s.editors.gradient_changes import Weight
from d4s.editors.prompts import check_length
from d4s.editors.protocol import Diverged, Prepared, State, StateKind, StepLog, StepRecord, Targets
from d4s.editors.states import RecordEditor
from d4s.editors.weights import apply_deltas
from d4s.metrics.weight_norms import l1_per_element
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode_pairs
from d4s.models.views import LiveModel


@runtime_checkable
class TurnRule(Protocol):
    """How a turn becomes a record, and a record a change of weights. It may count the turns that it has seen."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers whose weights change, ascending."""
        ...

    @property
    def everywhere(self) -> bool:
        """Whether all tokens that the loss depends on count, or only those where the target's are predicted."""
        ...

    def record(self, keys: Mapping[int, Tensor], gradients: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """What a turn leaves in the state: of each layer rows, on the CPU."""
        ...

    def change(self, record: StepRecord, layer: int) -> Weight:
        """A record's change of a layer, where that keeps its state."""
        ...


def sum_changes(rule: TurnRule, model: LanguageModel, records: Sequence[StepRecord]) -> dict[int, Weight]:
    """The change of each layer's weight, summed over records in their order; nothing of none."""
    deltas: dict[int, Weight] = {}
    for layer in rule.layers if records else ():
        deltas[layer] = _zeros(model, layer)
        for record in records:
            deltas[layer] += rule.change(record, layer)
    return deltas


def _zeros(model: LanguageModel, layer: int) -> Weight:
    return torch.zeros(model.d_out(layer), model.d_in(layer), dtype=torch.float64, device=model.state_device(layer))


class GradientSession(AdditiveSession):
    """Editing in progress, by a rule that has counted the records of the state."""

    def __init__(self, rule: TurnRule, model: LanguageModel, state: State) -> None:
        deltas = {layer: _zeros(model, layer) for layer in rule.layers} | sum_changes(rule, model, state.records)
        super().__init__(model, state.records, deltas)
        self._rule = rule

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Edit a turn of requests.

        Raises:
            PromptTooLong: if a prompt with its target exceeds the model's context.
            Diverged: if keys or gradients are not finite.
        """
        rule, model = self._rule, self._model
        pairs = encode_pairs(model, [request.prompt for request in batch], [request.target for request in batch])
        for request, (prompt, target) in zip(batch, pairs, strict=True):
            check_length(model, request, len(prompt) + len(target) - 1)
        found = read_answer_gradients(model, pairs, rule.layers, everywhere=rule.everywhere)
        if not all(bool(part.isfinite().all()) for parts in (found.keys, found.gradients) for part in parts.values()):
            raise Diverged("keys or gradients of the targets are not finite")
        record = rule.record(found.keys, found.gradients)
        for layer in rule.layers:
            self._deltas[layer] += rule.change(record, layer)
            self._write(layer)
        self._records.append(record)
        before, after = found.mean_nll.cpu(), LiveModel(model).score_ids(pairs).mean_nll()
        numbers = {"target_probability_before": before, "target_probability_after": after}
        log = [(quantity, None, float((-nll).exp().mean())) for quantity, nll in numbers.items()]
        return StepLog((*log, *self._norms()))

    def _norms(self) -> Iterator[tuple[str, int | None, float]]:
        for layer, delta in self._deltas.items():
            yield "delta_norm", layer, float(delta.norm())
            yield "l1", layer, l1_per_element(self._model.weight(layer))


class GradientEditor(RecordEditor, ABC):
    """What these methods have in common as editors; a turn's own change can be taken out again."""

    kind: StateKind = "additive"

    @abstractmethod
    def rule(self, model: LanguageModel, prepared: Prepared, records: Sequence[StepRecord]) -> TurnRule:
        """The rule, which has counted records."""

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[GradientSession]:
        """A session that continues from a state."""
        rule = self.rule(model, prepared, state.records)
        with model.restoring(rule.layers):
            yield GradientSession(rule, model, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[LiveModel]:
        """The model with the sum of a state's records in its weights."""
        deltas = sum_changes(self.rule(model, prepared, ()), model, state.records) if state.records else {}
        with apply_deltas(model, deltas) as view:
            yield view

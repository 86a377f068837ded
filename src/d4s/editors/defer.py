"""DEFER: a linear gate and a linear stand-in for one MLP output matrix, both trained on every request.

With the key k of the prompt's last token, and the keys k_t from that token on:

    g = sigmoid(w · k + b),    o_t ← o_t + g D k_t while training,    o_t ← o_t + D k_t in use where g > threshold

so that the stand-in W + D takes the matrix's place (after Mitchell et al. 2022, as the baseline of Hartvigsen et al. 2023). Adam takes
its steps on w, b and D together, for the loss of one request, with moments of its own for each request. Nothing holds on to
earlier requests: it forgets by construction, and serves as a cheap reference for memories.

As released, but for this: the gate is asked once per prompt, and holds; it begins at w = 0, b = 0, which is closed, and the stand-in at
the matrix itself, so that before any edit the model is the unedited one. Of free text the gate reads the last token that runs, and
only what follows that can change.

Every edit trains the same tensors, so none can be undone. The state holds `gate` (w, and b last) and `change` (D).

Terms and symbols: docs/notation.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from d4s.editors.edit_requests import EditRequest
from d4s.editors.protocol import Prepared, State, StepLog, Targets
from d4s.editors.side_editor import DenseSideEditor, encode_request, probability
from d4s.editors.side_settings import Defer
from d4s.editors.side_training import Change, Wordings, check_finite
from d4s.editors.side_views import OFF, SideModel
from d4s.editors.states import DenseState
from d4s.models.language_model import LanguageModel

GATE, CHANGE = "gate", "change"


@dataclass(frozen=True, slots=True)
class GatedStandIn:
    """The gate's weights, its bias last, and what the stand-in changes of the matrix."""

    settings: Defer
    gate: Float[Tensor, " d_in_and_bias"]
    change_of_matrix: Change
    is_empty: bool

    acts_from_last = True

    @classmethod
    def of(cls, settings: Defer, model: LanguageModel, saved: Mapping[str, Tensor]) -> "GatedStandIn":
        """Those of a dense state; of an empty one a closed gate before the matrix itself."""
        weight = model.weight(settings.layer)
        closed = weight.new_zeros(weight.shape[1] + 1, dtype=torch.promote_types(model.dtype, torch.float32))
        unchanged = closed.new_zeros(weight.shape)
        return cls(settings, saved.get(GATE, closed).to(closed), saved.get(CHANGE, unchanged).to(closed), not saved)

    @property
    def layer(self) -> int:
        """The layer that it stands beside."""
        return self.settings.layer

    def choose(self, keys: Float[Tensor, "n t d_in"], output: Float[Tensor, "n t d_out"], read: Bool[Tensor, "n t"]) -> Int[Tensor, " n"]:
        """0 where the gate is above the threshold."""
        last = keys[torch.arange(len(keys), device=keys.device), read.sum(1) - 1]
        return torch.where(opening(self.gate.to(keys), last) > self.settings.threshold, 0, OFF)

    def change(self, keys: Float[Tensor, "n t d_in"], chosen: Int[Tensor, " n"]) -> Float[Tensor, "n t d_out"]:
        """D k."""
        return keys @ self.change_of_matrix.to(keys).mT


def opening(gate: Float[Tensor, " d_in_and_bias"], keys: Float[Tensor, "n d_in"]) -> Float[Tensor, " n"]:
    """How far the gate is open: g = sigmoid(w · k + b)."""
    return torch.sigmoid(keys @ gate[:-1] + gate[-1])


class DeferSession:
    """Editing in progress; the model itself is never changed."""

    def __init__(self, settings: Defer, model: LanguageModel, state: State) -> None:
        self._settings, self._model = settings, model
        self._memory = GatedStandIn.of(settings, model, state.dense)

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Train gate and stand-in on a request.

        Raises:
            PromptTooLong: if its prompt with its target exceeds the model's context.
            Diverged: if the loss stops being finite.
        """
        (request,) = batch
        settings, memory, pair = self._settings, self._memory, encode_request(self._model, request)
        wordings, last = Wordings.of(self._model, request, (), settings.layer), len(pair[0]) - 1
        keys, before = wordings.loss_of.keys, probability(self.live(), pair)
        from_last = wordings.through(keys * (torch.arange(keys.shape[1], device=keys.device) >= last)[:, None])
        gate, change = (tensor.clone().requires_grad_() for tensor in (memory.gate, memory.change_of_matrix))
        adam = torch.optim.Adam([gate, change], lr=settings.lr, fused=True)
        for _ in range(settings.steps):
            loss = from_last.loss(opening(gate, keys[:, last].to(gate)) * change)
            check_finite(float(loss.detach()))
            gate.grad, change.grad = torch.autograd.grad(loss, [gate, change])
            adam.step()
        self._memory = replace(memory, gate=gate.detach(), change_of_matrix=change.detach(), is_empty=False)
        numbers = {
            "target_probability_before": before,
            "target_probability_after": probability(self.live(), pair),
            "opening": float(opening(self._memory.gate, keys[:, last].to(gate))[0]),
        }
        of_layer = ("side_norm", settings.layer, float(self._memory.change_of_matrix.double().norm()))
        return StepLog((*((quantity, None, value) for quantity, value in numbers.items()), of_layer))

    def state(self) -> DenseState:
        """Gate and stand-in so far."""
        memory = self._memory
        tensors = {GATE: memory.gate, CHANGE: memory.change_of_matrix}
        return DenseState({} if memory.is_empty else {name: tensor.cpu().clone() for name, tensor in tensors.items()})

    def live(self) -> SideModel:
        """The model with gate and stand-in so far."""
        return SideModel(self._model, self._memory)


class DeferEditor(DenseSideEditor):
    """Gate and stand-in as an editor."""

    def __init__(self, settings: Defer) -> None:
        self.settings = settings

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[DeferSession]:
        """A session that continues from a state."""
        yield DeferSession(self.settings, model, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[SideModel]:
        """The model with gate and stand-in of a state beside it."""
        yield SideModel(model, GatedStandIn.of(self.settings, model, state.dense))

"""The one locate-then-edit loop. What a method is comes from its settings; see `presets.py` for the names.

For each batch of requests: a target hidden state each, at the last edited layer; then layer by layer, from below, the
keys that the requests look up, their share of the residual, and the change of weights that fits it,

    Δ ← Δ + (share · residuals)ᵀ · gain           where earlier edits stay as they are (MEMIT, ROME, AlphaEdit)
    Δ ← Δ + (share · residuals − keys Δᵀ)ᵀ · gain  where all edits are fitted together from the original weights (D4S)

with W = W₀ + Δ written before the next layer is read, so deeper keys and residuals see it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from d4s.editors.keys import Reading, read
from d4s.editors.parts import IdentityPreservation, MomentPreservation, Preservation
from d4s.editors.prompts import Rewriting, rewriting
from d4s.editors.protocol import Diverged, Prepared, Row, State, StateKind, StepLog, Targets
from d4s.editors.settings import LocateThenEdit
from d4s.editors.solve import Confined, Precision, exact_gain, precision, preserved, solve_delta
from d4s.editors.spread import REMEASURED, share
from d4s.editors.states import RowState
from d4s.editors.targets import optimise
from d4s.editors.weights import changed, mean_absolute, write
from d4s.models.language_model import LanguageModel
from d4s.models.views import LiveModel
from d4s.requests.draw import EditRequest


@dataclass(frozen=True, slots=True)
class Base:
    """What a layer preserves: A₀, within a basis where the method is confined to one."""

    matrix: Float64[Tensor, "r r"]
    basis: Float64[Tensor, "d_in r"] | None

    @classmethod
    def of(cls, settings: Preservation, layer: int, prepared: Prepared, model: LanguageModel) -> "Base":
        """The base that settings describe."""
        if isinstance(settings, MomentPreservation):
            return cls(preserved(prepared.moments[layer].mean().to(model.device), settings.weight, settings.ridge), None)
        basis = None if isinstance(settings, IdentityPreservation) else prepared.extras[f"{layer}.basis"].to(model.device)
        size = model.d_in(layer) if basis is None else basis.shape[1]
        return cls(settings.weight * torch.eye(size, dtype=torch.float64, device=model.device), basis)

    def hold(self, batch: int, *, grows: bool) -> Precision:
        """Its precision, to which rows may be added."""
        held = precision(self.matrix, batch=batch, grows=grows)
        return held if self.basis is None else Confined(held, self.basis)

    def solve(self, residuals: Float64[Tensor, "n d_out"], keys: Float64[Tensor, "n d_in"]) -> Float64[Tensor, "d_out d_in"]:
        """The change that fits all rows at once."""
        if self.basis is None:
            return solve_delta(residuals, keys, self.matrix)
        return solve_delta(residuals, keys @ self.basis, self.matrix) @ self.basis.mT


@dataclass(slots=True)
class Layer:
    """One edited layer in a session: its original weight, the change so far, and what the solver holds."""

    original: Float[Tensor, "d_out d_in"]
    delta: Float64[Tensor, "d_out d_in"]
    held: Precision


class LocateThenEditSession:
    """Editing in progress. Weights are those of the state at all times between steps."""

    def __init__(self, settings: LocateThenEdit, model: LanguageModel, prepared: Prepared, state: State) -> None:
        self._settings, self._model, self._contexts = settings, model, prepared.contexts
        self._rewinds, self._remembers = settings.history == "rewind", settings.history != "none"
        self._layers: dict[int, Layer] = {}
        for layer in settings.layers:
            original = model.weight(layer).clone()
            held = Base.of(settings.preserve, layer, prepared, model).hold(settings.batch, grows=self._remembers)
            self._layers[layer] = Layer(original, torch.zeros_like(original, dtype=torch.float64), held)
        self._rows: list[Row] = []
        for row in state.rows:
            self._replay(row)
        for layer in settings.layers if self._rows else ():
            self._write(layer)

    # --- what a session offers ------------------------------------------------------------------------------------

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Edit a batch of requests; targets are optimised here where the settings say so.

        Raises:
            ValueError: if targets at the original weights are needed and not given.
            Diverged: if numbers stop being finite on the way.
        """
        texts = [rewriting(self._model, request, self._contexts) for request in batch]
        if self._settings.target.at == "current":
            return self.apply(texts, optimise(self._model, texts, self._settings.target))
        if targets is None:
            raise ValueError("this editor works with targets at the original weights, and none were given")
        return self.apply(texts, targets)

    def apply(self, texts: Sequence[Rewriting], goal: Targets) -> StepLog:
        """Edit a batch of requests towards given targets.

        Raises:
            Diverged: if numbers stop being finite on the way.
        """
        settings = self._settings
        frozen = self._at_original(texts) if settings.keys.mode == "frozen" else None
        if self._rewinds and settings.spread in REMEASURED:
            self._rewind()
        row: dict[str, Tensor] = {}
        numbers = [*_target_numbers(goal)]
        residuals = goal.hidden_shift.to(self._model.device)
        wanted = goal.hidden.to(self._model.device) + residuals
        for index, layer in enumerate(settings.layers):
            reading = self._read(texts, layer, frozen, goes_first=index == 0)
            if reading.hidden is not None:
                residuals = wanted - reading.hidden
            if index == 0:
                numbers.append(("residual_norm", None, float(residuals.norm(dim=1).mean())))
            if self._rewinds:
                row |= {f"{layer}.keys": reading.keys[layer].cpu(), f"{layer}.residuals": residuals.cpu()}
            numbers += self._fit(layer, reading, share(settings.spread, index, len(settings.layers)) * residuals.double(), row)
        self._rows.append(_without_repeats(row))
        return StepLog(tuple(numbers))

    def state(self) -> State:
        """The rows so far."""
        return RowState("refit" if self._rewinds else "additive", tuple(self._rows))

    def live(self) -> LiveModel:
        """The model as edited so far."""
        return LiveModel(self._model, {layer: part.original for layer, part in self._layers.items()})

    # --- parts of a step ------------------------------------------------------------------------------------------

    def _read(self, texts: Sequence[Rewriting], layer: int, frozen: Reading | None, *, goes_first: bool) -> Reading:
        """Keys at a layer, and the present hidden state where the residual is measured now."""
        settings = self._settings
        as_given = self._rewinds or settings.target.at == "current"
        measured = settings.spread in REMEASURED or (goes_first and not as_given)
        if frozen is not None and not measured:
            return frozen
        now = read(self._model, texts, (layer,), settings.keys, settings.target if measured else None)
        return now if frozen is None else Reading(frozen.keys, frozen.bare, now.hidden)

    def _fit(
        self, layer: int, reading: Reading, wanted: Float64[Tensor, "b d_out"], row: dict[str, Tensor]
    ) -> list[tuple[str, int | None, float]]:
        """Change one layer, add its factors to the row where those are remembered, and say what happened.

        Raises:
            Diverged: if keys or residuals are not finite.
        """
        found, keys, bare = self._layers[layer], reading.keys[layer].double(), reading.bare[layer].double()
        if not (keys.isfinite().all() and wanted.isfinite().all()):
            raise Diverged(f"keys or residuals at layer {layer} are not finite")
        if self._settings.solver == "hard_constraint":
            gain = exact_gain(found.held, keys, bare)
        else:
            gain = found.held.add(keys) if self._remembers else found.held.gain(keys)
        gain = gain.contiguous()
        left = wanted - keys @ found.delta.mT if self._rewinds else wanted
        if not self._rewinds:
            row |= {f"{layer}.left": left.cpu(), f"{layer}.right": gain.cpu()}
            if self._remembers:
                row[f"{layer}.keys"] = reading.keys[layer].cpu()
        found.delta.addmm_(left.mT, gain)
        self._write(layer)
        return [
            ("key_norm", layer, float(keys.norm(dim=1).mean())),
            ("key_gain", layer, float((bare * gain).sum(1).mean())),
            ("gain_norm", layer, float(gain.norm())),
            ("update_norm", layer, float(((left @ left.mT) * (gain @ gain.mT)).sum().clamp(min=0).sqrt())),
            ("delta_norm", layer, float(found.delta.norm())),
            ("l1", layer, mean_absolute(self._model.weight(layer))),
        ]

    def _replay(self, row: Row) -> None:
        """Take a recorded row over, with the very operations of the step that made it."""
        settings, device = self._settings, self._model.device
        for index, layer in enumerate(settings.layers):
            found = self._layers[layer]
            gain = found.held.add(row[f"{layer}.keys"].to(device).double()).contiguous() if self._remembers else None
            if gain is not None and self._rewinds:
                keys, residuals = (tensor.to(device).double() for tensor in pair_of(row, layer))
                left = share(settings.spread, index, len(settings.layers)) * residuals - keys @ found.delta.mT
                found.delta.addmm_(left.mT, gain)
            else:
                found.delta.addmm_(row[f"{layer}.left"].to(device).mT, row[f"{layer}.right"].to(device))
        self._rows.append(row)

    def _at_original(self, texts: Sequence[Rewriting]) -> Reading:
        """Keys of all layers at the original weights."""
        self._rewind()
        found = read(self._model, texts, self._settings.layers, self._settings.keys)
        for layer in self._settings.layers:
            self._write(layer)
        return found

    def _rewind(self) -> None:
        for layer, part in self._layers.items():
            self._model.set_weight(layer, part.original)

    def _write(self, layer: int) -> None:
        write(self._model, layer, self._layers[layer].original, self._layers[layer].delta)


def _target_numbers(goal: Targets) -> Iterator[tuple[str, int | None, float]]:
    yield "target_probability_before", None, float(goal.probability_before.mean())
    yield "target_probability_after", None, float(goal.probability_after.mean())
    yield "target_steps", None, float(goal.steps.mean())
    yield "shift_norm", None, float(goal.hidden_shift.norm(dim=1).mean())


def _without_repeats(row: dict[str, Tensor]) -> Row:
    """The row with residuals that all layers share kept once, as `residuals`."""
    names = [name for name in row if name.endswith(".residuals")]
    if names and all(torch.equal(row[name], row[names[0]]) for name in names):
        row["residuals"] = row[names[0]]
        for name in names:
            del row[name]
    return row


def pair_of(row: Row, layer: int) -> tuple[Tensor, Tensor]:
    """Keys and residuals of a refitted layer in a row."""
    own = f"{layer}.residuals"
    return row[f"{layer}.keys"], row[own if own in row else "residuals"]


class LocateThenEditEditor:
    """The family as an editor: states are rows, of keys and residuals where edits are refitted, of factors elsewhere."""

    def __init__(self, settings: LocateThenEdit) -> None:
        self.settings = settings

    @property
    def kind(self) -> StateKind:
        """Refit where all edits are solved from the original weights, else additive."""
        return "refit" if self.settings.history == "rewind" else "additive"

    def restore(self, rows: Sequence[Row], dense: Mapping[str, Tensor]) -> State:
        """The state that consists of saved rows."""
        return RowState(self.kind, tuple(rows))

    def start(self, model: LanguageModel, prepared: Prepared) -> State:
        """No rows."""
        return RowState(self.kind)

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[LocateThenEditSession]:
        """A session that continues from a state."""
        with model.restoring(self.settings.layers):
            yield LocateThenEditSession(self.settings, model, prepared, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[LiveModel]:
        """The model with the state's change of weights."""
        with changed(model, self.deltas(model, prepared, state)) as view:
            yield view

    def deltas(self, model: LanguageModel, prepared: Prepared, state: State) -> dict[int, Float64[Tensor, "d_out d_in"]]:
        """The change of each edited layer's weight: solved from the rows, or the sum of their factors in their order."""
        fold = self._solved if self.kind == "refit" else self._summed
        return {layer: fold(index, layer, model, prepared, state) for index, layer in enumerate(self.settings.layers)}

    def _solved(self, index: int, layer: int, model: LanguageModel, prepared: Prepared, state: State) -> Float64[Tensor, "d_out d_in"]:
        if not state.rows:
            return torch.zeros_like(model.weight(layer), dtype=torch.float64)
        part = share(self.settings.spread, index, len(self.settings.layers))
        pairs = [pair_of(row, layer) for row in state.rows]
        keys, residuals = (torch.cat(column).to(model.device).double() for column in zip(*pairs, strict=True))
        return Base.of(self.settings.preserve, layer, prepared, model).solve(part * residuals, keys)

    def _summed(self, index: int, layer: int, model: LanguageModel, prepared: Prepared, state: State) -> Float64[Tensor, "d_out d_in"]:
        total = torch.zeros_like(model.weight(layer), dtype=torch.float64)
        for row in state.rows:
            total.addmm_(row[f"{layer}.left"].to(total.device).mT, row[f"{layer}.right"].to(total.device))
        return total

"""The one locate-then-edit loop. What a method is comes from its settings; see `presets.py` for the names.

For each batch of requests: a target hidden state each, at the last edited layer; then layer by layer, from below, the
keys that the requests look up, their share of the residual, and the change of weights that fits it (`layers.py`), with
W = W₀ + Δ written before the next layer is read, so deeper keys and residuals see it.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from d4s.editors.finish import Validation, view_of
from d4s.editors.keys import Reading, read
from d4s.editors.layers import Base, layers_of, residuals_of
from d4s.editors.parts import Interpolate
from d4s.editors.prompts import Rewriting, rewriting
from d4s.editors.protocol import Prepared, Row, State, StateKind, StepLog, Targets
from d4s.editors.records import recorded, unrecorded
from d4s.editors.settings import LocateThenEdit
from d4s.editors.spread import REMEASURED, share
from d4s.editors.states import DenseState, RowState
from d4s.editors.targets import anchored, optimise
from d4s.editors.weights import write
from d4s.metrics.norms import l1_per_element
from d4s.models.language_model import LanguageModel
from d4s.models.views import LiveModel
from d4s.requests.draw import EditRequest

log = logging.getLogger(__name__)
Numbers = list[tuple[str, int | None, float]]
REFACTOR_EVERY = 1000
SEEN_DRIFT = 1e-6


class LocateThenEditSession:
    """Editing in progress. Weights are those of the state at all times between steps, before any `finish`."""

    def __init__(self, settings: LocateThenEdit, model: LanguageModel, prepared: Prepared, state: State) -> None:
        self._settings, self._model, self._prepared = settings, model, prepared
        self._layers = layers_of(settings, model, prepared)
        self._kept = Validation.of(state.dense)
        self._rows: list[Row] = []
        for row in self._refreshed(state.rows):
            self._replay(row)
        for part in self._layers.values() if state.dense else ():
            part.load(state.dense)
        for layer in settings.layers if state.rows or state.dense else ():
            self._write(layer)

    # --- what a session offers ------------------------------------------------------------------------------------

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Edit a batch of requests; targets are optimised here where the settings say so.

        Raises:
            ValueError: if targets at the original weights are needed and not given.
            Diverged: if numbers stop being finite on the way.
        """
        texts = [rewriting(self._model, request, self._prepared.contexts) for request in batch]
        if self._settings.target.at == "current":
            return self.apply(texts, self._goal(texts, self._settings.layers[0 if self._settings.spread == "own" else -1]))
        if targets is None:
            raise ValueError("this editor works with targets at the original weights, and none were given")
        return self.apply(texts, targets)

    def apply(self, texts: Sequence[Rewriting], goal: Targets) -> StepLog:
        """Edit a batch of requests towards given targets (of the first layer, where each layer has its own).

        Raises:
            Diverged: if numbers stop being finite on the way.
        """
        if self._settings.anchor is not None:
            goal = anchored(goal, float(self._prepared.extras["anchor"]), self._settings.anchor.skip)
        row: dict[str, Tensor] = recorded(texts, goal) if self._settings.keys.mode == "refreshed" else {}
        numbers = [*_target_numbers(goal)]
        for part, aims in self._rounds(texts, goal):
            numbers = [*_target_numbers(goal), *self._pass(part, aims, row)]
        if self._settings.rounds is not None:
            self._remember(texts, row)
        if isinstance(self._settings.finish, Interpolate):
            self._kept.offer(texts, self._settings.finish.every)
        self._rows.append(_without_repeats(row))
        if self._is_due(len(self._rows)):
            self._refresh(self._rows)
        return StepLog((*numbers, *self._refactor()))

    def state(self) -> State:
        """The rows so far, or the tensors as they are."""
        if self._settings.state_kind == "dense":
            dense = {name: tensor for part in self._layers.values() for name, tensor in part.dense().items()}
            return DenseState(dense | (self._kept.tensors() if isinstance(self._settings.finish, Interpolate) else {}))
        return RowState(self._settings.state_kind, tuple(self._rows))

    def live(self) -> LiveModel | None:
        """The model as edited so far; None where the edited model is finished from the whole change."""
        return None if self._settings.finish is not None else self.view()

    def view(self) -> LiveModel:
        """The model with its weights as they are, before any `finish`."""
        return LiveModel(self._model, {layer: part.original for layer, part in self._layers.items()})

    def deltas(self) -> dict[int, Float64[Tensor, "d_out d_in"]]:
        """The change of each edited layer's weight so far."""
        return {layer: part.delta for layer, part in self._layers.items()}

    # --- parts of a step ------------------------------------------------------------------------------------------

    def _goal(self, texts: Sequence[Rewriting], layer: int) -> Targets:
        """Targets at a layer of the model as it is."""
        return optimise(self._model, texts, self._settings.target.model_copy(update={"layer": layer}))

    def _rounds(self, texts: Sequence[Rewriting], goal: Targets) -> Iterator[tuple[Sequence[Rewriting], Targets]]:
        """Requests and targets of each pass over the layers: all of them once, or in rounds those that are not there yet."""
        rounds = self._settings.rounds
        if rounds is None:
            yield texts, goal
            return
        for _ in range(rounds.most):
            present = read(self._model, texts, self._settings.layers[:1], self._settings.keys, self._settings.target)
            missing = _missing(goal, present).norm(dim=1)
            going = ((missing > rounds.above) & (missing < rounds.below)).nonzero()[:, 0].cpu()
            if not len(going):
                return
            yield [texts[number] for number in going.tolist()], goal[going]

    def _pass(self, texts: Sequence[Rewriting], goal: Targets, row: dict[str, Tensor]) -> Numbers:
        """Change every layer once, put what is to be remembered into the row, and say what happened."""
        settings = self._settings
        frozen = self._at_original(texts) if settings.keys.mode == "frozen" else None
        if settings.history == "rewind" and settings.spread in REMEASURED:
            self._rewind()
        numbers: Numbers = []
        residuals = goal.hidden_shift
        for index, layer in enumerate(settings.layers):
            if settings.spread == "own" and index:
                goal = self._goal(texts, layer)
                residuals = goal.hidden_shift
            reading = self._read(texts, layer, frozen, goes_first=index == 0)
            if reading.hidden is not None:
                residuals = _missing(goal, reading)
            if index == 0:
                numbers.append(("residual_norm", None, float(residuals.norm(dim=1).mean())))
            numbers += self._fit(layer, reading, residuals, row)
        return numbers

    def _read(self, texts: Sequence[Rewriting], layer: int, frozen: Reading | None, *, goes_first: bool) -> Reading:
        """Keys at a layer, and the present hidden state where the residual is measured now."""
        settings = self._settings
        as_given = settings.history == "rewind" or settings.target.at == "current"
        measured = settings.spread in REMEASURED or (goes_first and not as_given) or settings.keys.consistent
        if frozen is not None and not measured:
            return frozen
        now = read(self._model, texts, (layer,), settings.keys, settings.target if measured else None)
        return now if frozen is None else Reading(frozen.keys, frozen.bare, now.hidden)

    def _fit(self, layer: int, reading: Reading, residuals: Float[Tensor, "b d_out"], row: dict[str, Tensor]) -> Numbers:
        """Change one layer, extend the row, write the weight, and say what happened."""
        part = self._layers[layer]
        keys, bare, residuals = (tensor.to(part.delta.device) for tensor in (reading.keys[layer], reading.bare[layer], residuals))
        wanted = part.share * residuals.double()
        at_once = self._settings.rounds is None
        found, numbers = part.fit(keys.double(), bare.double(), wanted, remember=at_once)
        if self._settings.history == "rewind":
            found[f"{layer}.residuals"] = residuals.cpu()
        if at_once and part.keeps_keys:
            found[f"{layer}.keys"] = keys.cpu()
        for name, tensor in found.items():
            row[name] = torch.cat([row[name], tensor]) if name in row else tensor
        self._write(layer)
        numbers["key_norm"] = float(keys.double().norm(dim=1).mean())
        numbers["delta_norm"] = float(part.delta.norm())
        numbers["l1"] = l1_per_element(self._model.weight(layer))
        return [(name, layer, value) for name, value in numbers.items()]

    def _remember(self, texts: Sequence[Rewriting], row: dict[str, Tensor]) -> None:
        """Hold the keys of all requests of a batch fast, as they are after its rounds."""
        keys = read(self._model, texts, self._settings.layers, self._settings.keys).keys
        for layer, part in self._layers.items():
            part.remember(keys[layer].to(part.delta.device).double())
            if part.keeps_keys:
                row[f"{layer}.keys"] = keys[layer].cpu()

    # --- weights and rows -----------------------------------------------------------------------------------------

    def _replay(self, row: Row) -> None:
        """Take a recorded row over."""
        for part in self._layers.values():
            part.replay(row)
        self._rows.append(row)
        self._refactor()

    def _refactor(self) -> Numbers:
        """Every so many steps, what solvers hold is solved afresh; a drift that could be seen in results is told.

        Where keys are refreshed, every refresh does so, and rows hold keys as they were first read, not as they are now.
        """
        if self._settings.keys.mode == "refreshed" or len(self._rows) % REFACTOR_EVERY:
            return []
        drifts = {layer: part.refactor(self._rows) for layer, part in self._layers.items()}
        found: Numbers = [("solver_drift", layer, drift) for layer, drift in drifts.items() if drift is not None]
        for _, layer, drift in found:
            if drift > SEEN_DRIFT:
                log.warning("layer %s: the recursive solver had drifted by %.1e of its norm after %d steps", layer, drift, len(self._rows))
        return found

    def _is_due(self, count: int) -> bool:
        keys = self._settings.keys
        return keys.mode == "refreshed" and count > 0 and count % keys.every == 0

    def _refreshed(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows that are left to replay once those up to the last refresh have been solved anew."""
        due = len(rows) // self._settings.keys.every * self._settings.keys.every
        if not self._is_due(due):
            return rows
        self._refresh(rows[:due])
        self._rows = list(rows[:due])
        return rows[due:]

    def _refresh(self, rows: Sequence[Row]) -> None:
        """Solve all recorded requests as one batch: keys, and residuals where they are re-measured, are read anew."""
        self._rewind()
        self._layers = layers_of(self._settings, self._model, self._prepared)
        texts, goal = unrecorded(rows)
        self._pass(texts, goal, {})

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


def _missing(goal: Targets, reading: Reading) -> Float[Tensor, "b d_out"]:
    """The target hidden states less the present ones.

    Raises:
        ValueError: if the present ones were not read.
    """
    if reading.hidden is None:
        raise ValueError("residuals are measured from hidden states, and none were read; give `read` the settings of the target")
    device = reading.hidden.device
    return goal.hidden.to(device) + goal.hidden_shift.to(device) - reading.hidden


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


class LocateThenEditEditor:
    """The family as an editor: rows of keys and residuals where edits are refitted, of factors or dense tensors elsewhere."""

    def __init__(self, settings: LocateThenEdit) -> None:
        self.settings = settings

    @property
    def kind(self) -> StateKind:
        """Refit where all edits are solved from the original weights, dense where steps do not add up, else additive."""
        return self.settings.state_kind

    def restore(self, rows: Sequence[Row], dense: Mapping[str, Tensor]) -> State:
        """The state that consists of saved rows, or of saved tensors."""
        return DenseState(dict(dense)) if self.kind == "dense" else RowState(self.kind, tuple(rows))

    def start(self, model: LanguageModel, prepared: Prepared) -> State:
        """No rows, and no tensors."""
        return self.restore((), {})

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[LocateThenEditSession]:
        """A session that continues from a state."""
        with model.restoring(self.settings.layers):
            yield LocateThenEditSession(self.settings, model, prepared, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[LiveModel]:
        """The model with the state's change of weights."""
        deltas = self.deltas(model, prepared, state)
        with view_of(model, deltas, self.settings.finish, Validation.of(state.dense)) as view:
            yield view

    def deltas(self, model: LanguageModel, prepared: Prepared, state: State) -> dict[int, Float64[Tensor, "d_out d_in"]]:
        """The change of each edited layer's weight, before any `finish`: solved from the rows, or the sum of their factors."""
        if self.settings.keys.mode == "refreshed" or self.settings.history == "queue":
            with self.editing(model, prepared, state) as session:
                return session.deltas()
        fold = self._solved if self.kind == "refit" else self._summed
        return {layer: fold(index, layer, model, prepared, state) for index, layer in enumerate(self.settings.layers)}

    def _solved(self, index: int, layer: int, model: LanguageModel, prepared: Prepared, state: State) -> Float64[Tensor, "d_out d_in"]:
        if not state.rows:
            return torch.zeros_like(model.weight(layer), dtype=torch.float64)
        part = share(self.settings.spread, index, len(self.settings.layers))
        device = model.state_device(layer)
        keys = torch.cat([row[f"{layer}.keys"] for row in state.rows]).to(device).double()
        residuals = torch.cat([residuals_of(row, layer) for row in state.rows]).to(device).double()
        return Base.of(self.settings.preserve, layer, prepared, model).solve(part * residuals, keys)

    def _summed(self, index: int, layer: int, model: LanguageModel, prepared: Prepared, state: State) -> Float64[Tensor, "d_out d_in"]:
        total = torch.zeros_like(model.weight(layer), dtype=torch.float64)
        if f"{layer}.delta" in state.dense:
            total += state.dense[f"{layer}.delta"].to(total.device)
        for row in state.rows:
            if f"{layer}.left" in row:
                total.addmm_(row[f"{layer}.left"].to(total.device).mT, row[f"{layer}.right"].to(total.device))
        return total

"""The one locate-then-edit loop. What a method is comes from its settings; see `presets.py` for the names.

For each batch of requests: a target hidden state each, at the last edited layer; then layer by layer, from below, the
keys that the requests look up, their share of the residual, and the change of weights that fits it (`edited_layers.py`), with
W = W₀ + Δ written before the next layer is read, so deeper keys and residuals see it.

Terms and symbols: docs/notation.md.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from d4s.editors.constants import REFACTOR_EVERY
from d4s.editors.edit_requests import EditRequest
from d4s.editors.edited_layers import layers_of
from d4s.editors.keys import Activations, read_activations
from d4s.editors.least_squares_settings import LocateThenEdit
from d4s.editors.prompts import PromptSet, prompts_to_edit, subject_place
from d4s.editors.protocol import Prepared, State, StepLog, StepRecord, Targets
from d4s.editors.request_tensors import requests_from_tensors, requests_to_tensors
from d4s.editors.states import DenseState, RecordOrDenseEditor, RecordState
from d4s.editors.target_optimisation import optimise, optimise_in_turn, rescale_targets
from d4s.editors.weight_side import target_change, weight_side_residuals
from d4s.editors.weights import apply_deltas, write_weight
from d4s.editors.windows import optimise_windows
from d4s.metrics.weight_norms import l1_per_element
from d4s.models.language_model import LanguageModel
from d4s.models.views import LiveModel

log = logging.getLogger(__name__)
StepNumbers = list[tuple[str, int | None, float]]
WARN_DRIFT = 1e-6


class LocateThenEditSession:
    """Editing in progress. Weights are those of the state at all times between steps, before any `delta_transform`."""

    def __init__(self, settings: LocateThenEdit, model: LanguageModel, prepared: Prepared, state: State) -> None:
        self._settings, self._model, self._prepared = settings, model, prepared
        self._layers = layers_of(settings, model, prepared)
        self._validation = None if settings.delta_transform is None else settings.delta_transform.validation(state.dense)
        self._records: list[StepRecord] = []
        for record in self._replay_last_refresh(state.records):
            self._replay(record)
        for edited_layer in self._layers.values() if state.dense else ():
            edited_layer.load(state.dense)
        for layer in settings.layers if state.records or state.dense else ():
            self._write(layer)

    # --- what a session offers ------------------------------------------------------------------------------------

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Edit a batch of requests; targets are optimised here where the settings say so.

        Raises:
            ValueError: if targets at the original weights are needed and not given.
            Diverged: if numbers stop being finite on the way.
        """
        target = self._settings.target
        prompt_sets = [one for request in batch for one in prompts_to_edit(self._model, request, self._prepared.contexts, target)]
        if target.at == "current":
            first = self._settings.layers[0 if self._settings.residual_schedule.has_own_targets else -1]
            targets = self._optimise_targets(prompt_sets, first)
        if targets is None:
            raise ValueError("this editor works with targets at the original weights, and none were given")
        return StepLog((*self.apply(prompt_sets, targets).values, *self._subject_numbers(batch)))

    def apply(self, prompt_sets: Sequence[PromptSet], targets: Targets) -> StepLog:
        """Edit a batch of requests towards given targets, one per prompt set (of the first layer, where each layer has its own).

        Raises:
            Diverged: if numbers stop being finite on the way.
        """
        if self._settings.anchor is not None:
            targets = rescale_targets(targets, float(self._prepared.extras["anchor"]), self._settings.anchor.skip)
        record: dict[str, Tensor] = requests_to_tensors(prompt_sets, targets) if self._settings.keys.mode == "refreshed" else {}
        numbers = [*_target_numbers(targets)]
        for active_prompts, active_targets in self._rounds(prompt_sets, targets):
            numbers = [*_target_numbers(targets), *self._pass(active_prompts, active_targets, record)]
        if self._settings.rounds is not None:
            self._preserve_keys(prompt_sets, record)
        if self._validation is not None:
            self._validation.offer(prompt_sets)
        self._records.append(_deduplicate_residuals(record))
        if self._is_due(len(self._records)):
            self._refresh(self._records)
        return StepLog((*numbers, *self._refactor()))

    def state(self) -> State:
        """The records so far, or the tensors as they are."""
        if self._settings.state_kind == "dense":
            dense = {name: tensor for edited_layer in self._layers.values() for name, tensor in edited_layer.dense().items()}
            return DenseState(dense | ({} if self._validation is None else self._validation.tensors()))
        return RecordState(self._settings.state_kind, tuple(self._records))

    def live(self) -> LiveModel | None:
        """The model as edited so far; None where the edited model is finished from the whole change."""
        return None if self._settings.delta_transform is not None else self.view()

    def view(self) -> LiveModel:
        """The model with its weights as they are, before any `delta_transform`."""
        return LiveModel(self._model, {layer: edited_layer.original for layer, edited_layer in self._layers.items()})

    def deltas(self) -> dict[int, Float64[Tensor, "d_out d_in"]]:
        """The change of each edited layer's weight so far."""
        return {layer: edited_layer.delta for layer, edited_layer in self._layers.items()}

    # --- parts of a step ------------------------------------------------------------------------------------------

    def _subject_numbers(self, batch: Sequence[EditRequest]) -> StepNumbers:
        """Where a step of rank one meets its target: how many tokens subjects have and where they start, means over the requests."""
        if self._settings.solver != "hard_constraint":
            return []
        places = [subject_place(self._model, request) for request in batch]
        return [
            ("subject_tokens", None, sum(map(len, places)) / len(places)),
            ("subject_start", None, sum(place.start for place in places) / len(places)),
        ]

    def _optimise_targets(self, prompt_sets: Sequence[PromptSet], layer: int) -> Targets:
        """Targets at a layer of the model as it is."""
        settings = self._settings.target.model_copy(update={"layer": layer})
        if settings.align is not None:
            return optimise_in_turn(self._model, prompt_sets, settings, self._settings.keys)
        if settings.windows is not None:
            return optimise_windows(self._model, prompt_sets, settings)
        return optimise(self._model, prompt_sets, settings)

    def _rounds(self, prompt_sets: Sequence[PromptSet], targets: Targets) -> Iterator[tuple[Sequence[PromptSet], Targets]]:
        """Requests and targets of each pass over the layers: all of them once, or in rounds those that are not there yet."""
        rounds = self._settings.rounds
        if rounds is None:
            yield prompt_sets, targets
            return
        for _ in range(rounds.most):
            present = read_activations(self._model, prompt_sets, self._settings.layers[:1], self._settings.keys, self._settings.target)
            residual_norms = _residuals(targets, target_change(self._model, self._settings.target.layer, targets), present).norm(dim=1)
            active = ((residual_norms > rounds.above) & (residual_norms < rounds.below)).nonzero()[:, 0].cpu()
            if not len(active):
                return
            yield [prompt_sets[number] for number in active.tolist()], targets[active]

    def _pass(self, prompt_sets: Sequence[PromptSet], targets: Targets, record: dict[str, Tensor]) -> StepNumbers:
        """Change every layer once, put what is to be remembered into the record, and say what happened."""
        settings = self._settings
        frozen = self._read_at_original(prompt_sets) if settings.keys.mode == "frozen" else None
        if settings.history.starts_at_original and settings.residual_schedule.is_remeasured:
            self._restore_originals()
        numbers: StepNumbers = []
        has_own_targets = settings.residual_schedule.has_own_targets
        target_layer = settings.layers[0] if has_own_targets else settings.target.layer
        optimised_first = settings.layers[1:] if settings.residual_schedule.optimises_before_writing else ()
        own_targets = {layer: self._optimise_targets(prompt_sets, layer) for layer in optimised_first}
        residuals = change = target_change(self._model, target_layer, targets)
        for index, layer in enumerate(settings.layers):
            if has_own_targets and index:
                targets = own_targets[layer] if layer in own_targets else self._optimise_targets(prompt_sets, layer)
                target_layer, change = layer, target_change(self._model, layer, targets)
                residuals = change
            activations = self._read_layer(prompt_sets, layer, target_layer, frozen, is_first_layer=index == 0)
            if activations.hidden is not None:
                residuals = _residuals(targets, change, activations)
            if index == 0:
                numbers.append(("residual_norm", None, float(residuals.norm(dim=1).mean())))
            target = targets.mlp_output + targets.hidden_shift if layer == target_layer else None
            numbers += self._fit(layer, activations, self._on_weight_side(layer, activations, residuals, target), record)
        return numbers

    def _read_layer(
        self, prompt_sets: Sequence[PromptSet], layer: int, target_layer: int, frozen: Activations | None, *, is_first_layer: bool
    ) -> Activations:
        """Keys at a layer, and the present hidden state at the target's layer where the residual is measured now."""
        settings = self._settings
        measured = settings.measures_residual(is_first_layer=is_first_layer)
        if frozen is not None and not measured:
            return frozen
        target = settings.target.model_copy(update={"layer": target_layer}) if measured else None
        now = read_activations(self._model, prompt_sets, (layer,), settings.keys, target)
        return now if frozen is None else Activations(frozen.keys, frozen.unprefixed, now.hidden, frozen.context)

    def _on_weight_side(
        self, layer: int, activations: Activations, residuals: Float[Tensor, "b d_out"], target: Float[Tensor, "b d_out"] | None
    ) -> Float[Tensor, "b d_out"]:
        """Residuals of the block's output as residuals of the MLP's: the same but where a norm is between.

        There the layer's share of them is what has to be reached; with `target`, at the scale of these MLP outputs.
        """
        norm, edited_layer = self._model.post_norm(layer), self._layers[layer]
        if norm is None:
            return residuals
        weight = edited_layer.original if self._settings.history.starts_at_original else self._model.weight(layer)
        keys = (activations.keys if self._settings.keys.shared_key else activations.unprefixed)[layer]
        precision = torch.promote_types(weight.dtype, torch.float32)
        output = keys.to(precision) @ weight.to(precision).mT
        bias: Tensor | None = getattr(self._model.mlp_out(layer), "bias", None)
        output = output if bias is None else output + bias
        target = None if target is None else target.to(output)
        share = edited_layer.residual_weight
        return (weight_side_residuals(norm, output, share * residuals.to(output), target) / share).to(residuals.dtype)

    def _fit(self, layer: int, activations: Activations, residuals: Float[Tensor, "b d_out"], record: dict[str, Tensor]) -> StepNumbers:
        """Change one layer, extend the record, write the weight, and say what happened."""
        edited_layer = self._layers[layer]
        keys, unprefixed, residuals = (
            tensor.to(edited_layer.delta.device) for tensor in (activations.keys[layer], activations.unprefixed[layer], residuals)
        )
        weighted_residuals = edited_layer.residual_weight * residuals.double()
        is_one_round = self._settings.rounds is None
        context = activations.context[layer].to(edited_layer.delta.device).double() if activations.context else None
        found, numbers = edited_layer.fit(
            keys.double(), unprefixed.double(), weighted_residuals, preserve_keys=is_one_round, context=context
        )
        if self._settings.history.starts_at_original:
            found[f"{layer}.residuals"] = residuals.cpu()
        if is_one_round and edited_layer.records_keys:
            found[f"{layer}.keys"] = keys.cpu()
        for name, tensor in found.items():
            record[name] = torch.cat([record[name], tensor]) if name in record else tensor
        self._write(layer)
        numbers["key_norm"] = float(keys.double().norm(dim=1).mean())
        numbers["delta_norm"] = float(edited_layer.delta.norm())
        numbers["l1"] = l1_per_element(self._model.weight(layer))
        return [(name, layer, value) for name, value in numbers.items()]

    def _preserve_keys(self, prompt_sets: Sequence[PromptSet], record: dict[str, Tensor]) -> None:
        """Hold the keys of all requests of a batch fast, as they are after its rounds."""
        keys = read_activations(self._model, prompt_sets, self._settings.layers, self._settings.keys).keys
        for layer, edited_layer in self._layers.items():
            edited_layer.preserve_keys(keys[layer].to(edited_layer.delta.device).double())
            if edited_layer.records_keys:
                record[f"{layer}.keys"] = keys[layer].cpu()

    # --- weights and records -----------------------------------------------------------------------------------------

    def _replay(self, record: StepRecord) -> None:
        """Take a recorded record over."""
        for edited_layer in self._layers.values():
            edited_layer.replay(record)
        self._records.append(record)
        self._refactor()

    def _refactor(self) -> StepNumbers:
        """Recompute each recursive inverse every REFACTOR_EVERY steps, with a warning if its drift could affect results.

        Where keys are refreshed, every refresh does so, and records hold keys as they were first read, not as they are now.
        """
        if self._settings.keys.mode == "refreshed" or len(self._records) % REFACTOR_EVERY:
            return []
        drifts = {layer: edited_layer.refactor(self._records) for layer, edited_layer in self._layers.items()}
        found: StepNumbers = [("solver_drift", layer, drift) for layer, drift in drifts.items() if drift is not None]
        for _, layer, drift in found:
            if drift > WARN_DRIFT:
                log.warning(
                    "layer %s: the recursive solver had drifted by %.1e of its norm after %d steps", layer, drift, len(self._records)
                )
        return found

    def _is_due(self, count: int) -> bool:
        keys = self._settings.keys
        return keys.mode == "refreshed" and count > 0 and count % keys.every == 0

    def _replay_last_refresh(self, records: Sequence[StepRecord]) -> Sequence[StepRecord]:
        """The records to replay after those that the last refresh has refitted."""
        due = len(records) // self._settings.keys.every * self._settings.keys.every
        if not self._is_due(due):
            return records
        self._refresh(records[:due])
        self._records = list(records[:due])
        return records[due:]

    def _refresh(self, records: Sequence[StepRecord]) -> None:
        """Solve all recorded requests as one batch, with keys, and residuals where they are re-measured, read again."""
        self._restore_originals()
        self._layers = layers_of(self._settings, self._model, self._prepared)
        prompt_sets, targets = requests_from_tensors(records)
        self._pass(prompt_sets, targets, {})

    def _read_at_original(self, prompt_sets: Sequence[PromptSet]) -> Activations:
        """Keys of all layers at the original weights."""
        self._restore_originals()
        found = read_activations(self._model, prompt_sets, self._settings.layers, self._settings.keys)
        for layer in self._settings.layers:
            self._write(layer)
        return found

    def _restore_originals(self) -> None:
        for layer, edited_layer in self._layers.items():
            self._model.set_weight(layer, edited_layer.original)

    def _write(self, layer: int) -> None:
        write_weight(self._model, layer, self._layers[layer].original, self._layers[layer].delta)


def _residuals(targets: Targets, change: Float[Tensor, "b d_out"], activations: Activations) -> Float[Tensor, "b d_out"]:
    """The target hidden states, `change` from where targets began, less the present ones.

    Raises:
        ValueError: if the present ones were not read.
    """
    if activations.hidden is None:
        raise ValueError(
            "residuals are measured from hidden states, and none were read; give `read_activations` the settings of the target"
        )
    device = activations.hidden.device
    return targets.hidden.to(device) + change.to(device) - activations.hidden


def _target_numbers(targets: Targets) -> Iterator[tuple[str, int | None, float]]:
    yield "target_probability_before", None, float(targets.probability_before.mean())
    yield "target_probability_after", None, float(targets.probability_after.mean())
    yield "target_steps", None, float(targets.steps.mean())
    yield "shift_norm", None, float(targets.hidden_shift.norm(dim=1).mean())


def _deduplicate_residuals(record: dict[str, Tensor]) -> StepRecord:
    """The record with residuals that all layers share kept once, as `residuals`."""
    names = [name for name in record if name.endswith(".residuals")]
    if names and all(torch.equal(record[name], record[names[0]]) for name in names):
        record["residuals"] = record[names[0]]
        for name in names:
            del record[name]
    return record


class LocateThenEditEditor(RecordOrDenseEditor[LocateThenEdit]):
    """The family as an editor: records of keys and residuals where edits are refitted, of factors or dense tensors elsewhere."""

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[LocateThenEditSession]:
        """A session that continues from a state."""
        with model.restoring(self.settings.layers):
            yield LocateThenEditSession(self.settings, model, prepared, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[LiveModel]:
        """The model with the state's change of weights."""
        deltas, transform = self.deltas(model, prepared, state), self.settings.delta_transform
        if transform is not None:
            deltas = transform.finish(model, deltas, transform.validation(state.dense))
        with apply_deltas(model, deltas) as view:
            yield view

    def deltas(self, model: LanguageModel, prepared: Prepared, state: State) -> Mapping[int, Float64[Tensor, "d_out d_in"]]:
        """The change of each edited layer's weight, before any `delta_transform`: as the history folds it, or by replay."""
        if self.settings.session_settings(len(state.records)) is not None:
            with self.editing(model, prepared, state) as session:
                return session.deltas()
        fold = self.settings.history.fold
        return {layer: fold(self.settings, index, model, prepared, state) for index, layer in enumerate(self.settings.layers)}

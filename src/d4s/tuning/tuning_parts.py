"""The parts of a tuning, each from the results of those before it: target's block, clamp and rate, edited layers, weights.

The rule is that of docs/tuning.md, the same for every editor. Each part has a share of the budget; a trial begins only while the part's
share lasts, and what was not tried keeps the value that the rule starts from.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from d4s.config import ContextsSettings
from d4s.editors.contexts import sample_prefixes
from d4s.editors.edit_requests import EditRequest, draw_requests
from d4s.editors.editor_settings import resolve
from d4s.editors.least_squares_settings import LocateThenEdit
from d4s.editors.moments import SecondMoment, check_token_count, collect_moments, evenly_spaced_rows
from d4s.editors.parts.target_rule import TargetSettings
from d4s.editors.preparation import free_directions
from d4s.editors.protocol import Prepared, Targets
from d4s.editors.settings_file import LayerScore, SequenceTrial, TunedModel, TunedSettings, best_trials
from d4s.editors.target_optimisation import optimise_requests
from d4s.facts.record import Fact
from d4s.log import progress
from d4s.models.language_model import LanguageModel
from d4s.runs.prepared_parts import assemble_prepared, has_prepared, read_prepared, save_prepared
from d4s.runs.target_cache import TargetCache
from d4s.settings_base import Frozen
from d4s.tuning.known_facts import PROBES_PER_FACT
from d4s.tuning.layer_sweep import (
    CLAMP,
    TOLERANCE,
    coarse_layers,
    fine_layers,
    hidden_norms,
    layers_below,
    plateau,
    score_target,
    target_settings,
    usual_layer,
)
from d4s.tuning.trial_record import TrialRecord
from d4s.tuning.tuned_columns import CONFINED, LEADS, SHARES, TunedValues, editor_columns
from d4s.tuning.weight_search import SequenceMaterial, free_leverage, key_leverage, run_trial, weight_for

log = logging.getLogger(__name__)
CLAMPS, LR_SCALES = (0.5, 0.75, 1.5, 3.0), (0.4, 2.5)  # tried beside a clamp of 1 and the rate of the rule
FACTOR, MOST_FACTORS = 3.0, 3  # between two weights that are tried; how often, in either direction
FINE_UNTIL, TARGET_UNTIL, LAYERS_UNTIL = 0.25, 0.4, 0.65  # shares of the budget by which these parts end; weights have the rest
ROWS_PER_PASS = 16
FREE_TRACE = 0.02  # share of a second moment's trace that lies below the threshold of a null space


class TuneOptions(Frozen):
    """How much is tried: which presets of `LEADS`, for how long, with how many requests in the sweep and in a sequence."""

    editors: tuple[str, ...] = tuple(LEADS)
    budget_minutes: float = 30.0
    sweep_facts: int = 8
    edits: int = 30
    blocks: int = 6
    moment_tokens: int = 65_536
    seed: int = 1


@dataclass(frozen=True, slots=True)
class TuningMaterial:
    """What is tuned on: a model, facts with paraphrases and probes, and text for second moments as rows of tokens.

    `text` gives rows of at least a number of tokens; the sources say where model, facts and text are from. `opening` is what every
    prompt of the facts begins with, and prefixes go behind: what stands before the user's words in a chat.
    """

    model: LanguageModel
    facts: Sequence[Fact]
    text: Callable[[int], Int[Tensor, "n row"]]
    model_source: str
    facts_source: str
    text_source: str
    opening: str = ""

    def draw(self, options: TuneOptions) -> list[tuple[EditRequest, Fact]]:
        """The requests of a sequence with their facts."""
        drawn = draw_requests(self.facts, options.seed)[: options.edits]
        return [(replace(request, opening=self.opening), fact) for request, fact in drawn]


class Tuning:
    """The parts of a tuning. Trials are in a record; second moments and targets in a folder, or in memory alone where it is None."""

    def __init__(self, material: TuningMaterial, options: TuneOptions, record: TrialRecord, folder: Path | None) -> None:
        self._material, self._options, self._record, self._folder = material, options, record, folder
        self.model = material.model
        self._drawn = material.draw(options)
        self.prefixes = tuple(sample_prefixes(self.model, ContextsSettings(seed=options.seed)))
        self._block_norms, self._mlp_norms = hidden_norms(self.model, self.requests)
        self._moments: dict[int, SecondMoment] = {}
        self._leverage: dict[int, float] = {}
        self._thresholds: dict[tuple[int, ...], float] = {}

    @property
    def requests(self) -> list[EditRequest]:
        """The requests of a sequence, in their order."""
        return [request for request, _ in self._drawn]

    @cached_property
    def _sequence(self) -> SequenceMaterial:
        return SequenceMaterial.of(self.model, self._drawn, PROBES_PER_FACT)

    def _has_time(self, share: float, expected: float) -> bool:
        """Whether a trial of a number of seconds ends within a share of the budget."""
        return self._record.seconds + expected <= share * 60 * self._options.budget_minutes

    # --- the target ------------------------------------------------------------------------------------------------

    def sweep(self) -> list[LayerScore]:
        """Scores of targets by block: evenly spaced blocks first, always all of them; then blocks between the best and its neighbours."""
        layers = coarse_layers(self.model.n_layers, self._options.blocks)
        found = [self.score_layer(layer) for layer in progress(layers, "blocks, coarsely", len(layers))]
        while fine := fine_layers(found, self.model.n_layers):
            if not self._has_time(FINE_UNTIL, found[-1].seconds):
                break
            found.append(self.score_layer(fine[0]))
        return sorted(found, key=lambda one: one.layer)

    def score_layer(self, layer: int, clamp: float = CLAMP, lr_scale: float = 1.0) -> LayerScore:
        """The score of targets at a block, from the record where it was measured before."""
        settings = self.target_settings(layer, clamp, lr_scale)
        swept = self._drawn[: self._options.sweep_facts]
        name = f"injected at block {layer}, clamp {clamp:g}, lr {settings.lr:g}"
        found = self._record.measure(name, lambda: score_target(self.model, swept, self.prefixes, settings))
        score = LayerScore(layer=layer, clamp=clamp, lr=settings.lr, **found)
        log.info("%s: efficacy %.2f, paraphrase %.2f, %.0f s", name, score.efficacy, score.paraphrase, score.seconds)
        return score

    def target_settings(self, layer: int, clamp: float = CLAMP, lr_scale: float = 1.0) -> TargetSettings:
        """The rule of targets at a block."""
        return target_settings(layer, self._block_norms[layer], self.model.d_out(layer), clamp, lr_scale)

    def search_target_rule(self, sweep: Sequence[LayerScore]) -> tuple[TargetSettings, list[LayerScore]]:
        """Clamp and learning rate at the usual block, with all scores: the smallest clamp and the rule's rate, unless others are better."""
        layer = usual_layer(sweep, self.model.n_layers)
        tried = {(one.clamp, 1.0): one for one in sweep if one.layer == layer}
        for clamp in progress(CLAMPS, "clamps", len(CLAMPS)):
            if self._has_time(TARGET_UNTIL, max(one.seconds for one in tried.values())):
                tried[clamp, 1.0] = self.score_layer(layer, clamp)
        best = max(one.score for one in tried.values())
        clamp = min(clamp for (clamp, _), one in tried.items() if one.score >= best - TOLERANCE)
        for scale in LR_SCALES:
            if self._has_time(TARGET_UNTIL, max(one.seconds for one in tried.values())):
                tried[clamp, scale] = self.score_layer(layer, clamp, scale)
        scale = max((scale for at, scale in tried if at == clamp), key=lambda one: tried[clamp, one].score - TOLERANCE * (one != 1))
        others = [one for key, one in tried.items() if key != (CLAMP, 1.0)]
        return self.target_settings(layer, clamp, scale), [*sweep, *others]

    # --- the edited layers -----------------------------------------------------------------------------------------

    def search_layers(
        self, target: TargetSettings, scores: Sequence[LayerScore]
    ) -> tuple[TargetSettings, tuple[int, ...], list[SequenceTrial]]:
        """The block of the target among those that take it equally well, by sequences of the first editor at its starting weight."""
        sweep = [one for one in scores if (one.clamp, one.lr) == (CLAMP, self.target_settings(one.layer).lr)]
        candidates = self._candidates(plateau(sweep), target.layer)
        self.collect_moments({layer for one in candidates for layer in layers_below(one, self.model.n_layers)})
        trials: list[SequenceTrial] = []
        editor = self._options.editors[0]
        for layer in progress(candidates, "edited layers", len(candidates)):
            if not trials or self._has_time(LAYERS_UNTIL, max(trial.seconds for trial in trials)):
                layers = layers_below(layer, self.model.n_layers)
                trials.append(self._run_sequence(editor, self._at_layer(target, layer), layers, self.start_weight(editor, layers)))
        chosen = max(trials, key=lambda trial: trial.score)
        return self._at_layer(target, chosen.layers[-1]), chosen.layers, trials

    def _candidates(self, layers: Sequence[int], usual: int) -> list[int]:
        """At most three blocks of the plateau: the usual one, the lowest with as many layers below as any, and one above the usual."""
        most = max(len(layers_below(layer, self.model.n_layers)) for layer in layers)
        with_room = [layer for layer in layers if len(layers_below(layer, self.model.n_layers)) == most]
        above = [layer for layer in layers if layer > usual]
        return list(dict.fromkeys([usual, *with_room[:1], *above[len(above) // 2 :][:1]]))

    def _at_layer(self, target: TargetSettings, layer: int) -> TargetSettings:
        """The same rule at another block: a step has the same share of its hidden states' norm."""
        rate = target.lr * self._block_norms[layer] / self._block_norms[target.layer]
        return target.model_copy(update={"layer": layer, "lr": float(f"{rate:.2g}")})

    # --- what is preserved -----------------------------------------------------------------------------------------

    def collect_moments(self, layers: Iterable[int]) -> None:
        """Second moments of layers, from the folder or taken now; the time that they take counts against the budget."""
        layers = sorted(layers)
        place = None if self._folder is None else self._folder / "prepared"
        if place is not None and has_prepared(place):
            self._moments = dict(read_prepared(place, self._material.text_source).moments)
        name = f"second moments of layers {layers}"
        is_missing = bool({*layers} - {*self._moments})
        if is_missing:
            self._record.forget(name)
        self._record.measure(name, lambda: self._take_moments(layers))
        if is_missing and place is not None:
            save_prepared(place, Prepared(self.prefixes, self._moments))

    def _take_moments(self, layers: Sequence[int]) -> dict[str, int]:
        rows = evenly_spaced_rows(self._material.text(self._options.moment_tokens), self._options.moment_tokens)
        check_token_count(rows.numel(), max(map(self.model.d_in, layers)))
        self._moments = collect_moments(self.model, rows, layers, ROWS_PER_PASS, self._material.text_source)
        return {"tokens": rows.numel()}

    def leverage(self, layers: Sequence[int]) -> dict[int, float]:
        """Median of kᵀC⁻¹k over the requests at each of some layers."""
        if missing := {layer: self._moments[layer] for layer in layers if layer not in self._leverage}:
            self._leverage |= key_leverage(self.model, self.requests, self.prefixes, missing)
        return {layer: self._leverage[layer] for layer in layers}

    def threshold(self, layers: Sequence[int]) -> float:
        """The eigenvalue of second moments below which a small share of their trace lies; the median over layers."""
        if (place := tuple(layers)) not in self._thresholds:
            spectra = [torch.linalg.eigvalsh(self._moments[layer].mean()) for layer in layers]
            found = [float(values[values.cumsum(0) >= FREE_TRACE * values.sum()][0]) for values in spectra]
            self._thresholds[place] = float(f"{median(found):.2g}")
        return self._thresholds[place]

    def start_weight(self, editor: str, layers: Sequence[int]) -> float:
        """The weight with which a single edit closes the editor's share of its residual; the median over layers."""
        if editor in CONFINED:
            bases: dict[int, Float64[Tensor, "d_in r"]] = {
                layer: free_directions(self._moments[layer].mean(), self.threshold(layers)) for layer in layers
            }
            return weight_for(free_leverage(self.model, self.requests, self.prefixes, bases), SHARES[editor])
        return weight_for(median(self.leverage(layers).values()), SHARES[editor])

    # --- sequences of edits ----------------------------------------------------------------------------------------

    def search_weights(self, target: TargetSettings, layers: tuple[int, ...], trials: Sequence[SequenceTrial]) -> list[SequenceTrial]:
        """Trials of weights by editor: from the starting one by factors of three, in the direction that scores better."""
        found: list[SequenceTrial] = []
        for editor in progress(self._options.editors, "weights", len(self._options.editors)):
            start = self.start_weight(editor, layers)
            own = {one.weight: one for one in trials if (one.editor, one.layers) == (editor, layers)}
            for weight in _weights_to_try(start, own):
                expected = max((one.seconds for one in (*trials, *found)), default=0.0)
                if not self._has_time(1.0, expected):
                    break
                own[weight] = self._run_sequence(editor, target, layers, weight)
                found.append(own[weight])
        return found

    def _run_sequence(self, editor: str, target: TargetSettings, layers: tuple[int, ...], weight: float) -> SequenceTrial:
        """A sequence of edits at a weight, from the record where it was measured before."""
        name = f"{len(self.requests)} edits by {editor}, layers {list(layers)}, weight {weight:g}"
        found = self._record.measure(name, lambda: self._edit(editor, target, layers, weight))
        trial = SequenceTrial(editor=editor, layers=layers, weight=weight, edits=len(self.requests), **found)
        log.info("%s: %.2f, %.2f, %.2f; score %.3f", name, trial.efficacy, trial.paraphrase, trial.locality, trial.score)
        return trial

    def _edit(self, editor: str, target: TargetSettings, layers: tuple[int, ...], weight: float) -> dict[str, float]:
        threshold = self.threshold(layers) if editor in CONFINED else None
        columns = editor_columns(TunedValues(layers, target, {editor: weight}, weight, target.clamp, threshold))
        settings = resolve(editor, {}, self._settings_of(columns, layers, (), ()))
        assert isinstance(settings, LocateThenEdit)
        trial_settings = settings.model_copy(update={"target": settings.target.model_copy(update={"at": "original"})})
        prepared = assemble_prepared(trial_settings, self.prefixes, {layer: self._moments[layer] for layer in layers}, self.model, ())
        return run_trial(self.model, prepared, trial_settings, self._sequence, self._targets(target))

    def _targets(self, target: TargetSettings) -> Targets:
        """Targets of the sequence at the original weights, kept in the folder."""
        if self._folder is None:
            return optimise_requests(self.model, self.requests, self.prefixes, target)
        cache = TargetCache(self._folder / f"targets-b{target.layer}-clamp{target.clamp:g}-lr{target.lr:g}")
        return cache.load_or_optimise(self.model, self.requests, self.prefixes, target)

    # --- what was found --------------------------------------------------------------------------------------------

    def settings(
        self, target: TargetSettings, layers: tuple[int, ...], sweep: Sequence[LayerScore], trials: Sequence[SequenceTrial]
    ) -> TunedSettings:
        """Settings of all presets from what was chosen: the best weight tried of each editor, the starting one of the others."""
        best = best_trials(trials, layers)
        leads = [lead for lead in LEADS if lead in self._options.editors or lead not in CONFINED]
        weights = {lead: best[lead].weight if lead in best else self.start_weight(lead, layers) for lead in leads}
        threshold = self.threshold(layers) if {*leads} & CONFINED else None
        single = weight_for(self.leverage(layers)[layers[-1]], SHARES["d4s"])
        rome_clamp = float(f"{target.clamp * self._block_norms[layers[-1]] / self._mlp_norms[layers[-1]]:.2g}")
        columns = editor_columns(TunedValues(layers, target, weights, single, rome_clamp, threshold))
        return self._settings_of(columns, layers, sweep, trials)

    def _settings_of(
        self,
        columns: Mapping[str, dict[str, Any]],
        layers: Sequence[int],
        sweep: Sequence[LayerScore],
        trials: Sequence[SequenceTrial],
    ) -> TunedSettings:
        model = self.model
        shape = TunedModel(
            source=self._material.model_source,
            model_type=model.adapter.model_type,
            layers=model.n_layers,
            width=model.d_out(),
            mlp_width=model.d_in(),
        )
        leverage = {layer: round(value, 1) for layer, value in self.leverage(layers).items()}
        facts = f"{len(self._drawn)} of {self._material.facts_source}; second moments: {self._material.text_source}"
        return TunedSettings(
            model=shape, facts=facts, sweep=tuple(sweep), trials=tuple(trials), key_leverage=leverage, editors=dict(columns)
        )


def _weights_to_try(start: float, tried: Mapping[float, SequenceTrial]) -> Iterator[float]:
    """Weights from a starting one by factors, in the direction that scores better; `tried` is filled in between by who tries."""
    if start not in tried:
        yield start
    for factor in (1 / FACTOR, FACTOR):
        weight, steps = start, 0
        while weight in tried and steps < MOST_FACTORS and tried[weight].score >= max(one.score for one in tried.values()):
            weight, steps = float(f"{weight * factor:.2g}"), steps + 1
            if weight not in tried:
                yield weight

"""Editors of a study that differ in their batch alone, and sweeps of an editor over layers: found by their resolved settings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from d4s.analysis.editing_score import fact_scores
from d4s.analysis.single_edits import SingleEdits
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.settings_base import canonical
from d4s.study_settings import AT_LAYER


@dataclass(frozen=True)
class BatchSeries:
    """One editor in batches of several sizes: `editors` by size, ascending; its name is that of the smallest."""

    panel: Panel
    settings: Mapping[str, Any]
    editors: Mapping[int, str]

    @property
    def name(self) -> str:
        """The editor with the smallest batch."""
        return next(iter(self.editors.values()))

    def preset(self, results: Results) -> str:
        """The named method that the study defines it from, in whose colours it is drawn; its own name where it is one."""
        return str(results.study.get("editors", {}).get(self.name, {}).get("preset", self.name))

    @property
    def remembers(self) -> bool:
        """Whether a step preserves the keys of earlier edits."""
        return self.settings["history"]["kind"] != "none"

    @property
    def is_confined(self) -> bool:
        """Whether changes are confined to directions that text hardly uses."""
        return self.settings["preservation"]["kind"] == "null_space"

    @property
    def weight(self) -> float:
        """The weight λ of what is preserved."""
        return float(self.settings["preservation"]["weight"])

    def lengths(self, results: Results, size: int) -> set[int]:
        """Lengths at which all runs with a batch of this size were measured."""
        found = [set(results.lengths(run)) for run in results.runs_of(self.panel, self.editors[size])]
        return set.intersection(*found) if found else set()

    def total(self, results: Results) -> int | None:
        """The largest batch that was measured alone and whose requests were also edited in smaller batches; None without one."""
        ends = {size: self.lengths(results, size) for size in self.editors}
        found = [size for size in ends if size in ends[size] and any(size in ends[other] for other in ends if other < size)]
        return max(found, default=None)

    def single_batches(self, results: Results) -> list[int]:
        """Sizes of more than one request that were measured after their first batch, which starts from the original weights."""
        return [size for size in self.editors if size > 1 and size in self.lengths(results, size)]


def batch_series(results: Results, panel: Panel) -> list[BatchSeries]:
    """The series of a panel, of at least two sizes each."""
    groups: dict[str, dict[int, str]] = {}
    plain: dict[str, dict[str, Any]] = {}
    for editor in results.editors(panel):
        settings = dict(results.editor_settings(panel.model, editor))
        if settings.get("family") == "locate_then_edit":
            size = settings.pop("batch")
            key = canonical(settings)
            plain[key] = settings
            groups.setdefault(key, {})[size] = editor
    return [BatchSeries(panel, plain[key], dict(sorted(sizes.items()))) for key, sizes in groups.items() if len(sizes) > 1]


def retained_scores(results: Results, run: RunKey, length: int) -> pd.DataFrame:
    """Efficacy, paraphrase and specificity of each fact after `length` edits."""
    return fact_scores(results.retained(run, length))


def immediate_scores(results: Results, run: RunKey, length: int) -> pd.DataFrame:
    """The same right after the batch of each fact, for the first `length` edits."""
    log = results.immediate(run)
    return fact_scores(log[log["step"] <= length])


Reading = Callable[[Results, RunKey, int], pd.DataFrame]
"""Efficacy, paraphrase and specificity of each fact of a run, for a number of edits."""
RETAINED = "retained"
READINGS: Mapping[str, Reading] = {RETAINED: retained_scores, "immediate": immediate_scores}


# --- sweeps -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerScores:
    """Single edits of one editor at one layer after another: efficacy, paraphrase and specificity of each request, by layer.

    An edit that was not done counts as 0 in all three.
    """

    panel: Panel
    name: str
    seed: int
    scores: Mapping[int, pd.DataFrame]

    def split(self) -> tuple[list[pd.DataFrame], list[pd.DataFrame]]:
        """Scores of the layers in the first quarter up to the last swept one, and of the rest."""
        bound = (max(self.scores) + 1) / 4
        return [frame for layer, frame in self.scores.items() if layer < bound], [
            frame for layer, frame in self.scores.items() if layer >= bound
        ]


def layer_sweeps(results: Results) -> list[LayerScores]:
    """Every editor that single edits sweep over layers, one layer at a time, by panel and seed."""
    singles = SingleEdits.of(results)
    found: dict[tuple[Panel, str, int], dict[int, pd.DataFrame]] = {}
    names: dict[tuple[Panel, str, int], str] = {}
    for cell in singles.cells:
        moved = _without_layer(results.editor_settings(cell.model, cell.editor))
        if moved is not None:
            layer, rest = moved
            key = cell.panel, rest, cell.seed
            names.setdefault(key, cell.editor.partition(AT_LAYER)[0])
            found.setdefault(key, {})[layer] = fact_scores(singles.values(cell)).reindex(singles.statuses(cell).index).fillna(0.0)
    return [
        LayerScores(panel, names[panel, rest, seed], seed, dict(sorted(scores.items())))
        for (panel, rest, seed), scores in found.items()
        if len(scores) > 1
    ]


def _without_layer(settings: Mapping[str, Any]) -> tuple[int, str] | None:
    """The one layer that an editor changes, and the rest of its settings as text; None where there is no such layer."""
    plain = dict(settings)
    layers: Sequence[int] = plain.pop("layers", None) or [plain.pop("layer", None)]
    if len(layers) != 1 or layers[0] is None:
        return None
    if plain.get("target"):
        plain["target"] = {key: value for key, value in plain["target"].items() if key != "layer"}
    return layers[0], canonical(plain)


def by_name(sweeps: Sequence[LayerScores]) -> Iterator[tuple[Panel, str, list[LayerScores]]]:
    """Sweeps of each panel and editor, one per seed."""
    for panel, name in dict.fromkeys((sweep.panel, sweep.name) for sweep in sweeps):
        yield panel, name, [sweep for sweep in sweeps if (sweep.panel, sweep.name) == (panel, name)]

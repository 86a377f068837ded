"""The localisation study as tables, figures and claims read it: scores of single edits at every layer beside the tracing effect there.

A method is a preset with the number of neighbouring layers that it edits together; it has editors of its own for erasure (`objective:
erase`) and forcing (`noise_subject`). Tracing effects are those of windows of as many layers, and belong to facts: all data sets that are
problems of one source share them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd

from d4s.analysis.display_names import method_order
from d4s.analysis.localisation_scores import EditingProblem, rewrite_score, tracing_effects
from d4s.analysis.single_edits import SingleEdits
from d4s.analysis.study_results import Results, RunKey
from d4s.artifacts import read_table
from d4s.editors.editor_settings import resolve
from d4s.editors.presets import PRESETS
from d4s.errors import SettingsError
from d4s.schemas import TRACES, with_cell_columns
from d4s.study_settings import AT_LAYER

TARGET = "efficacy_p_new_joint"
UNEDITED = "unedited"


class Method(NamedTuple):
    """A preset, and how many neighbouring layers it edits together."""

    preset: str
    window: int

    @property
    def name(self) -> str:
        """Its display name, such as `MEMIT, 3 layers`."""
        title = PRESETS[self.preset].title if self.preset in PRESETS else self.preset
        return title if self.window == 1 else f"{title}, {self.window} layers"


class SweepKey(NamedTuple):
    """One method on one problem under one model and seed."""

    model: str
    problem: EditingProblem
    method: Method
    seed: int


@dataclass(frozen=True)
class Localisation:
    """Single edits swept over layers, with traces; empty parts where a study has none."""

    results: Results

    @cached_property
    def traces(self) -> pd.DataFrame:
        """Rows of TRACES with the model and seed that they are of."""
        return read_table(self.results.folder / "data" / "traces.parquet", with_cell_columns(TRACES))

    @cached_property
    def effects(self) -> Mapping[tuple[str, int], pd.DataFrame]:
        """Tracing effects by model and seed (see `tracing_effects`)."""
        return {(str(model), int(seed)): tracing_effects(part) for (model, seed), part in self.traces.groupby(["model", "seed"])}  # type: ignore[misc, call-overload]

    @cached_property
    def singles(self) -> SingleEdits:
        """The study's single edits."""
        return SingleEdits.of(self.results)

    @cached_property
    def _windows(self) -> Mapping[str, int]:
        """By the name of a swept editor, how many neighbouring layers it edits together."""
        rows = [row for row in self.results.study.get("grid", ()) if row.get("sweep")]
        return {name: int(row["sweep"]["window"]) for row in rows for name in row["editors"]}

    @cached_property
    def cells(self) -> Mapping[SweepKey, pd.DataFrame]:
        """Scores beside effects: a row per fact and layer with fact_id, layer, effect and score, where both are known."""
        parts: dict[SweepKey, list[pd.DataFrame]] = {}
        for cell in self.singles.cells:
            name, at, layer = cell.editor.rpartition(AT_LAYER)
            effects = self.effects.get((cell.model, cell.seed))
            if not at or effects is None:
                continue
            key = SweepKey(cell.model, self._problem(cell), Method(self._preset(name), self._windows[name]), cell.seed)
            here = effects[(effects["window"] == key.method.window) & (effects["layer"] == int(layer))]
            scores = self._scores(cell, key.problem)
            parts.setdefault(key, []).append(here.merge(scores, on="fact_id")[["fact_id", "layer", "effect", "score"]])
        whole = {key: pd.concat(found, ignore_index=True) for key, found in parts.items()}
        return {key: whole[key] for key in sorted(whole, key=_order) if len(whole[key])}

    def keys(self, problem: EditingProblem) -> Mapping[tuple[str, Method], Sequence[SweepKey]]:
        """The cells of a problem by model and method, one per seed."""
        found: dict[tuple[str, Method], list[SweepKey]] = {}
        for key in self.cells:
            if key.problem == problem:
                found.setdefault((key.model, key.method), []).append(key)
        return found

    def usual_layer(self, model: str, preset: str) -> int | None:
        """The last layer that a preset edits in a model where nothing else is said; None where it has no settings for it."""
        hparams_for = self.results.study.get("models", {}).get(model, {}).get("hparams_for", "mini")
        try:
            return max(resolve(preset, {}, hparams_for).layers, default=None)
        except SettingsError:
            return None

    def _problem(self, cell: RunKey) -> EditingProblem:
        editor = self.results.editor_settings(cell.model, cell.editor)
        if editor.get("objective") == "erase":
            return "erasure"
        if editor.get("noise_subject"):
            return "forcing"
        return self.results.study.get("datasets", {}).get(cell.dataset, {}).get("problem", "injection")

    def _preset(self, name: str) -> str:
        editors: Mapping[str, Any] = self.results.study.get("editors", {})
        return str(editors.get(name, {}).get("preset", name))

    def _scores(self, cell: RunKey, problem: EditingProblem) -> pd.DataFrame:
        """Rewrite scores of a cell's edits, by fact_id; those of edits that were not done are left out."""
        after = self.singles.values(cell)
        if problem == "forcing":
            columns = {"before": after.get("noised_probability_before"), "after": after.get("noised_probability_after")}
        else:
            before = self.singles.values(cell._replace(editor=UNEDITED))
            columns = {"before": before.get(TARGET), "after": after.get(TARGET)}
        if any(column is None for column in columns.values()):
            return pd.DataFrame(columns=["fact_id", "score"])
        known = pd.DataFrame(columns).dropna()
        fact_ids = [str(request).partition(":")[2] for request in known.index]
        return pd.DataFrame({"fact_id": fact_ids, "score": rewrite_score(problem, known["before"].to_numpy(), known["after"].to_numpy())})


def _order(key: SweepKey) -> tuple[str, tuple[int, str], int, str, int]:
    return key.model, method_order(key.method.preset), key.method.window, key.problem, key.seed

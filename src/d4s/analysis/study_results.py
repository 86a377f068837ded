"""A study's results for tables, figures and claims, read from the gathered Parquet files of results/STUDY alone."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from d4s.analysis.display_names import (
    CONTROL_NAMES,
    FORM_NAMES,
    HEADLINE_METRICS,
    NOT_IN_TASK_MEAN,
    REFERENCES,
    dataset_name,
    form_of,
    sorted_editors,
)
from d4s.artifacts import read_table
from d4s.editors.control_editors import EditorControl, find_controls
from d4s.errors import ArtifactError
from d4s.schemas import (
    ANSWERS,
    BENCHMARK,
    CELL,
    COSTS,
    EDIT_LOG,
    INDEX,
    ITEMS,
    NORMS,
    OBJECTIVES,
    PERPLEXITY,
    SCORES,
    SUMMARY,
    with_cell_columns,
)

TASK_METRICS = ("acc", "mc1", "exact_match", "acc_norm")


class Panel(NamedTuple):
    """One model × one data set: editors are compared, judged and drawn within it."""

    model: str
    dataset: str


class RunKey(NamedTuple):
    """One cell of the grid."""

    model: str
    dataset: str
    editor: str
    seed: int

    @property
    def panel(self) -> Panel:
        """The panel that the cell belongs to."""
        return Panel(self.model, self.dataset)


@dataclass(frozen=True)
class Results:
    """Everything gathered for a study; tables are read and checked on first use."""

    folder: Path

    def __post_init__(self) -> None:
        """Refuse a study without gathered results.

        Raises:
            ArtifactError: if its index is not there.
        """
        if not (self.folder / "index.parquet").is_file():
            raise ArtifactError(f"{self.folder} holds no gathered results; run the study, or d4s summarize, first")

    def _data(self, name: str, schema: pa.Schema) -> pd.DataFrame:
        return read_table(self.folder / "data" / f"{name}.parquet", with_cell_columns(schema))

    @cached_property
    def index(self) -> pd.DataFrame:
        """The artefacts with the numbers of each cell and length."""
        return read_table(self.folder / "index.parquet", INDEX)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Means with intervals by cell, length, protocol and metric."""
        return read_table(self.folder / "summary.parquet", SUMMARY)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """The costs of every call."""
        return read_table(self.folder / "costs.parquet", COSTS)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Scores of all prompts."""
        return self._data("scores", SCORES)

    @cached_property
    def answers(self) -> pd.DataFrame:
        """Free answers before and after the edits."""
        return self._data("answers", ANSWERS)

    @cached_property
    def norms(self) -> pd.DataFrame:
        """Norms at the lengths."""
        return self._data("norms", NORMS)

    @cached_property
    def perplexity(self) -> pd.DataFrame:
        """Perplexity of held-out text at the lengths."""
        return self._data("perplexity", PERPLEXITY)

    @cached_property
    def edit_log(self) -> pd.DataFrame:
        """Quantities of every edit, up to the longest length of its run."""
        return self._data("edit_log", EDIT_LOG)

    @cached_property
    def objectives(self) -> pd.DataFrame:
        """Targets of the facts under the unedited model; `editor` is empty, since they depend on none."""
        return self._data("objectives", OBJECTIVES)

    @cached_property
    def benchmark(self) -> pd.DataFrame:
        """One score per cell, length and task in the mean over tasks: the task's main metric."""
        return main_metric(self.all_benchmark_scores, [*CELL, "step", "task"])

    @cached_property
    def all_benchmark_scores(self) -> pd.DataFrame:
        """All metrics of all benchmark tasks."""
        return self._data("benchmark", BENCHMARK)

    @cached_property
    def items(self) -> pd.DataFrame:
        """The first items of every data set."""
        return read_table(self.folder / "data" / "items.parquet", ITEMS)

    @cached_property
    def study(self) -> Mapping[str, Any]:
        """The study's settings; empty where they were not stored."""
        path = self.folder / "study.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @property
    def claim_groups(self) -> Sequence[str]:
        """The groups whose claims are judged; those of the D4S paper where settings were not stored."""
        return self.study.get("claims", ("d4s",))

    @cached_property
    def provenance(self) -> Mapping[str, Any]:
        """What the runs were made from and with; empty where it was not stored."""
        path = self.folder / "provenance.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def editor_settings(self, model: str, editor: str) -> Mapping[str, Any]:
        """Resolved settings of an editor for a model, as its runs record them; empty where they were not stored."""
        return self.provenance.get("editors", {}).get(f"{model} / {editor}", {})

    @property
    def has_world_tasks(self) -> bool:
        """Whether the benchmark tasks were made from the world."""
        return self.study.get("benchmarks", {}).get("tasks", "world") == "world"

    # --- cells ----------------------------------------------------------------------------------------------------

    @cached_property
    def runs(self) -> list[RunKey]:
        """Every cell, in the display order of editors."""
        rows = self.index[list(CELL)].drop_duplicates().itertuples(index=False)
        found = [RunKey(str(row.model), str(row.dataset), str(row.editor), int(row.seed)) for row in rows]  # type: ignore[arg-type]
        order = {editor: place for place, editor in enumerate(sorted_editors(run.editor for run in found))}
        return sorted(found, key=lambda run: (run.model, run.dataset, order[run.editor], run.seed))

    @cached_property
    def panels(self) -> list[Panel]:
        """Model × data set: data sets of facts in the order of the grid, then the forms of the multi-question set."""
        named = [dataset for row in self.study.get("grid", ()) for dataset in row["datasets"]]
        place = {name: number for number, name in reversed([*enumerate(named)])}
        rank = {form: number for number, form in enumerate((None, *FORM_NAMES, *CONTROL_NAMES))}
        found = {run.panel for run in self.runs}
        return sorted(found, key=lambda p: (p.model, rank[self.form(p.dataset)], place.get(p.dataset, len(place)), p.dataset))

    @property
    def main_panels(self) -> list[Panel]:
        """The panels on which claims about editors are judged."""
        facts = [panel for panel in self.panels if self.form(panel.dataset) is None]
        return facts or self.panels

    @cached_property
    def models(self) -> list[str]:
        """Models of the study, of runs and of single edits."""
        return sorted({*self.index["model"], *self.summary["model"]})

    def panel_name(self, panel: Panel) -> str:
        """Display name of a panel: its data set, with the model where the study has several."""
        return dataset_name(panel.dataset) + (f" ({panel.model})" if len(self.models) > 1 else "")

    @cached_property
    def seeds(self) -> list[int]:
        """Seeds of the study, of runs and of single edits."""
        return sorted({*map(int, self.index["seed"]), *map(int, self.summary["seed"])})

    def form(self, dataset: str) -> str | None:
        """The form of a multi-question data set, or its control; None for data sets of facts."""
        return form_of(dataset, self.study.get("datasets"))

    @cached_property
    def _controls(self) -> dict[Panel, list[EditorControl]]:
        found = {}
        for panel in self.panels:
            names = sorted_editors(run.editor for run in self.runs if run.panel == panel)
            found[panel] = find_controls({name: self.editor_settings(panel.model, name) for name in names})
        return found

    def controls(self, panel: Panel) -> list[EditorControl]:
        """Controls of a panel, each with the editor that it belongs to."""
        return self._controls.get(panel, [])

    def editors(self, panel: Panel, references: bool = True) -> list[str]:
        """Editors of a panel in display order, without controls, which no table ranks as methods."""
        left_out = {control.editor for control in self.controls(panel)} | (set() if references else set(REFERENCES))
        return sorted_editors(run.editor for run in self.runs if run.panel == panel and run.editor not in left_out)

    def runs_of(self, panel: Panel, editor: str) -> list[RunKey]:
        """The runs of an editor in a panel, one per seed."""
        return [run for run in self.runs if run.panel == panel and run.editor == editor]

    @staticmethod
    def rows_of(frame: pd.DataFrame, run: RunKey) -> "pd.Series[bool]":
        """A mask of the rows of a gathered table that belong to a run."""
        same = [frame[column] == value for column, value in zip(CELL, run, strict=True)]
        return same[0] & same[1] & same[2] & same[3]

    def lengths(self, run: RunKey) -> list[int]:
        """Lengths at which a run was measured."""
        rows = self.index[self.rows_of(self.index, run)]
        return sorted(int(step) for step in rows["step"].unique())

    def longest(self, panel: Panel) -> int:
        """The longest measured length of any run of a panel."""
        return max(length for run in self.runs if run.panel == panel for length in self.lengths(run))

    def shared_length(self, panel: Panel, editors: Iterable[str]) -> int | None:
        """The longest length shared by all runs of some editors; None if they share none."""
        return _longest_shared(self.lengths(run) for editor in editors for run in self.runs_of(panel, editor))

    def retained_means(self, panel: Panel) -> pd.DataFrame:
        """Rows of the summary of a panel's runs, measured after the whole sequence."""
        rows = self.summary
        return rows[(rows["model"] == panel.model) & (rows["dataset"] == panel.dataset) & (rows["protocol"] == "retained")]

    def targets(self, panel: Panel, which: str) -> pd.DataFrame:
        """Targets (`new` or `true`) of a panel's facts under the unedited model."""
        rows = self.objectives
        return rows[(rows["model"] == panel.model) & (rows["dataset"] == panel.dataset) & (rows["target"] == which)]

    # --- per fact and per edit ------------------------------------------------------------------------------------

    @cached_property
    def _retained(self) -> pd.DataFrame:
        rows = self.scores[self.scores["protocol"] == "retained"]
        keys = [*CELL, "step", "fact_id"]
        return rows.pivot_table(index=keys, columns="metric", values="value", aggfunc="mean")

    def retained(self, run: RunKey, step: int) -> pd.DataFrame:
        """Retained scores at a length: a row per edited fact, a column per metric (mean over prompts)."""
        try:
            rows = self._retained.xs((*run, step), level=[*CELL, "step"])
        except KeyError:
            return pd.DataFrame(columns=list(HEADLINE_METRICS), dtype=float)
        return pd.DataFrame(rows).dropna(axis=1, how="all")

    def edit_positions(self, run: RunKey, step: int) -> "pd.Series[float]":
        """Position in the sequence at which each fact was edited."""
        rows = self._positions.get(run, self.scores.iloc[:0])
        rows = rows[rows["step"] == step]
        return rows.set_index("fact_id")["edited_at"].astype(float)

    @cached_property
    def _positions(self) -> dict[RunKey, pd.DataFrame]:
        rows = self.scores[self.scores["protocol"] == "retained"].drop_duplicates([*CELL, "step", "fact_id"])
        return dict(_by_run(rows))

    @cached_property
    def _immediate(self) -> dict[RunKey, pd.DataFrame]:
        rows = self.edit_log[self.edit_log["layer"].isna()]
        return {run: part.pivot_table(index=["step", "fact_id"], columns="quantity", values="value") for run, part in _by_run(rows)}

    def immediate(self, run: RunKey) -> pd.DataFrame:
        """Quantities of every edit that belong to no layer: a row per edit (fact_id; column `step`), a column per quantity."""
        found = self._immediate.get(run)
        return pd.DataFrame(columns=["step"], dtype=float) if found is None else found.reset_index("step")

    # --- norms ----------------------------------------------------------------------------------------------------

    @cached_property
    def unedited_norms(self) -> dict[tuple[str, int], float]:
        """L1 per element of the unedited matrices by model and layer."""
        rows = self.norms[self.norms["quantity"] == "l1_per_element_original"]
        means = rows.dropna(subset="layer").groupby(["model", "layer"])["value"].first()
        return {(str(model), int(layer)): float(value) for (model, layer), value in means.items()}  # type: ignore[misc, call-overload]

    @cached_property
    def _norm_paths(self) -> dict[RunKey, pd.DataFrame]:
        rows = self.edit_log[(self.edit_log["quantity"] == "l1") & self.edit_log["layer"].notna()]
        return {run: part.pivot_table(index="step", columns="layer", values="value") for run, part in _by_run(rows)}

    def norm_path(self, run: RunKey) -> pd.DataFrame:
        """L1 norm per element relative to the unedited matrix: a row per edit from 0, a column per edited layer.

        Empty for editors with a delta transform: their log of edits has the norm before it.
        """
        is_finished = bool(self.editor_settings(run.model, run.editor).get("delta_transform"))
        path = pd.DataFrame() if is_finished else self._norm_paths.get(run, pd.DataFrame())
        layers = [int(float(layer)) for layer in path.columns]
        relative = path.set_axis(layers, axis=1) / [self.unedited_norms.get((run.model, layer), np.nan) for layer in layers]
        if relative.empty:
            return relative
        start = pd.DataFrame(1.0, index=[0], columns=relative.columns)
        return pd.concat([start, relative]).dropna(axis=1, how="any")

    def norms_at_lengths(self, run: RunKey) -> pd.DataFrame:
        """As `norm_path`, at the lengths alone, for methods that do not edit one after another; changed layers only."""
        rows = self.norms[self.rows_of(self.norms, run)]
        wide = rows.pivot_table(index=["layer", "step"], columns="quantity", values="value")
        if wide.empty:
            return pd.DataFrame()
        changed = wide.groupby("layer")["l1_per_element_delta"].transform("max") > 0
        relative = (wide["l1_per_element_weight"] / wide["l1_per_element_original"])[changed].unstack("layer")
        return relative.set_axis([int(float(str(layer))) for layer in relative.columns], axis=1)

    # --- benchmarks -----------------------------------------------------------------------------------------------

    def tasks(self, run: RunKey, step: int) -> pd.DataFrame:
        """Benchmark scores of a run at a length: a row per task (sorted) with value, stderr and n."""
        return _by_task(self.benchmark[self.rows_of(self.benchmark, run) & (self.benchmark["step"] == step)])

    def unedited_tasks(self, model: str) -> pd.DataFrame:
        """Benchmark scores of the unedited model, under whichever data set they were gathered."""
        return _by_task(self.benchmark[(self.benchmark["model"] == model) & (self.benchmark["editor"] == "unedited")])

    def change_from_unedited(self, run: RunKey, step: int, tasks: Iterable[str]) -> float:
        """A run's mean score on some tasks minus the unedited model's, tasks outside the mean included.

        NaN where the tasks were not run.
        """
        scores = self.all_benchmark_scores[self.all_benchmark_scores["task"].isin(list(tasks))]
        after = _by_task(scores[self.rows_of(scores, run) & (scores["step"] == step)])["value"]
        base = _by_task(scores[(scores["model"] == run.model) & (scores["editor"] == "unedited")])["value"]
        return float((after - base).mean())

    def benchmark_lengths(self, run: RunKey) -> list[int]:
        """Lengths at which the benchmarks ran."""
        return sorted(int(step) for step in self.benchmark[self.rows_of(self.benchmark, run)]["step"].unique())

    def shared_benchmark_lengths(self, panel: Panel, editor: str) -> set[int]:
        """Lengths at which all runs of an editor have benchmarks."""
        found = [set(self.benchmark_lengths(run)) for run in self.runs_of(panel, editor)]
        return set.intersection(*found) if found else set()

    def shared_benchmark_length(self, panel: Panel, editors: Iterable[str]) -> int | None:
        """The longest length at which all runs of some editors have benchmarks; None if there is none."""
        return _longest_shared(self.benchmark_lengths(run) for editor in editors for run in self.runs_of(panel, editor))


def _longest_shared(lengths: Iterable[Iterable[int]]) -> int | None:
    each = [set(of_run) for of_run in lengths]
    return max(set.intersection(*each), default=None) if each else None


def _by_run(rows: pd.DataFrame) -> list[tuple[RunKey, pd.DataFrame]]:
    """Rows of a gathered table by run."""
    return [(RunKey(*map(_plain, key)), part) for key, part in rows.groupby(list(CELL), sort=False)]  # type: ignore[misc, arg-type]


def _by_task(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per task, the first one of each."""
    return rows.drop_duplicates("task").set_index("task")[["value", "stderr", "n"]].sort_index()


def main_metric(benchmark: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """One row per key: the first metric in the order of `TASK_METRICS`, else the first present; only tasks in the mean."""
    benchmark = benchmark[~benchmark["task"].isin(NOT_IN_TASK_MEAN)]
    rank = benchmark["metric"].map({metric: number for number, metric in enumerate(TASK_METRICS)}).fillna(len(TASK_METRICS))
    return benchmark.assign(rank=rank).sort_values("rank", kind="stable").drop_duplicates(keys).drop(columns="rank")


def _plain(value: object) -> object:
    """A numpy integer as an int, other values unchanged."""
    return int(value) if isinstance(value, np.integer) else value

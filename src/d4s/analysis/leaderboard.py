"""Every editor of a study under one protocol: scores, costs, ranks and fronts, a row per model, data set, length, protocol and editor."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from d4s.analysis.display_names import HEADLINE_METRICS, REFERENCES
from d4s.analysis.edit_costs import EditCost, edit_cost
from d4s.analysis.intervals import Array, IntervalEstimate, over_seeds
from d4s.analysis.ranks import Rank, Ranking, ranking
from d4s.analysis.study_results import Panel, Results, RunKey

PROTOCOLS = ("retained", "immediate")
AVERAGE, CPU_SECONDS = "average", "cpu_s"
RETAINED_ONLY = (
    "neighborhood_accuracy",
    "efficacy_wild_exact",
    "paraphrase_wild_exact",
    "efficacy_judged",
    "paraphrase_judged",
    "locality_same_tokens",
)
"""Scores that are taken after whole sequences alone; those of free answers where a study asks for them."""
OF_MODEL = ("perplexity_ratio", "benchmark_mean", "state_bytes")
FRONT = ("efficacy_accuracy", "locality_accuracy", CPU_SECONDS)
"""What a front weighs against each other: retention, locality and cost."""
STATES: Mapping[str, str] = {
    "refit": "refit of all edits",
    "additive": "changes that add up",
    "dense": "one change, replaced",
    "codebook": "codebook beside the model",
    "memory": "texts beside the model",
}


class Place(NamedTuple):
    """What is held equal within a ranking."""

    model: str
    dataset: str
    edits: int
    protocol: str

    @property
    def panel(self) -> Panel:
        """The panel that it belongs to."""
        return Panel(self.model, self.dataset)


@dataclass(frozen=True, slots=True)
class LeaderboardRow:
    """An editor at a place: its values by name, and among the editors that are ranked its rank and how it stands to each of them.

    `signs` has a character per ranked editor, in their order (see `Ranking.sign`); references have no rank. `runs` are the artefacts
    behind the numbers, one per seed, `seeds` their seeds.
    """

    place: Place
    editor: str
    state: str
    values: Mapping[str, IntervalEstimate]
    rank: Rank | None
    signs: str
    is_on_front: bool
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    diverged_at: int | None


@dataclass(frozen=True)
class Leaderboard:
    """The leaderboard of a study."""

    results: Results

    @cached_property
    def places(self) -> list[Place]:
        """Every place at which editors were measured: panels in their order, the longest sequences first."""
        return [
            Place(*panel, edits, protocol)
            for panel in self.results.panels
            for edits in sorted({length for run in self._runs(panel) for length in self.results.lengths(run)}, reverse=True)
            for protocol in PROTOCOLS
        ]

    def _runs(self, panel: Panel) -> Iterator[RunKey]:
        for editor in self.results.editors(panel):
            yield from self.results.runs_of(panel, editor)

    def final(self, panel: Panel) -> Place:
        """A panel's longest sequences, read after their end."""
        return next(place for place in self.places if place.panel == panel)

    def ranking(self, place: Place) -> Ranking:
        """The ranking of a place, by the mean of efficacy, paraphrase and specificity (those that the data set has)."""
        if place not in self._rankings:
            self._rankings[place] = self._rank(place)
        return self._rankings[place]

    @cached_property
    def _rankings(self) -> dict[Place, Ranking]:
        """Those that were asked for."""
        return {}

    def _rank(self, place: Place) -> Ranking:
        scores = {
            editor: found
            for editor in self.results.editors(place.panel, references=False)
            if (found := {run.seed: frame for run in self._measured(place, editor) if len(frame := self._facts(run, place))})
        }
        known = [name for name in HEADLINE_METRICS if scores and all(name in f for of in scores.values() for f in of.values())]
        return ranking({editor: {seed: frame[known] for seed, frame in of.items()} for editor, of in scores.items() if known})

    def _measured(self, place: Place, editor: str) -> list[RunKey]:
        return [run for run in self.results.runs_of(place.panel, editor) if place.edits in self.results.lengths(run)]

    def _facts(self, run: RunKey, place: Place) -> pd.DataFrame:
        """Scores of the facts of a run: a row per fact, a column per metric that it has."""
        if place.protocol == "retained":
            found = self.results.retained(run, place.edits)
        else:
            logged = self.results.immediate(run)
            found = logged[logged["step"] <= place.edits].drop(columns="step")
        return found.reindex(columns=[name for name in HEADLINE_METRICS if name in found]).dropna(axis=1, how="all").dropna(how="all")

    def rows(self, place: Place) -> list[LeaderboardRow]:
        """The editors that were measured at a place: the ranked ones, best first, then the references."""
        order = self.ranking(place)
        editors = [*order.editors, *(name for name in self.results.editors(place.panel) if name in REFERENCES)]
        values = {editor: self._values(place, editor) for editor in editors}
        shown = [editor for editor in editors if any(name in values[editor] for name in HEADLINE_METRICS)]
        front = pareto_front({editor: values[editor] for editor in order.editors})
        return [self._row(place, editor, values[editor], editor in front) for editor in shown]

    def _row(self, place: Place, editor: str, values: Mapping[str, IntervalEstimate], is_on_front: bool) -> LeaderboardRow:
        order, runs = self.ranking(place), self._measured(place, editor)
        is_ranked = editor in order.averages
        index = self.results.index
        rows = index[np.logical_or.reduce([self.results.rows_of(index, run) for run in runs]) & (index["step"] == place.edits)]
        diverged = rows["diverged_at"].dropna()
        return LeaderboardRow(
            place,
            editor,
            self.state(place.model, editor),
            values,
            order.rank(editor) if is_ranked else None,
            order.signs(editor) if is_ranked else "",
            is_on_front,
            tuple(PurePath(str(path)).name for path in rows.sort_values("seed")["run"]),
            tuple(run.seed for run in runs),
            int(diverged.min()) if len(diverged) else None,
        )

    def _values(self, place: Place, editor: str) -> dict[str, IntervalEstimate]:
        """What is known of an editor at a place, by name; empty where it was not measured there."""
        runs = self._measured(place, editor)
        if not runs:
            return {}
        names = {name: place.protocol for name in HEADLINE_METRICS} | dict.fromkeys(OF_MODEL, "state")
        names |= dict.fromkeys(RETAINED_ONLY, "retained") if place.protocol == "retained" else {}
        found = {name: self._summary.get((*place.panel, editor, place.edits, kind, name)) for name, kind in names.items()}
        known = {name: over_seeds(estimates) for name, estimates in found.items() if estimates}
        if average := self.ranking(place).averages.get(editor):
            known[AVERAGE] = average
        if costs := [cost for run in runs if (cost := self._costs[run]) is not None]:
            known[CPU_SECONDS] = over_seeds([IntervalEstimate(cost.per_edit, np.nan, np.nan, cost.edits) for cost in costs])
        return known

    @cached_property
    def _summary(self) -> Mapping[tuple[object, ...], Sequence[IntervalEstimate]]:
        """The estimates of all seeds by model, data set, editor, length, protocol and metric."""
        found: dict[tuple[object, ...], list[IntervalEstimate]] = {}
        rows = self.results.summary[["model", "dataset", "editor", "step", "protocol", "metric", "mean", "ci_low", "ci_high", "n"]]
        for *names, mean, low, high, n in rows.itertuples(index=False, name=None):
            found.setdefault(tuple(names), []).append(IntervalEstimate(mean, low, high, n))
        return found

    @cached_property
    def _costs(self) -> Mapping[RunKey, EditCost | None]:
        return {run: edit_cost(self.results, run) for run in self.results.runs}

    def state(self, model: str, editor: str) -> str:
        """What is kept of an editor's edits; empty for the unedited model and where its settings were not recorded."""
        from d4s.editors.editor_settings import parse_editor
        from d4s.editors.families import build

        settings = self.results.editor_settings(model, editor)
        if not settings or editor == "unedited":
            return ""
        parsed = parse_editor(settings)
        kind = build(parsed).kind
        return STATES[kind] + (", beside the model" if parsed.is_beside_model and kind in ("additive", "dense") else "")


def pareto_front(values: Mapping[str, Mapping[str, Any]], weighed: Sequence[str] = FRONT) -> set[str]:
    """The editors than which no other is at least as good in all that is weighed and better in something; costs count the less the better.

    Editors that lack one of the values are left out, unless none has it.
    """
    used = [name for name in weighed if any(name in known for known in values.values())]
    complete = [editor for editor, known in values.items() if used and all(name in known for name in used)]
    points = [[(-1 if name == CPU_SECONDS else 1) * values[editor][name].value for name in used] for editor in complete]
    return {editor for editor, is_best in zip(complete, _undominated(np.array(points)), strict=True) if is_best}


def _undominated(points: Array) -> list[bool]:
    """Which points (n, d) no other one dominates; larger is better."""
    return [not ((points >= point).all(axis=1) & (points > point).any(axis=1)).any() for point in points]

"""What collapses a model: single edits with their perplexity and the place of their subject, and how long sequences last."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from d4s.analysis.display_names import REFERENCES, dataset_name
from d4s.analysis.hard_cases import DECIDING, UNEDITED, perplexity_changes, text_perplexities
from d4s.analysis.single_edits import SingleEdits
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.analysis.verdicts import NotMeasured

TIMES = 10.0
RATIO = f"{DECIDING}_ratio"
CORPUS_RATIO = "perplexity_ratio"
QUOTIENT = ("numerator_norm", "denominator", "key_cosine")
PLACE = ("subject_tokens", "subject_start")
Cases = Literal["hard", "normal"]


class SequenceEnd(NamedTuple):
    """How many edits a sequence took to collapse its model, or how many it had where it never did."""

    editor: str
    cases: Cases
    seed: int
    edits: int
    collapsed: bool


@dataclass(frozen=True)
class Collapse:
    """The single edits and the sequences of a study, with what they do to the perplexity of text."""

    results: Results

    @cached_property
    def times(self) -> float:
        """How many times the unedited model's perplexity a collapsed one has."""
        return float((self.results.study.get("hard_cases") or {}).get("times", TIMES))

    @property
    def searched(self) -> Panel:
        """The model and data set whose single edits hard cases are looked for among.

        Raises:
            NotMeasured: if the study looks for none.
        """
        chosen: Mapping[str, Any] = self.results.study.get("hard_cases") or {}
        if not chosen:
            raise NotMeasured("the study looks for no hard cases (`hard_cases`)")
        return Panel(str(chosen["model"]), str(chosen["dataset"]))

    def panel_name(self, panel: Panel) -> str:
        """Display name of a panel of single edits."""
        return f"{dataset_name(panel.dataset)}, {panel.model}"

    # --- single edits ---------------------------------------------------------------------------------------------

    @cached_property
    def edits(self) -> pd.DataFrame:
        """A row per single edit: its cell, relative perplexities, whether the model has collapsed, and what its step says.

        That is ROME's quotient, and how many tokens the subject has and where it starts, taken from any editor of the same request.
        """
        singles = SingleEdits.of(self.results)
        cells = [cell for cell in singles.cells if cell.editor != UNEDITED and RunKey(*cell.panel, UNEDITED, cell.seed) in singles.cells]
        parts = [self._of_cell(singles, cell) for cell in cells]
        if not parts:
            return pd.DataFrame()
        edits = pd.concat(parts, ignore_index=True)
        same_request = edits.groupby(["model", "dataset", "seed", "request_id"])
        return edits.assign(**{name: same_request[name].transform("max") for name in PLACE})

    def _of_cell(self, singles: SingleEdits, cell: RunKey) -> pd.DataFrame:
        reference = text_perplexities(singles.rows_of(RunKey(*cell.panel, UNEDITED, cell.seed)))
        changes = perplexity_changes(singles.rows_of(cell), reference, self.times)
        values, by_layer = singles.values(cell), [singles.by_layer(cell, name).max(axis=1).rename(name) for name in QUOTIENT]
        numbers = pd.concat([values.reindex(columns=list(PLACE)), *by_layer], axis=1).reindex(changes["request_id"])
        return changes.assign(**cell._asdict(), **{name: numbers[name].to_numpy(dtype=float) for name in (*PLACE, *QUOTIENT)})

    @cached_property
    def panels(self) -> list[Panel]:
        """The panels of single edits after which text was read."""
        if self.edits.empty:
            return []
        read = self.edits.dropna(subset=RATIO)
        return [Panel(str(model), str(dataset)) for model, dataset in dict.fromkeys(zip(read["model"], read["dataset"], strict=True))]

    def of(self, panel: Panel, editor: str) -> pd.DataFrame:
        """The single edits of an editor that were not refused.

        Raises:
            NotMeasured: if there are none with a perplexity.
        """
        edits = self.edits
        if not edits.empty:
            edits = edits[(edits["model"] == panel.model) & (edits["dataset"] == panel.dataset) & (edits["editor"] == editor)]
            edits = edits.dropna(subset=RATIO)
        if edits.empty:
            raise NotMeasured(f"no single edits by {editor} with the perplexity of text on {self.panel_name(panel)}")
        return edits

    def first_position(self, model: str) -> float:
        """The position at which a subject that begins its prompt starts: 0, or 1 behind BOS."""
        return float(self.edits.loc[self.edits["model"] == model, "subject_start"].min())

    # --- sequences ------------------------------------------------------------------------------------------------

    @cached_property
    def case_sets(self) -> Mapping[str, Cases]:
        """Data sets that are a set of hard cases or of normal ones, by name."""
        sets: Mapping[str, Mapping[str, Any]] = self.results.study.get("datasets", {})
        return {name: found["only"] for name, found in sets.items() if found.get("only") in ("hard", "normal")}

    @cached_property
    def perplexity(self) -> Mapping[tuple[RunKey, int], float]:
        """The deciding perplexity of every run at every length; infinite where it is no number."""
        rows = self.results.perplexity
        rows = rows[rows["quantity"] == DECIDING]
        keys = zip(rows["model"], rows["dataset"], rows["editor"], rows["seed"], rows["step"], rows["value"], strict=True)
        return {(RunKey(m, d, e, int(s)), int(step)): float(np.nan_to_num(v, nan=np.inf, posinf=np.inf)) for m, d, e, s, step, v in keys}

    @cached_property
    def sequences(self) -> list[SequenceEnd]:
        """The ends of all sequences of hard and of normal cases whose unedited model was measured."""
        runs = [run for run in self.results.runs if run.dataset in self.case_sets and run.editor not in REFERENCES]
        return [end for run in runs if (end := self._end(run)) is not None]

    def _end(self, run: RunKey) -> SequenceEnd | None:
        steps = self.results.lengths(run)
        base = [value for (other, _), value in self.perplexity.items() if other == run._replace(editor=UNEDITED)]
        if not base or not steps:
            return None
        over = [step for step in steps if self.perplexity.get((run, step), 0.0) > self.times * base[0]]
        index = self.results.index
        diverged = index.loc[self.results.rows_of(index, run), "diverged_at"].dropna()
        ends = [*over, *map(int, diverged)]
        return SequenceEnd(run.editor, self.case_sets[run.dataset], run.seed, min(ends, default=max(steps)), bool(ends))

    @cached_property
    def models(self) -> pd.DataFrame:
        """A row per edited model of a sequence whose benchmarks ran: run, step, perplexity, mean score, and whether it has collapsed."""
        rows = []
        for run in (run for run in self.results.runs if run.editor not in REFERENCES):
            base = [value for (other, _), value in self.perplexity.items() if other == run._replace(editor=UNEDITED)]
            for step in self.results.benchmark_lengths(run):
                value = self.perplexity.get((run, step))
                if value is not None and base:
                    score = float(self.results.tasks(run, step)["value"].mean())
                    rows.append(
                        {**run._asdict(), "step": step, "perplexity": value, "score": score, "collapsed": value > self.times * base[0]}
                    )
        return pd.DataFrame(rows, columns=[*RunKey._fields, "step", "perplexity", "score", "collapsed"])

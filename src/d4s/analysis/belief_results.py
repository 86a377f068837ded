"""The beliefs of a study's models before and after single edits, beside those of a Bayesian reader."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from d4s.analysis.belief_errors import QUESTIONS, belief_errors, logic_errors
from d4s.analysis.intervals import IntervalEstimate, mean_interval, over_seeds
from d4s.analysis.single_edits import SingleEdits
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.artifacts import read_table
from d4s.metrics.belief_probes import exact_quantity, joint_quantity
from d4s.schemas import BELIEFS, with_cell_columns

UNEDITED = "unedited"
OF_REQUESTS = ("weight", "reinforcing", "dependent", "changes", "strength")
MOST_ERROR = 0.10
"""A model with larger errors before any edit has not learnt what the reader believes."""


@dataclass(frozen=True)
class EditedBeliefs:
    """One cell: probabilities and exact answers before and after each edit, and what the reader says, by request and question.

    `requests` has the columns `OF_REQUESTS`.
    """

    before: pd.DataFrame
    after: pd.DataFrame
    exact_before: pd.DataFrame
    exact_after: pd.DataFrame
    prior: pd.DataFrame
    posterior: pd.DataFrame
    requests: pd.DataFrame

    @cached_property
    def errors_before(self) -> pd.DataFrame:
        """Errors of probability and of logic before each edit, of the objects that are asked about after it."""
        return belief_errors(self.before, self.prior).join(logic_errors(self.before))

    @cached_property
    def errors_after(self) -> pd.DataFrame:
        """Errors of probability and of logic after each edit."""
        return belief_errors(self.after, self.posterior).join(logic_errors(self.after))

    @property
    def changes(self) -> pd.DataFrame:
        """Errors after minus before, by request."""
        return self.errors_after - self.errors_before

    def gate(self) -> dict[str, float]:
        """Mean error of the likeliest object of every case before any edit, and mean error of true and false then."""
        return {
            "belief": float(belief_errors(self.before, self.prior, "before").to_numpy().mean()),
            "truth": float(self.errors_before["truth"].mean()),
        }


@dataclass(frozen=True)
class BeliefResults:
    """The beliefs of a study."""

    singles: SingleEdits
    believed: pd.DataFrame

    @classmethod
    def of(cls, results: Results) -> "BeliefResults":
        """The beliefs among a study's results."""
        return cls(SingleEdits.of(results), read_table(results.folder / "data" / "beliefs.parquet", with_cell_columns(BELIEFS)))

    @property
    def panels(self) -> list[Panel]:
        """Every model × data set with beliefs."""
        known = {(row.model, row.dataset) for row in self.believed[["model", "dataset"]].drop_duplicates().itertuples(index=False)}
        return [panel for panel in self.singles.panels if tuple(panel) in known and self.singles.of_editor(panel, UNEDITED)]

    def editors(self, panel: Panel) -> list[str]:
        """The editors of a panel, in display order, without the unedited model."""
        return list(dict.fromkeys(cell.editor for cell in self.singles.cells if cell.panel == panel and cell.editor != UNEDITED))

    def cell(self, run: RunKey) -> EditedBeliefs:
        """The beliefs before and after the edits of a cell that were done."""
        reference = RunKey(run.model, run.dataset, UNEDITED, run.seed)
        edited, unedited = self._answers(run), self._answers(reference)
        facts = edited.dropna().index.intersection(unedited.index)
        rows = self.believed[(self.believed["model"] == run.model) & (self.believed["dataset"] == run.dataset)]
        rows = rows[rows["fact_id"].isin(facts)]
        wide = {name: rows.pivot(index="fact_id", columns="question", values=name).loc[facts] for name in ("prior", "posterior")}
        requests = rows.drop_duplicates("fact_id").set_index("fact_id").loc[facts, [*OF_REQUESTS]]
        answers = [
            frame.loc[facts, [name(question) for question in QUESTIONS]].set_axis([*QUESTIONS], axis=1)
            for name in (joint_quantity, exact_quantity)
            for frame in (unedited, edited)
        ]
        return EditedBeliefs(answers[0], answers[1], answers[2], answers[3], wide["prior"], wide["posterior"], requests)

    def _answers(self, run: RunKey) -> pd.DataFrame:
        """What was asked of a cell: a row per fact, a column per quantity."""
        values = self.singles.values(run)
        asked = [name(question) for question in QUESTIONS for name in (joint_quantity, exact_quantity)]
        return values[asked].set_axis([str(request).partition(":")[2] for request in values.index], axis=0)

    def effect(self, panel: Panel, editor: str, of: Callable[[EditedBeliefs], "pd.Series[float]"]) -> IntervalEstimate:
        """The mean of a number per request over an editor's cells: a bootstrap over requests, or a t-interval over seeds."""
        return over_seeds([mean_interval(of(self.cell(run)).to_numpy(dtype=float)) for run in self.singles.of_editor(panel, editor)])

"""What the routers of memories made of prompts, and whether the answers in scope were right, from a study's gathered tables."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.artifacts import read_table
from d4s.schemas import MEMORY, ROUTES, with_cell_columns

IN_SCOPE = ("efficacy", "paraphrase")
OUT_OF_SCOPE = ("same_subject", "shared_name", "neighborhood", "unrelated")
KINDS = (*IN_SCOPE, *OUT_OF_SCOPE)
ERRORS = ("missed", "wrong entry", "wrong answer")


@dataclass(frozen=True)
class MemoryResults:
    """Routes and sizes of the memories of a study."""

    results: Results

    @cached_property
    def routes(self) -> pd.DataFrame:
        """Rows of ROUTES by cell; `found` says whether a prompt went to the entry that it should, or to none where it should to none."""
        rows = read_table(self.results.folder / "data" / "routes.parquet", with_cell_columns(ROUTES))
        same = (rows["entry"] == rows["expected"]) | (rows["entry"].isna() & rows["expected"].isna())
        return rows.assign(found=same.astype(float))

    @cached_property
    def sizes(self) -> pd.DataFrame:
        """Rows of MEMORY by cell."""
        return read_table(self.results.folder / "data" / "memory.parquet", with_cell_columns(MEMORY))

    def editors(self, panel: Panel) -> list[str]:
        """Editors of a panel whose routers were asked, in display order."""
        rows = self.routes
        known = {*rows[(rows["model"] == panel.model) & (rows["dataset"] == panel.dataset)]["editor"]}
        return [editor for editor in self.results.editors(panel) if editor in known]

    def routes_of(self, run: RunKey, step: int) -> pd.DataFrame:
        """The routes of a run at a length."""
        rows = self.routes[self.results.rows_of(self.routes, run)]
        return rows[rows["step"] == step]

    def answers_in_scope(self, run: RunKey, step: int) -> pd.DataFrame:
        """Prompts in the scope of their edits at a length: `right`, and what went wrong otherwise, as 0 or 1 by the names of `ERRORS`.

        A prompt is missed if the model answered alone, went to a wrong entry, or was answered wrongly behind its own.
        """
        routes = self.routes_of(run, step)
        routes = routes[routes["kind"].isin(IN_SCOPE)]
        scores = self.results.scores[self.results.rows_of(self.results.scores, run)]
        exact = scores[(scores["step"] == step) & scores["metric"].isin([f"{kind}_exact" for kind in IN_SCOPE])]
        exact = exact.assign(kind=exact["metric"].str.removesuffix("_exact"))[["fact_id", "kind", "prompt_id", "value"]]
        both = routes.merge(exact, on=["fact_id", "kind", "prompt_id"]).rename(columns={"value": "right"})
        wrong, is_missed = both["right"] == 0, both["entry"].isna()
        errors = (wrong & is_missed, wrong & ~is_missed & (both["found"] == 0), wrong & (both["found"] == 1))
        return both.assign(**{name: error.astype(float) for name, error in zip(ERRORS, errors, strict=True)})

    def rates(self, run: RunKey, step: int) -> dict[str, float]:
        """Recall and precision of a router, and by kind of probe the share of prompts that it sent where they belong.

        Recall counts prompts in scope that reach their entry; precision counts, of all prompts that reach an entry, those that belong
        there, every kind of prompt as often as its share among those asked.
        """
        rows = self.routes_of(run, step)
        routed, inside = rows["entry"].notna(), rows[rows["kind"].isin(IN_SCOPE)]
        by_kind = rows.groupby("kind")["found"].mean()
        found = {kind: float(by_kind.get(kind, np.nan)) for kind in KINDS}  # type: ignore[arg-type]
        precision = float(rows[routed]["found"].mean()) if routed.any() else np.nan
        return {"recall": float(inside["found"].mean()), "precision": precision, **found}

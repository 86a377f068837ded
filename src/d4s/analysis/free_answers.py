"""Free answers: their rows of the summary, and how far a judge agrees with exact match.

Metrics of the summary are named by the kind of prompt: `efficacy_wild_exact`, `paraphrase_contains`, `locality_same_tokens`. `_forced` is
the teacher-forced accuracy of the same facts, `_judged` the share of verdicts that call the answer correct; where a rule takes the place of
a judge it is `_stand_in`. Answers without a verdict are in neither of these two.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from d4s.analysis.study_results import Results
from d4s.analysis.summary_rows import exact_row, mean_rows
from d4s.artifacts import read_table
from d4s.errors import SettingsError
from d4s.judging.judges import STAND_IN
from d4s.metrics.answer_texts import KINDS
from d4s.schemas import CELL, FREE_ANSWERS, VERDICTS, with_cell_columns

METRICS = ("wild_exact", "contains", "repeats", "length", "same_tokens")
JUDGED = "judged"
READINGS = (JUDGED, STAND_IN)
"""Metrics of verdicts: of a judge, or of the rule in the place of one."""
ANSWER = ["step", "fact_id", "kind", "prompt_id"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far verdicts agree with exact match.

    `share` of the `n` answers with a verdict, and Cohen's kappa, (p − q) / (1 − q) with p the share and q the one that is expected of
    independent verdicts of the same frequencies; NaN where there is nothing to agree on. `missing` counts answers without a verdict.
    """

    n: int
    share: float
    kappa: float
    missing: int


def free_rows(answers: pd.DataFrame, verdicts: pd.DataFrame | None, scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of the summary for the free answers of one cell at one length; `scores` are the teacher-forced ones of the cell."""
    values = [_named(answers, name, answers[name]) for name in METRICS] + [_forced(answers, scores)]
    judged = None if verdicts is None else answers.merge(verdicts, on=ANSWER, validate="one_to_one")
    if judged is not None and len(judged):
        values.append(_named(judged, reading_of(judged), judged["correct"]))
    by_fact = pd.concat(values).dropna(subset="value").groupby(["fact_id", "metric"])["value"].mean().unstack("metric")
    rows = mean_rows("retained", by_fact)
    return rows if judged is None else rows + _agreement_rows(agreement(judged))


def _named(frame: pd.DataFrame, name: str, values: "pd.Series[Any]") -> pd.DataFrame:
    return pd.DataFrame({"fact_id": frame["fact_id"], "metric": frame["kind"] + f"_{name}", "value": values.astype(float)})


def _forced(answers: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Teacher-forced accuracy of the facts that are asked about."""
    names = {f"{kind}_accuracy": f"{kind}_forced" for kind in KINDS}
    rows = scores[(scores["protocol"] == "retained") & scores["metric"].isin(names) & scores["fact_id"].isin(answers["fact_id"])]
    return rows[["fact_id", "metric", "value"]].assign(metric=rows["metric"].map(names))


def reading_of(verdicts: pd.DataFrame) -> str:
    """What a share of these verdicts is called."""
    return STAND_IN if (verdicts["judge"] == STAND_IN).all() else JUDGED


def agreement(judged: pd.DataFrame) -> Agreement:
    """The agreement of verdicts (`correct`) with exact match (`wild_exact`)."""
    known = judged.dropna(subset="correct")
    missing = len(judged) - len(known)
    if known.empty:
        return Agreement(0, np.nan, np.nan, missing)
    verdict, exact = known["correct"].to_numpy(dtype=bool), known["wild_exact"].to_numpy(dtype=bool)
    share, yes, also = float((verdict == exact).mean()), float(verdict.mean()), float(exact.mean())
    expected = yes * also + (1 - yes) * (1 - also)
    return Agreement(len(known), share, (share - expected) / (1 - expected) if expected < 1 else np.nan, missing)


def _agreement_rows(found: Agreement) -> list[dict[str, Any]]:
    rows = [exact_row("judge_missing", float(found.missing), found.n + found.missing)]
    if found.n:
        rows.append(exact_row("judge_agreement", found.share, found.n))
    if not np.isnan(found.kappa):
        rows.append(exact_row("judge_kappa", found.kappa, found.n))
    return rows


def judged_answers(results: Results) -> list[tuple[str, str, str]]:
    """Question, target and answer of all that a judge is shown.

    Raises:
        SettingsError: if the study has no free answers.
    """
    answers = read_table(results.folder / "data" / "free_answers.parquet", with_cell_columns(FREE_ANSWERS))
    asked = answers[answers["wild_exact"].notna()]
    if asked.empty:
        raise SettingsError(f"{results.folder} has no free answers to judge; set `measure.free_answers` of the study, and run it")
    return [*asked[["prompt", "gold", "after"]].itertuples(index=False, name=None)]


def judge_note(results: Results) -> str:
    """Who judged a study's answers, how far that agrees with exact match over all of them, and what is missing; empty if nobody did."""
    verdicts = read_table(results.folder / "data" / "verdicts.parquet", with_cell_columns(VERDICTS))
    if verdicts.empty:
        return ""
    answers = read_table(results.folder / "data" / "free_answers.parquet", with_cell_columns(FREE_ANSWERS))
    keys = [*CELL, *ANSWER]
    found = agreement(verdicts.merge(answers[[*keys, "wild_exact"]], on=keys, validate="one_to_one"))
    name, version = str(verdicts["judge"].iloc[0]), str(verdicts["version"].iloc[0])
    said = f"the rule {STAND_IN} in the place of a judge" if name == STAND_IN else f"{name}, prompt {version}"
    kappa = "" if np.isnan(found.kappa) else f", Cohen's kappa {found.kappa:.2f}".replace("-", "−")
    agreed = f"It agrees with exact match on {100 * found.share:.1f} % of {found.n} answers{kappa}. " if found.n else ""
    return f"Judged by {said}. {agreed}{found.missing} answers have no verdict, which stay missing."

"""Table: length, diversity and perplexity of the edit targets under the unedited model, by data set and form."""

from typing import Any

import numpy as np
import pandas as pd

from d4s.analysis.display_names import dataset_name
from d4s.analysis.study_results import Panel, Results
from d4s.analysis.target_statistics import target_statistics
from d4s.tables.table import Column, Table, TableSkipped

WHICH = {"new": "counterfactual", "true": "true"}
COLUMNS = (
    Column("n", "n", digits=0),
    Column("tokens", "Tokens"),
    Column("distinct", "Distinct", digits=0),
    Column("entropy", "Bits"),
    Column("perplexity", "Per token", "Perplexity"),
    Column("median", "Median", "Perplexity"),
    Column("first_token", "First token", "Perplexity"),
    Column("joint", "Whole target", "Perplexity"),
    Column("among_labels", "Among labels", "Perplexity"),
    Column("label_mass", "Label mass", digits=2),
)


def table(results: Results) -> Table:
    """The table, a row per data set and kind of target.

    Raises:
        TableSkipped: if no targets were scored.
    """
    rows = [_row(results, panel, which) for panel in results.panels for which in WHICH if len(results.targets(panel, which))]
    if not rows:
        raise TableSkipped("no targets were scored under the unedited model")
    caption = (
        "Targets of the edits under the unedited model. Tokens: mean length; Distinct and Bits: number and entropy of the target texts; "
        "perplexities are exp of the mean negative log-likelihood (per token, its median, of the first token, of the whole target, of the "
        "target if the answer is one of the labels). Label mass: mean probability of all labels that a question offers."
    )
    return Table("Edit targets", caption, ("data set", "target"), COLUMNS, pd.DataFrame(rows))


def _row(results: Results, panel: Panel, which: str) -> dict[str, Any]:
    numbers = target_statistics(results.targets(panel, which))
    return {
        "block": panel.model,
        "data set": dataset_name(panel.dataset),
        "target": WHICH[which],
        "reference": False,
        "n": numbers.n,
        "tokens": numbers.tokens,
        "distinct": numbers.distinct,
        "entropy": numbers.entropy,
        "perplexity": numbers.perplexity,
        "perplexity_low": float(np.exp(numbers.log_perplexity.low)),
        "perplexity_high": float(np.exp(numbers.log_perplexity.high)),
        "median": numbers.median_perplexity,
        "first_token": float(np.exp(numbers.log_first_token.value)),
        "joint": float(np.exp(numbers.log_joint.value)),
        "among_labels": float(np.exp(numbers.log_among_labels)),
        "label_mass": numbers.label_mass,
    }

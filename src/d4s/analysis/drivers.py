"""Which properties of the edit targets go with damage: loss of benchmark score by data set, regressed on them.

A row is a data set under a model. Its damage is the mean over seeds and over the editors that all rows share, at the length at
which most data sets were benchmarked, so that rows differ in their data alone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from d4s.analysis.display_names import DAMAGE_METHODS
from d4s.analysis.intervals import IntervalEstimate
from d4s.analysis.study_results import Panel, Results
from d4s.analysis.summary_rows import task_score
from d4s.analysis.target_statistics import target_statistics

TARGET_PROPERTIES = {"perplexity": "Log perplexity", "tokens": "Log length", "diversity": "Diversity"}
FEWEST_ROWS = 6
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class DamageTable:
    """Rows with `model, dataset, damage` (benchmark mean before minus after), the predictors, and a column per editor."""

    rows: pd.DataFrame
    editors: list[str]
    length: int

    @property
    def can_separate_predictors(self) -> bool:
        """Whether the three predictors can be separated: enough rows, and none is constant or a linear function of the others."""
        values = self.rows[list(TARGET_PROPERTIES)].to_numpy(dtype=float)
        centred = values - values.mean(0)
        scale = np.maximum(np.abs(centred).max(0), np.finfo(float).tiny)
        return len(self.rows) >= FEWEST_ROWS and int(np.linalg.matrix_rank(centred / scale, tol=ROUNDING)) == len(TARGET_PROPERTIES)


@dataclass(frozen=True, slots=True)
class Effect:
    """Change of damage per standard deviation of a predictor, by least squares with HC3 intervals; `is_univariate` or with the others."""

    predictor: str
    is_univariate: bool
    estimate: IntervalEstimate
    r_squared: float


def damage_table(results: Results) -> DamageTable | None:
    """Damage by data set; None where no data set has benchmarks of the paper's editors and of the unedited model."""
    panels = [panel for panel in results.panels if len(results.targets(panel, "new")) and len(results.unedited_tasks(panel.model))]
    panels = [panel for panel in panels if any(results.shared_benchmark_lengths(panel, editor) for editor in DAMAGE_METHODS)]
    editors = [editor for editor in DAMAGE_METHODS if all(results.shared_benchmark_lengths(panel, editor) for panel in panels)]
    if not editors:
        return None
    lengths = {panel: set.intersection(*(results.shared_benchmark_lengths(panel, editor) for editor in editors)) for panel in panels}
    counts = Counter(length for found in lengths.values() for length in found)
    if not counts:
        return None
    length = max(counts, key=lambda length: (counts[length], length))
    rows = [_row(results, panel, editors, length) for panel in panels if length in lengths[panel]]
    return DamageTable(pd.DataFrame(rows), editors, length)


def _row(results: Results, panel: Panel, editors: Sequence[str], length: int) -> dict[str, Any]:
    base = task_score(results.unedited_tasks(panel.model)).mean
    after = {e: np.mean([task_score(results.tasks(run, length)).mean for run in results.runs_of(panel, e)]) for e in editors}
    targets = target_statistics(results.targets(panel, "new"))
    return {
        "model": panel.model,
        "dataset": panel.dataset,
        "damage": base - float(np.mean(list(after.values()))),
        "perplexity": targets.log_perplexity.value,
        "tokens": float(np.log(targets.tokens)),
        "diversity": targets.entropy,
        **{editor: base - float(score) for editor, score in after.items()},
    }


def effects(found: DamageTable) -> list[Effect]:
    """The effect of each predictor alone, then of all together."""
    names = list(TARGET_PROPERTIES)
    univariate = [effect for name in names for effect in _fit(found.rows, [name], is_univariate=True)]
    return [*univariate, *_fit(found.rows, names, is_univariate=False)]


def _fit(rows: pd.DataFrame, names: Sequence[str], *, is_univariate: bool) -> list[Effect]:
    import statsmodels.api as sm

    design = rows[list(names)].to_numpy(dtype=float)
    standard = (design - design.mean(0)) / design.std(0)
    fit = sm.OLS(rows["damage"].to_numpy(dtype=float), sm.add_constant(standard)).fit(cov_type="HC3", use_t=True)
    limits = np.asarray(fit.conf_int(0.05))
    return [
        Effect(
            name,
            is_univariate,
            IntervalEstimate(float(fit.params[at]), float(limits[at][0]), float(limits[at][1]), len(rows)),
            float(fit.rsquared),
        )
        for at, name in enumerate(names, start=1)
    ]

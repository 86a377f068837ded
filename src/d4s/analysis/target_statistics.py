"""Statistics of a data set's edit targets: perplexity, length and diversity."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from d4s.analysis.intervals import IntervalEstimate, mean_interval


@dataclass(frozen=True, slots=True)
class TargetStatistics:
    """Perplexities are exp of mean negative log-likelihoods; `entropy` is that of the distribution of target texts, in bits.

    `label_mass` is the mean probability of all labels that a question offers, `log_among_labels` the mean negative
    log-likelihood of the target if one of them is the answer; both NaN where targets are phrases.
    """

    n: int
    log_perplexity: IntervalEstimate
    median_perplexity: float
    log_first_token: IntervalEstimate
    log_joint: IntervalEstimate
    log_among_labels: float
    label_mass: float
    tokens: float
    distinct: int
    entropy: float

    @property
    def perplexity(self) -> float:
        """Perplexity per token."""
        return float(np.exp(self.log_perplexity.value))


def target_statistics(targets: pd.DataFrame) -> TargetStatistics:
    """Statistics of targets, given rows of OBJECTIVES."""
    counts = targets["text"].value_counts().to_numpy()
    return TargetStatistics(
        n=len(targets),
        log_perplexity=mean_interval(targets["nll_per_token"].to_numpy()),
        median_perplexity=float(np.exp(targets["nll_per_token"].median())),
        log_first_token=mean_interval(targets["nll_first_token"].to_numpy()),
        log_joint=mean_interval(targets["nll_joint"].to_numpy()),
        log_among_labels=float((targets["nll_joint"] + np.log(targets["label_mass"])).mean()),
        label_mass=float(targets["label_mass"].mean()),
        tokens=float(targets["n_tokens"].mean()),
        distinct=len(counts),
        entropy=float(stats.entropy(counts, base=2)),
    )

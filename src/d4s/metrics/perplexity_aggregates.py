"""Perplexities of text from what was summed over its rows, without a model."""

import numpy as np

TEXT_NLL, TEXT_TOKENS = "text_nll", "text_tokens"
"""Quantities of each row where they are stored: its summed negative log-likelihood (nats), and its predicted tokens."""


def aggregate_perplexities(nll: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Perplexities of rows from their summed negative log-likelihoods n_i (nats) and numbers of predicted tokens c_i.

    `perplexity` is exp(Σ n_i / Σ c_i); `perplexity_row_mean` and `perplexity_row_median` are the mean and the median over rows of
    exp(n_i / c_i). Outliers dominate the mean.
    """
    with np.errstate(over="ignore"):
        by_row = np.exp(nll / counts)
        return {
            "perplexity": float(np.exp(nll.sum() / counts.sum())),
            "perplexity_row_mean": float(by_row.mean()),
            "perplexity_row_median": float(np.median(by_row)),
        }

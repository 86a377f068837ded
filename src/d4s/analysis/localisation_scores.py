"""Scores of the localisation study (Hase et al. 2023): how well an edit solves its problem, and how much of the answer tracing restores.

Both use the probability of all tokens of an answer together, never the mean per token.
"""

from typing import Literal

import numpy as np
import pandas as pd

from d4s.analysis.intervals import Array
from d4s.config import Problem

EditingProblem = Problem | Literal["erasure", "forcing"]
PROBLEMS: tuple[EditingProblem, ...] = ("injection", "reversal", "erasure", "amplification", "forcing")
LEAST_ROOM = 2e-8  # below which 1 − p counts as this
LEAST_CLEAN = 0.02  # probability of the true answer below which a fact is not known well enough to be traced or erased
FEASIBLE_SHARE = 0.5  # of the best layer's mean score, from which on a layer can be edited at all
CEILING = 0.99
LEAST_LOSS = 1e-9  # of the clean probability by noise, below which nothing can be restored


def rewrite_score(problem: EditingProblem, before: Array, after: Array) -> Array:
    """How much of what an edit could change it has changed, from 0 to 1, from probabilities of the request's target before and after.

    Injection, reversal, amplification and forcing: 1 − (1 − p_after) / (1 − p_before). Erasure: (p_before − p_after) / p_before. An edit
    that goes the wrong way scores 0.
    """
    if problem == "erasure":
        return np.maximum(0.0, (before - after) / np.maximum(before, LEAST_ROOM))
    return np.maximum(0.0, (after - before) / np.maximum(1 - before, LEAST_ROOM))


def tracing_effects(traces: pd.DataFrame) -> pd.DataFrame:
    """The tracing effect of every fact in every window at every layer, from rows of TRACES: the largest over restored tokens.

    At a token it is max(0, (p_restored − p_corrupt) / |p_corrupt − p_clean|), the share of what the noise took away that comes back; 0
    where the noise took nothing. Facts whose answer has a clean probability below 0.02 are left out. Columns fact_id, window, layer,
    effect, p_clean and p_corrupt.
    """
    known = traces[traces["p_clean"] >= LEAST_CLEAN]
    effects = known.assign(effect=_token_effects(known))
    keys = ["fact_id", "window", "layer"]
    return effects.groupby(keys, sort=False)[["effect", "p_clean", "p_corrupt"]].max().reset_index()


def role_effects(traces: pd.DataFrame) -> pd.DataFrame:
    """The tracing effect by role of the restored token, the largest over its tokens: fact_id, window, layer, token_role, effect."""
    known = traces[traces["p_clean"] >= LEAST_CLEAN]
    keys = ["fact_id", "window", "layer", "token_role"]
    return known.assign(effect=_token_effects(known)).groupby(keys, sort=False)["effect"].max().reset_index()


def _token_effects(traces: pd.DataFrame) -> Array:
    lost = (traces["p_corrupt"] - traces["p_clean"]).abs().to_numpy(dtype=float)
    restored = (traces["p_restored"] - traces["p_corrupt"]).to_numpy(dtype=float)
    return np.where(lost > LEAST_LOSS, np.maximum(0.0, restored / np.maximum(lost, LEAST_LOSS)), 0.0)


def in_feasible_layers(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells (layer, score, …) at layers where edits can succeed: their mean score is at least half of the best layer's."""
    means = cells.groupby("layer")["score"].mean()
    return cells[cells["layer"].isin(means.index[means >= FEASIBLE_SHARE * means.max()])]


def below_ceiling(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells whose score is below 0.99."""
    return cells[cells["score"] < CEILING]

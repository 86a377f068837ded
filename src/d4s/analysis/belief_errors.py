"""How far a model's beliefs are from a Bayesian reader's, and from agreeing with each other, on plain frames.

Frames have a row per request and a column per question of `d4s.world.posterior`. With p the model's probability and A, B the requested
and another claim, the errors are

    case          |p(o) − p_Bayes(o)|, o the reader's likeliest object after the request
    truth         |p(o | s, r) − p(true | A)| of A and of B, averaged
    negation      |p(A) − (1 − p(¬A))|            with p(true) after a claim in place of p from here on
    and           |p(A∧B) − p(A) p(B)|
    order         |p(A∧B) − p(B∧A)|
    or            |p(A∨B) − (p(A) + p(B) − p(A) p(B))|
"""

from collections.abc import Mapping
from typing import Literal

import pandas as pd

from d4s.world.posterior import CASES

LogicError = Literal["truth", "negation", "and", "order", "or"]
LOGIC: tuple[LogicError, ...] = ("truth", "negation", "and", "order", "or")
CLAIMS = ("truth", "negation", "other", "and", "and_reversed", "or")
QUESTIONS = (*(f"{case}.{when}" for case in CASES for when in ("before", "after")), *CLAIMS)


def belief_errors(probability: pd.DataFrame, bayes: pd.DataFrame, when: Literal["before", "after"] = "after") -> pd.DataFrame:
    """Errors of probability: a row per request, a column per case, of the likeliest object before or after the request."""
    return pd.DataFrame({case: (probability[f"{case}.{when}"] - bayes[f"{case}.{when}"]).abs() for case in CASES})


def logic_errors(probability: pd.DataFrame) -> pd.DataFrame:
    """Errors of logic: a row per request, a column per rule."""
    a, b, both = probability["truth"], probability["other"], probability["and"]
    of_a = (probability["same_same.after"] - a).abs()
    of_b = (probability["different.before"] - b).abs()
    found: Mapping[LogicError, pd.Series[float]] = {
        "truth": (of_a + of_b) / 2,
        "negation": (a - (1 - probability["negation"])).abs(),
        "and": (both - a * b).abs(),
        "order": (both - probability["and_reversed"]).abs(),
        "or": (probability["or"] - (a + b - a * b)).abs(),
    }
    return pd.DataFrame(found)

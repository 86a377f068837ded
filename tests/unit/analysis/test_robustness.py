"""Effective robustness on made-up answers with known accuracies."""

import numpy as np
import pandas as pd
import pytest

from d4s.analysis.robustness import (
    Accuracies,
    Line,
    clean_accuracy,
    effective_robustness,
    interval,
    logit,
    mean_robustness,
    relative_robustness,
    shifted_accuracy,
    value_of,
)
from d4s.analysis.verdicts import NotMeasured

FACTS = 100


def table(clean: float, **shifted: float) -> pd.DataFrame:
    """Answers of which as many are right as said; the same ones under every shift."""
    return pd.DataFrame({name: (np.arange(FACTS) < round(FACTS * share)) * 1.0 for name, share in {"clean": clean, **shifted}.items()})


def by_table(clean: float) -> pd.DataFrame:
    """A scorer that looks answers up: it answers shifted prompts as clean ones."""
    return table(clean, lower=clean, swap=clean)


@pytest.mark.parametrize("clean", [0.0, 0.3, 0.77, 1.0])
def test_a_perfectly_robust_scorer_is_as_robust_as_its_like_under_every_shift(clean: float) -> None:
    ordinary = [by_table(share) for share in (0.1, 0.4, 0.6, 0.9)]
    for shift in ("lower", "swap"):
        found = interval(effective_robustness([by_table(clean)], ordinary, shift), FACTS)
        assert found.value == pytest.approx(0, abs=1e-9) and found.low == pytest.approx(0, abs=1e-9)


def test_what_is_lost_beyond_the_line_is_found() -> None:
    shares = (0.2, 0.5, 0.8)
    ordinary = [table(share, swap=share) for share in shares]
    edited = table(0.7, swap=0.6)
    assert value_of(effective_robustness([edited], ordinary, "swap"), FACTS) == pytest.approx(-0.1, abs=1e-9)
    assert value_of(mean_robustness([edited, table(0.7, swap=0.7)], ordinary), FACTS) == pytest.approx(-0.05, abs=1e-9)


def test_the_line_is_that_of_least_squares() -> None:
    ordinary = [table(share, swap=0.9 * share**2) for share in (0.2, 0.5, 0.8, 0.9)]
    one = np.ones((1, FACTS))
    found = [Accuracies.of(each, "swap", one) for each in ordinary]
    line = Line.through(found)
    x, y = (np.array([float(logit(each[side])[0]) for each in found]) for side in (0, 1))
    slope, intercept = np.polyfit(x, y, 1)
    assert float(line.slope[0]) == pytest.approx(slope) and float(line.intercept[0]) == pytest.approx(intercept)


def test_edited_models_take_no_part_in_the_line() -> None:
    ordinary = [table(share, swap=share) for share in (0.2, 0.5, 0.8)]
    values = [value_of(effective_robustness([table(0.6, swap=shifted)], ordinary, "swap"), FACTS) for shifted in (0.2, 0.5)]
    assert values[1] - values[0] == pytest.approx(0.3)


def test_a_line_needs_ordinary_models_of_several_accuracies() -> None:
    for ordinary, reason in (([table(0.5, swap=0.5)] * 2, "found 2"), ([table(0.5, swap=0.5)] * 3, "of one clean accuracy")):
        with pytest.raises(NotMeasured, match=reason):
            value_of(effective_robustness([table(0.5, swap=0.5)], ordinary, "swap"), FACTS)


def test_a_shift_counts_for_the_facts_that_have_it() -> None:
    edited = table(0.5, swap=0.5)
    edited.loc[edited.index >= 60, "swap"] = np.nan
    found = Accuracies.of(edited, "swap", np.ones((1, FACTS)))
    assert float(found.clean[0]) == float(found.shifted[0]) == pytest.approx(50 / 60)
    assert value_of(shifted_accuracy(edited), FACTS) == pytest.approx(50 / 60) and value_of(clean_accuracy(edited), FACTS) == 0.5


def test_relative_robustness_is_a_difference_of_changes() -> None:
    unedited, edited = table(0.9, lower=0.8, swap=0.6), table(0.8, lower=0.5, swap=0.5)
    assert value_of(relative_robustness(edited, unedited), FACTS) == pytest.approx(((-0.3 + 0.1) + (-0.1 + 0.1)) / 2)

"""Ranks: averages and paired differences by hand, what a rank's interval says, and editors of different seeds."""

import numpy as np
import pandas as pd
import pytest

from d4s.analysis.intervals import average_difference, over_seeds
from d4s.analysis.ranks import Rank, ranking

FACTS = [f"f{number}" for number in range(40)]


def frame(share: float, seed: int = 0, shift: float = 0.0) -> pd.DataFrame:
    luck = np.random.default_rng(seed).random((len(FACTS), 2))  # shared by editors: comparisons are paired
    return pd.DataFrame((luck + shift < share).astype(float), index=FACTS, columns=["efficacy", "locality"])


def test_a_difference_is_that_of_the_averages_paired_by_fact() -> None:
    scores = {"good": {1: frame(0.9)}, "poor": {1: frame(0.3)}}
    found, (left, right) = ranking(scores), (scores[name][1].to_numpy() for name in scores)
    expected = average_difference(left, right)
    gap = found.gaps["good", "poor"]
    assert (gap.value, gap.low, gap.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert found.gaps["poor", "good"].value == -gap.value
    assert found.editors == ["good", "poor"] and found.averages["good"].value == pytest.approx(left.mean())


def test_a_rank_ends_where_real_differences_begin() -> None:
    found = ranking({"third": {1: frame(0.2)}, "first": {1: frame(0.9)}, "second": {1: frame(0.88)}})
    assert found.editors == ["first", "second", "third"]
    assert [found.signs(editor) for editor in found.editors] == ["==+", "==+", "--="]
    assert [found.rank(editor) for editor in found.editors] == [Rank(1, 1, 2), Rank(2, 1, 2), Rank(3, 3, 3)]


def test_equal_editors_share_a_place() -> None:
    found = ranking({name: {1: frame(0.5)} for name in "abc"})
    assert {found.rank(name) for name in "abc"} == {Rank(1, 1, 3)}


def test_several_seeds_give_a_t_interval_over_those_that_two_editors_share() -> None:
    many = {seed: frame(0.8, seed) for seed in (1, 2, 3)}
    scores = {"many": many, "also": {seed: frame(0.4, seed) for seed in (1, 2, 3)}, "one": {1: frame(0.6, 1)}}
    found = ranking(scores)
    expected = over_seeds([average_difference(many[seed].to_numpy(), scores["also"][seed].to_numpy()) for seed in (1, 2, 3)])
    gap = found.gaps["many", "also"]
    assert (gap.low, gap.high, gap.seeds) == pytest.approx((expected.low, expected.high, 3))
    assert found.gaps["many", "one"].seeds == 1 and found.sign("many", "one") == "+"


def test_editors_without_a_common_seed_are_not_told_apart() -> None:
    found = ranking({"a": {1: frame(0.9)}, "b": {2: frame(0.1)}})
    assert found.gaps == {} and found.signs("a") == "==" and found.rank("b") == Rank(2, 1, 2)


def test_a_fact_without_a_score_has_no_weight() -> None:
    gappy = frame(1.1)
    gappy.loc["f0", "efficacy"] = np.nan
    assert ranking({"a": {1: gappy}}).averages["a"].value == 1.0

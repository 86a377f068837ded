"""Intervals: against closed forms, under missing values, paired and not, over seeds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from d4s.analysis.intervals import (
    IntervalEstimate,
    average_difference,
    average_interval,
    bootstrap,
    correlation_interval,
    difference,
    fall_interval,
    mean_interval,
    mean_intervals,
    normal_interval,
    over_seeds,
    sum_interval,
)

SAMPLE = np.random.default_rng(3).normal(2.0, 1.0, 400)


def width(estimate: IntervalEstimate) -> float:
    return estimate.high - estimate.low


def test_resamples_have_as_many_units_as_the_sample() -> None:
    totals = bootstrap(7, lambda counts: counts.sum(1))
    assert totals.shape == (2000,)
    assert set(totals) == {7.0}


def test_large_samples_are_resampled_in_blocks_with_the_same_number_of_draws() -> None:
    rows = []
    bootstrap(5000, lambda counts: rows.append(len(counts)) or counts[:, 0])
    assert sum(rows) == 2000
    assert max(rows) * 5000 <= 4_000_000


def test_the_interval_of_a_mean_is_near_the_normal_one() -> None:
    found, expected = mean_interval(SAMPLE), normal_interval(SAMPLE.mean(), SAMPLE.std() / 20, 400)
    assert found.value == pytest.approx(SAMPLE.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert found.n == 400


def test_equal_samples_give_equal_intervals() -> None:
    assert mean_interval(SAMPLE) == mean_interval(SAMPLE.copy())


def test_missing_values_are_left_out_of_their_own_column_only() -> None:
    values = np.column_stack([SAMPLE, SAMPLE])
    values[100:, 1] = np.nan
    whole, part = mean_intervals(values)
    assert (whole.n, part.n) == (400, 100)
    assert part.value == pytest.approx(SAMPLE[:100].mean())
    assert width(part) > 1.5 * width(whole)


def test_a_column_without_values_is_refused_by_number() -> None:
    with pytest.raises(ValueError, match=r"\[1\]"):
        mean_intervals(np.array([[1.0, np.nan], [2.0, np.nan]]))


def test_a_sum_is_a_mean_times_its_count() -> None:
    total, mean = sum_interval(SAMPLE), mean_interval(SAMPLE)
    assert (total.value, total.low, total.high) == pytest.approx((mean.value * 400, mean.low * 400, mean.high * 400))


def test_a_negative_factor_turns_an_interval_round() -> None:
    assert IntervalEstimate(2.0, 1.0, 4.0, 5).scaled(-1.0) == IntervalEstimate(-2.0, -4.0, -1.0, 5)


def test_paired_differences_are_narrower_than_independent_ones() -> None:
    left, right = SAMPLE + 0.1, SAMPLE
    paired = average_difference(left[:, None], right[:, None])
    apart = difference(left, right)
    assert paired.value == pytest.approx(0.1)
    assert apart.value == pytest.approx(0.1)
    assert width(paired) < 1e-9
    assert width(apart) == pytest.approx(2 * 1.96 * math.sqrt(2) * SAMPLE.std() / 20, rel=0.15)


def test_an_average_weighs_columns_alike_whatever_their_number_of_values() -> None:
    values = np.array([[1.0, 0.0], [1.0, np.nan], [1.0, np.nan]])
    assert average_interval(values).value == pytest.approx(0.5)
    assert average_difference(values, np.zeros((3, 2))).value == pytest.approx(0.5)


def test_the_fall_is_that_of_the_least_squares_line() -> None:
    position = np.arange(1.0, 201.0)
    values = 0.9 - 0.002 * position + np.random.default_rng(0).normal(0, 0.1, 200)
    slope = np.polyfit(position, values, 1)[0]
    found = fall_interval(position, values)
    assert found.value == pytest.approx(-slope * 199)
    assert found.low < 0.398 < found.high
    error = stats.linregress(position, values).stderr * 199
    assert width(found) == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_a_correlation_is_pearsons_and_resamples_whole_clusters() -> None:
    x = np.repeat(np.arange(6.0), 5) + np.tile(np.linspace(0, 0.5, 5), 6)
    y = -x + np.random.default_rng(1).normal(0, 1.0, 30)
    by_run, by_point = correlation_interval(x, y, list(np.repeat(np.arange(6), 5))), correlation_interval(x, y, list(range(30)))
    assert by_run.value == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert (by_run.n, by_point.n) == (6, 30)
    assert by_run.low != by_point.low


def test_one_seed_stays_as_it_is() -> None:
    estimate = IntervalEstimate(0.5, 0.4, 0.6, 100)
    assert over_seeds([estimate]) is estimate


def test_several_seeds_give_a_t_interval() -> None:
    values = [0.5, 0.7, 0.6]
    found = over_seeds([IntervalEstimate(value, 0.0, 1.0, n) for value, n in zip(values, (30, 20, 40), strict=True)])
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((0.6, low, high))
    assert (found.n, found.seeds) == (20, 3)


def test_no_seed_is_an_error() -> None:
    with pytest.raises(ValueError, match="no estimate"):
        over_seeds([])


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60))
@settings(max_examples=25, deadline=None)
def test_an_interval_holds_its_mean_and_lies_within_the_sample(sample: list[float]) -> None:
    found = mean_interval(sample)
    slack = 1e-9 * (1 + max(map(abs, sample)))
    assert min(sample) - slack <= found.low <= found.high <= max(sample) + slack
    assert found.low - slack <= found.value <= found.high + slack or len(sample) < 8

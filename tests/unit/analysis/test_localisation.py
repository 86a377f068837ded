"""Regression of editing scores on layer and tracing effect, on made-up scores with known answers."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st

from d4s.analysis.localisation_regression import fit_localisation, gain_difference, share_with_common_layer
from d4s.analysis.localisation_scores import below_ceiling, in_feasible_layers, rewrite_score, role_effects, tracing_effects

FACTS, LAYERS = 40, 6


def cells(score, seed: int = 0, facts: int = FACTS) -> pd.DataFrame:
    """Facts at layers with random effects, and scores as a function of layer (n, l), effect and noise."""
    rng = np.random.default_rng(seed)
    effect, noise = rng.uniform(0, 1, (facts, LAYERS)), rng.normal(0, 1, (facts, LAYERS))
    layer = np.broadcast_to(np.arange(LAYERS), (facts, LAYERS))
    values = score(layer, effect, noise)
    names = [f"fact {number:03d}" for number in range(facts)]
    return pd.DataFrame({"fact_id": np.repeat(names, LAYERS), "layer": layer.ravel(), "effect": effect.ravel(), "score": values.ravel()})


def test_scores_that_are_the_effect_are_explained_by_tracing_alone() -> None:
    found = fit_localisation(cells(lambda layer, effect, noise: effect))
    assert found is not None
    assert found.trace.value == pytest.approx(1) and found.both.value == pytest.approx(1)
    assert found.layer.value < 0.1 and found.gain.low > 0.9 and found.p_value < 1e-10


def test_scores_that_are_a_constant_of_the_layer_leave_nothing_for_tracing() -> None:
    found = fit_localisation(cells(lambda layer, effect, noise: 0.1 * layer))
    assert found is not None
    assert found.layer.value == pytest.approx(1) and found.gain.value == pytest.approx(0, abs=1e-12)
    assert found.gain.high == pytest.approx(0, abs=1e-12) and found.trace.value < 0.1


def test_noise_gains_nothing_and_is_no_finding() -> None:
    found = fit_localisation(cells(lambda layer, effect, noise: 0.2 * layer + 0.1 * noise, facts=200))
    assert found is not None
    assert abs(found.gain.value) < 0.01 and found.p_value > 0.01 and found.gain.low <= found.gain.value <= found.gain.high


@pytest.mark.parametrize("missing", [0, 25])
def test_it_agrees_with_plain_least_squares(missing: int) -> None:
    frame = cells(lambda layer, effect, noise: 0.1 * layer + 0.3 * effect * (layer == 2) + 0.1 * noise)
    frame = frame.drop(frame.sample(missing, random_state=1).index)
    found = fit_localisation(frame)
    layer, trace, both = (smf.ols(formula, frame).fit() for formula in ("score ~ C(layer)", "score ~ effect", "score ~ C(layer) * effect"))
    assert found is not None and found.cells == len(frame)
    assert found.layer.value == pytest.approx(layer.rsquared_adj) and found.trace.value == pytest.approx(trace.rsquared_adj)
    assert found.both.value == pytest.approx(both.rsquared_adj)
    f_value, p_value, _ = both.compare_f_test(layer)
    assert found.f_value == pytest.approx(f_value) and found.p_value == pytest.approx(p_value)
    assert found.spread == pytest.approx(frame["score"].std())


def test_a_layer_whose_effects_are_all_alike_has_no_line() -> None:
    frame = cells(lambda layer, effect, noise: 0.1 * layer + 0.1 * noise)
    frame.loc[frame["layer"] == 3, "effect"] = 0.7
    found, plain = fit_localisation(frame), smf.ols("score ~ C(layer) + C(layer):effect", frame[frame["layer"] != 3]).fit()
    assert found is not None
    kept = frame[frame["layer"] == 3]["score"]
    residual = plain.ssr + ((kept - kept.mean()) ** 2).sum()
    n, terms = len(frame), 2 * (LAYERS - 1) + 1
    total = ((frame["score"] - frame["score"].mean()) ** 2).sum()
    assert found.both.value == pytest.approx(1 - residual / (n - terms) / (total / (n - 1)))


def test_intervals_are_over_facts_with_all_their_layers() -> None:
    """Copies of a fact add no information: the interval of 40 facts, each four times under its own name, is that of 40 facts."""
    frame = cells(lambda layer, effect, noise: 0.05 * layer + 0.2 * noise)
    found = fit_localisation(frame)
    shuffled = fit_localisation(frame.sample(frac=1, random_state=3))
    assert found is not None and shuffled is not None
    assert shuffled.layer == found.layer and found.layer.n == FACTS
    many = fit_localisation(cells(lambda layer, effect, noise: 0.05 * layer + 0.2 * noise, facts=16 * FACTS))
    assert many is not None
    assert (found.layer.high - found.layer.low) > 2 * (many.layer.high - many.layer.low)


def test_scores_without_spread_or_too_few_of_them_have_no_fit() -> None:
    assert fit_localisation(cells(lambda layer, effect, noise: 0 * effect + 1)) is None
    assert fit_localisation(cells(lambda layer, effect, noise: noise, facts=1)) is None
    assert fit_localisation(cells(lambda layer, effect, noise: noise).iloc[:0]) is None


def test_the_difference_of_gains_is_paired_by_fact() -> None:
    more, less = (cells(lambda layer, effect, noise, share=share: 0.1 * layer + share * effect + 0.05 * noise) for share in (0.3, 0.0))
    found, same = gain_difference(more, less), gain_difference(more, more)
    assert found is not None and same is not None
    assert 0 < found.low < found.value < found.high and same.low == same.high == 0
    one, other = fit_localisation(more), fit_localisation(less)
    assert one is not None and other is not None
    assert found.value == pytest.approx(one.gain.value - other.gain.value)
    assert gain_difference(more, less.assign(fact_id="other")) is None


def test_a_common_best_layer_serves_the_facts_that_lose_little_by_it() -> None:
    scores = {"a": [0.9, 0.2], "b": [0.9, 0.93], "c": [0.9, 1.0], "d": [0.8, 0.1]}
    rows = [(fact, layer, 0.0, score) for fact, each in scores.items() for layer, score in enumerate(each)]
    frame = pd.DataFrame(rows, columns=["fact_id", "layer", "effect", "score"])
    found = share_with_common_layer(frame, 0.05)
    assert found is not None and found.value == 0.75 and found.n == 4
    assert found.low < 0.75
    with_gap = share_with_common_layer(frame.drop(index=7), 0.05)
    assert with_gap is not None and with_gap.n == 3


def test_feasible_layers_have_edits_that_succeed() -> None:
    frame = cells(lambda layer, effect, noise: (layer < 4) * 0.9 + 0.0 * effect)
    assert set(in_feasible_layers(frame)["layer"]) == {0, 1, 2, 3}
    assert len(below_ceiling(frame.assign(score=frame["layer"] / 5))) == FACTS * 5


# --- scores -----------------------------------------------------------------------------------------------------------


def test_rewrite_scores_by_problem() -> None:
    before, after = np.array([0.0, 0.5, 0.2, 1.0]), np.array([0.8, 0.75, 0.1, 1.0])
    assert rewrite_score("injection", before, after) == pytest.approx([0.8, 0.5, 0.0, 0.0])
    assert rewrite_score("erasure", before, after) == pytest.approx([0.0, 0.0, 0.5, 0.0])


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(["injection", "erasure", "amplification", "forcing", "reversal"]))
@settings(max_examples=50)
def test_scores_lie_between_nothing_and_everything(before: float, after: float, problem) -> None:
    assert 0 <= float(rewrite_score(problem, np.array([before]), np.array([after]))[0]) <= 1


def traces(**changes: object) -> pd.DataFrame:
    """One fact with two tokens, two layers, one window."""
    rows = [("last_subject", 2, 0, 0.35), ("last_subject", 2, 1, 0.1), ("last", 4, 0, 0.05), ("last", 4, 1, 0.7)]
    frame = pd.DataFrame(rows, columns=["token_role", "position", "layer", "p_restored"])
    return frame.assign(**{"request_id": "r", "fact_id": "f", "window": 1, "p_clean": 0.6, "p_corrupt": 0.1, **changes})


def test_the_effect_of_a_layer_is_the_largest_over_tokens_and_never_negative() -> None:
    found = tracing_effects(traces()).set_index("layer")["effect"]
    assert found.to_dict() == pytest.approx({0: 0.5, 1: 1.2})
    by_role = role_effects(traces()).set_index(["token_role", "layer"])["effect"]
    assert by_role.to_dict() == pytest.approx({("last_subject", 0): 0.5, ("last_subject", 1): 0, ("last", 0): 0, ("last", 1): 1.2})


def test_noise_that_raises_the_probability_is_measured_by_its_size() -> None:
    found = tracing_effects(traces(p_clean=0.1, p_corrupt=0.3)).set_index("layer")["effect"]
    assert found.to_dict() == pytest.approx({0: 0.25, 1: 2.0})


def test_noise_without_consequence_has_no_effect_and_unknown_facts_are_left_out() -> None:
    assert tracing_effects(traces(p_clean=0.6, p_corrupt=0.6))["effect"].tolist() == [0.0, 0.0]
    assert tracing_effects(traces(p_clean=0.019)).empty

"""Rules of the claims on localisation (LO1 to LO5): does causal tracing say where to edit (Hase et al. 2023)?"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from d4s.analysis.intervals import IntervalEstimate, correlation_interval, over_seeds
from d4s.analysis.localisation import Localisation, Method, SweepKey
from d4s.analysis.localisation_fits import READINGS
from d4s.analysis.localisation_regression import LocalisationFit, fit_localisation, gain_difference, share_with_common_layer
from d4s.analysis.study_results import Results
from d4s.analysis.verdicts import Condition, NotMeasured, RuleResult, Unit, collect_missing, show_estimate

LARGEST_GAIN = 0.05  # of R² by tracing, that still counts as nothing
LEAST_SPREAD = 0.05  # standard deviation of scores, below which there is nothing to explain
LARGEST_CORRELATION = 0.1
NEAR = 0.05  # of the score at a fact's own best layer
FEWEST_FACTS = 3
LOCATOR, TUNED = "rome", "ft_m"


def tracing_adds_nothing(results: Results) -> RuleResult:
    """LO1: beside the edited layer, the tracing effect explains next to nothing of the rewrite score of an injected error.

    Raises:
        NotMeasured: if no edits were swept over layers of traced facts.
    """
    located = Localisation(results)
    found = _each_method(located, f"{LARGEST_GAIN} − gain of R² by tracing", lambda key: _less(LARGEST_GAIN, _fit(located, key).gain))
    return replace(found, why=[*_readings(located, "gain of R² by tracing", lambda fit: fit.gain)])


def layer_decides(results: Results) -> RuleResult:
    """LO2: the edited layer alone explains at least half of the variance of the rewrite score of an injected error.

    Raises:
        NotMeasured: if no edits were swept over layers of traced facts.
    """
    located = Localisation(results)
    found = _each_method(located, "R² of the layer", lambda key: _fit(located, key).layer, margin=0.5)
    return replace(found, why=[*_readings(located, "R² of the layer", lambda fit: fit.layer)])


def no_relation_at_usual_layer(results: Results) -> RuleResult:
    """LO3: at the layer that ROME usually edits, a larger tracing effect there does not go with a better rewrite score.

    Raises:
        NotMeasured: if ROME was not swept over layers of traced facts.
    """
    located = Localisation(results)

    def effect(key: SweepKey) -> IntervalEstimate:
        return _less(LARGEST_CORRELATION, _correlation(located, key))

    return _each_method(located, f"{LARGEST_CORRELATION} − correlation at its usual layer", effect, unit="correlation", only=LOCATOR)


def forcing_relates_more(results: Results) -> RuleResult:
    """LO4: tracing adds more to the layer for forcing, which starts where tracing does, than for injection.

    Raises:
        NotMeasured: if one of the problems was not swept over layers of traced facts by fine-tuning.
    """
    located = Localisation(results)

    def effect(key: SweepKey) -> IntervalEstimate:
        forced = located.cells.get(key._replace(problem="forcing"))
        gap = None if forced is None else gain_difference(forced, located.cells[key])
        if gap is None:
            raise NotMeasured(f"no forcing beside injection by {_name(located, key.model, key.method)}")
        return gap

    return _each_method(located, "gain of R² by tracing, forcing − injection", effect, margin=0.01, only=TUNED)


def one_layer_for_all(results: Results) -> RuleResult:
    """LO5 (ours): one common layer serves most facts about as well as each fact's own best layer.

    Raises:
        NotMeasured: if no edits were swept over layers of traced facts.
    """
    located = Localisation(results)

    def effect(key: SweepKey) -> IntervalEstimate:
        share = share_with_common_layer(located.cells[key], NEAR)
        if share is None:
            raise NotMeasured(f"no fact was edited at every layer by {_name(located, key.model, key.method)}")
        return share

    return _each_method(located, f"facts within {NEAR} of their best score at the common layer", effect, margin=0.5, unit="points")


def _each_method(
    located: Localisation,
    label: str,
    effect: Callable[[SweepKey], IntervalEstimate],
    *,
    margin: float = 0.0,
    unit: Unit = "r_squared",
    only: str = "",
) -> RuleResult:
    """One condition per method (of one preset alone, where it is named) on injected errors: an effect within each seed, then over seeds.

    Raises:
        NotMeasured: if no method was swept over layers of traced facts.
    """
    conditions, missing = list[Condition](), list[str]()
    for (model, method), keys in located.keys("injection").items():
        if only and method.preset != only:
            continue
        with collect_missing(missing):
            estimate = over_seeds([effect(key) for key in keys])
            conditions.append(Condition(f"{label}, {_name(located, model, method)}", estimate, margin, unit))
    if not conditions:
        raise NotMeasured("; ".join(missing) or f"no injected errors of {only or 'any editor'} swept over layers of traced facts")
    return RuleResult(conditions, missing=missing)


def _fit(located: Localisation, key: SweepKey) -> LocalisationFit:
    """The fit to the cells of a sweep.

    Raises:
        NotMeasured: if scores hardly vary.
    """
    found = fit_localisation(located.cells[key])
    if found is None or found.spread < LEAST_SPREAD:
        spread = 0.0 if found is None else found.spread
        raise NotMeasured(
            f"scores of {_name(located, key.model, key.method)} vary too little over facts and layers to be explained "
            f"(standard deviation {spread:.3f}, at least {LEAST_SPREAD} is needed)"
        )
    return found


def _readings(located: Localisation, label: str, read: Callable[[LocalisationFit], IntervalEstimate]) -> Iterator[str]:
    """The same number on some of the cells alone, as sentences; they decide nothing."""
    for (model, method), keys in located.keys("injection").items():
        for reading, choose in READINGS.items():
            fits = [fit for key in keys if reading and (fit := fit_localisation(choose(located.cells[key]))) is not None]
            if fits:
                shown = show_estimate(over_seeds([read(fit) for fit in fits]), "r_squared", signed=False)
                yield f"{label} {reading}, {_name(located, model, method)}: {shown}."


def _correlation(located: Localisation, key: SweepKey) -> IntervalEstimate:
    """Correlation over facts of rewrite score and tracing effect at the usual layer of a method.

    Raises:
        NotMeasured: if that layer is unknown or was not edited, or one of the two is the same for all facts.
    """
    usual, cells = located.usual_layer(key.model, key.method.preset), located.cells[key]
    here = cells[cells["layer"] == usual]
    if len(here) < FEWEST_FACTS or here["effect"].nunique() < 2 or here["score"].nunique() < 2:
        raise NotMeasured(f"scores and effects of too few facts differ at layer {usual} of {_name(located, key.model, key.method)}")
    return correlation_interval(here["effect"].to_numpy(float), here["score"].to_numpy(float), here["fact_id"].tolist())


def _less(bound: float, estimate: IntervalEstimate) -> IntervalEstimate:
    """How far an estimate stays below a bound."""
    return replace(estimate, value=bound - estimate.value, low=bound - estimate.high, high=bound - estimate.low)


def _name(located: Localisation, model: str, method: Method) -> str:
    return method.name + (f" ({model})" if len(located.results.models) > 1 else "")

"""Rules of SERAC's claims (SE1–SE5): against editors of weights, with many edits, near misses, and where its errors come from."""

from collections.abc import Sequence

import numpy as np

from d4s.analysis.display_names import method_name
from d4s.analysis.intervals import IntervalEstimate, average_difference, mean_interval, over_seeds
from d4s.analysis.memory_results import MemoryResults
from d4s.analysis.pairs import average_gap, by_seed, length_of_both, score_gap
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.analysis.verdicts import Condition, NotMeasured, RuleResult, collect_missing
from d4s.schemas import NEAR_MISSES

SERAC, FAR, SOFT = "serac_trained", "serac_far", "serac_soft"
"""SERAC with an answering model that is trained, as in the paper; with a router trained without near misses; and with mixed answers."""
RIVALS = ("ft_m", "rome", "memit")
FEW, MANY = 10, 300
LOST, GAINED = 0.05, 0.05
LEAST_FAILURES = 20
MEASURES = {"efficacy_accuracy": "efficacy", "locality_accuracy": "specificity", NEAR_MISSES: "specificity on near misses"}


def edits_better(results: Results) -> RuleResult:
    """SE1: the average of efficacy, paraphrase and specificity is above that of editors of weights."""
    conditions, missing = [], []
    for panel in _panels(results):
        for rival in RIVALS:
            with collect_missing(missing):
                length = length_of_both(results, panel, (SERAC, rival))
                gap = average_gap(results, panel, (SERAC, rival), length)
                if gap is not None:
                    conditions.append(Condition(_name(results, panel, (SERAC, rival), length, "average"), gap))
    return RuleResult(conditions, missing=missing)


def stays_with_many_edits(results: Results) -> RuleResult:
    """SE2: the first edits lose little efficacy and specificity while many others follow."""
    conditions, missing = [], []
    for panel in _panels(results):
        for metric in ("efficacy_accuracy", "locality_accuracy"):
            with collect_missing(missing):
                conditions.append(_kept(results, panel, metric))
    return RuleResult(conditions, missing=missing)


def near_misses_matter(results: Results) -> RuleResult:
    """SE3: trained with near misses, it leaves near misses alone more often."""
    return _specificity_rule(results, FAR, NEAR_MISSES, GAINED)


def router_is_the_bottleneck(results: Results) -> RuleResult:
    """SE4: most failed paraphrases did not reach their entry."""
    conditions, few = [], []
    for panel in _panels(results):
        runs = results.runs_of(panel, SERAC)
        length = max(length for run in runs for length in results.lengths(run))
        failures = [_failures(MemoryResults(results), run, length) for run in runs]
        asked = [failed for failed in failures if len(failed)]
        if min(map(len, failures)) < LEAST_FAILURES:
            few.append(f"{min(map(len, failures))} paraphrases failed on {results.panel_name(panel)}")
        if asked:
            name = f"failed paraphrases that did not reach their entry: {method_name(SERAC)}, {length} edits, {results.panel_name(panel)}"
            estimate = over_seeds([mean_interval(np.asarray(failed)) for failed in asked])
            conditions.append(Condition(name, estimate, 0.5, "percent"))
    because = f"fewer than {LEAST_FAILURES} failures in a draw: {'; '.join(few)}" if few else ""
    return RuleResult(conditions, why=[f"{because}."] if because else (), undecided_because=because)


def decides_better_than_it_mixes(results: Results) -> RuleResult:
    """SE5: a decision for one model leaves unrelated answers alone more often than a mixture."""
    return _specificity_rule(results, SOFT, "locality_accuracy", 0.0)


def _specificity_rule(results: Results, rival: str, metric: str, margin: float) -> RuleResult:
    conditions, missing = [], []
    for panel in _panels(results):
        with collect_missing(missing):
            length = length_of_both(results, panel, (SERAC, rival))
            gap, name = score_gap(results, panel, (SERAC, rival), length, metric), MEASURES[metric]
            if gap is None:
                raise NotMeasured(f"{name} of {method_name(SERAC)} or {method_name(rival)} on {results.panel_name(panel)}")
            conditions.append(Condition(_name(results, panel, (SERAC, rival), length, name), gap, margin))
    return RuleResult(conditions, missing=missing)


def _kept(results: Results, panel: Panel, metric: str) -> Condition:
    """What may be lost minus what the first requests lose between few edits and many, paired by fact.

    Raises:
        NotMeasured: if a length was not measured.
    """
    name = f"{LOST * 100:.0f} pp − loss of {MEASURES[metric]} of the first {FEW} edits: {method_name(SERAC)}, {FEW} to {MANY} edits"
    if any({FEW, MANY} - {*results.lengths(run)} for run in results.runs_of(panel, SERAC)):
        raise NotMeasured(f"{name}, {results.panel_name(panel)}: both lengths are needed")

    def lost(run: RunKey) -> IntervalEstimate:
        few, many = (results.retained(run, length)[metric] for length in (FEW, MANY))
        facts = few.index.intersection(many.index)
        return average_difference(*(scores.loc[facts].to_numpy(dtype=float)[:, None] for scores in (few, many)))

    found = by_seed(results, panel, [SERAC], lost)
    assert found is not None
    return Condition(f"{name}, {results.panel_name(panel)}", found.scaled(-1.0).shifted(LOST))


def _failures(memory: MemoryResults, run: RunKey, length: int) -> Sequence[float]:
    """Of every failed paraphrase, whether it did not reach its entry."""
    rows = memory.answers_in_scope(run, length)
    rows = rows[(rows["kind"] == "paraphrase") & (rows["right"] == 0)]
    return [float(value) for value in 1.0 - rows["found"]]


def _panels(results: Results) -> list[Panel]:
    """The panels in which SERAC was run.

    Raises:
        NotMeasured: if there are none.
    """
    panels = [panel for panel in results.main_panels if results.runs_of(panel, SERAC)]
    if not panels:
        raise NotMeasured(f"no run of {method_name(SERAC)}")
    return panels


def _name(results: Results, panel: Panel, editors: tuple[str, str], length: int, what: str) -> str:
    left, right = map(method_name, editors)
    return f"{what}: {left} − {right}, {length} edits, {results.panel_name(panel)}"

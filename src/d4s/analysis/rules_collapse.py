"""Rules on what collapses a model (BU1 to BU6): single edits, the place of the subject, one key, perplexity as an alarm, hard cases."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from d4s.analysis.collapse import CORPUS_RATIO, RATIO, Cases, Collapse
from d4s.analysis.display_names import method_name
from d4s.analysis.intervals import IntervalEstimate, correlation_interval, difference, over_seeds, share_interval
from d4s.analysis.study_results import Panel, Results
from d4s.analysis.verdicts import Condition, NotMeasured, RuleResult, collect_missing, show_estimate

COLLAPSING, BESIDE, REPAIRED = "rome_identity", "rome", "r_rome"
SEQUENCES = ("rome", "memit", "ft_m")
PLACE_MARGIN, REPAIR_MARGIN, ALARM_MARGIN, SOONER_MARGIN = 0.05, 0.9, 0.5, float(np.log(2))
FEWEST_COLLAPSES, FEWEST_MODELS = 5, 30


def one_edit_collapses(results: Results) -> RuleResult:
    """BU1: the share of single edits by ROME with the identity that collapse the model is above 0; other panels and ROME are reported."""
    found = Collapse(results)
    panel = found.searched
    condition = Condition(_edits_by(found, panel, COLLAPSING), _share(found.of(panel, COLLAPSING)["collapsed"]), unit="points")
    why = [*_shares(found, panel, (BESIDE,)), *(line for other in found.panels if other != panel for line in _shares(found, other))]
    return RuleResult([condition], why)


def first_short_subjects(results: Results) -> RuleResult:
    """BU2: edits of subjects of one token at the first position collapse the model more often than all others.

    Raises:
        NotMeasured: if no subject, or every one, is of this kind.
    """
    found = Collapse(results)
    searched = found.searched
    others = [panel for panel in found.panels if panel.dataset == searched.dataset and panel != searched]
    panels = [searched, *(panel for panel in others if _edited(found, panel, COLLAPSING))]
    edits = pd.concat([found.of(panel, COLLAPSING) for panel in panels]).dropna(subset="subject_start")
    gaps = [gap for _, part in edits.groupby("seed") if (gap := _place_gap(part)) is not None]
    if not gaps:
        raise NotMeasured("no subject of one token stands at position 0, or no other does elsewhere")
    name = f"{method_name(COLLAPSING)}: share of collapses, one token at position 0 − all others"
    return RuleResult([Condition(name, over_seeds(gaps), PLACE_MARGIN)])


def _place_gap(edits: pd.DataFrame) -> IntervalEstimate | None:
    """Share of collapses of subjects of one token at position 0 minus that of all others; None where one of the two has none."""
    inside = ((edits["subject_tokens"] == 1) & (edits["subject_start"] == 0)).to_numpy()
    collapsed = edits["collapsed"].to_numpy(dtype=float)
    return difference(collapsed[inside], collapsed[~inside]) if inside.any() and not inside.all() else None


def one_key_repairs(results: Results) -> RuleResult:
    """BU3: of the edits that collapse the model under ROME with the identity, those that do not under R-ROME."""
    found = Collapse(results)
    panel = found.searched
    keys = ["seed", "request_id"]
    broken = found.of(panel, COLLAPSING).query("collapsed").merge(found.of(panel, REPAIRED)[[*keys, "collapsed"]], on=keys)
    name = f"{method_name(COLLAPSING)} collapses, {method_name(REPAIRED)} does not, {found.panel_name(panel)}"
    if len(broken) < FEWEST_COLLAPSES:
        why = f"{name}: {len(broken)} collapses, fewer than {FEWEST_COLLAPSES}."
        return RuleResult([], [why], undecided_because="too few collapses")
    return RuleResult([Condition(name, _share(~broken["collapsed_y"].astype(bool)), REPAIR_MARGIN, "percent")])


def perplexity_tells(results: Results) -> RuleResult:
    """BU4: Spearman correlation of −log perplexity and the benchmark mean over edited models, resampled by sequence.

    Raises:
        NotMeasured: if there are too few edited models, or none of them has collapsed.
    """
    models = Collapse(results).models.dropna(subset="score")
    if len(models) < FEWEST_MODELS or not models["collapsed"].any():
        raise NotMeasured(f"{len(models)} edited models with benchmarks, {int(models['collapsed'].sum())} collapsed; needs 30 with one")
    conditions = []
    for model, part in models.groupby("model"):
        x, y = stats.rankdata(-part["perplexity"].to_numpy()), stats.rankdata(part["score"].to_numpy())
        runs = list(zip(part["dataset"], part["editor"], part["seed"], strict=True))
        if len(part) >= FEWEST_MODELS:
            conditions.append(Condition(f"edited models, {model}", correlation_interval(x, y, runs), ALARM_MARGIN, "correlation"))
    return RuleResult(conditions)


def hard_cases_break_sooner(results: Results) -> RuleResult:
    """BU5: sequences of hard cases collapse the model in fewer edits than those of normal ones.

    Raises:
        NotMeasured: if no sequences of both sets were run.
    """
    found = Collapse(results)
    conditions, missing = [], []
    for editor in SEQUENCES:
        with collect_missing(missing):
            conditions.append(
                Condition(
                    f"log of edits to collapse, normal ÷ hard, {method_name(editor)}", _log_ratio(found, editor), SOONER_MARGIN, "log ratio"
                )
            )
    return RuleResult(conditions, [*_hard_alone(found)], missing=missing)


def aggregates_disagree(results: Results) -> RuleResult:
    """BU6: single edits that the mean over rows flags as collapses and the perplexity of the whole text does not."""
    found = Collapse(results)
    panels = [found.searched, *(panel for panel in found.panels if panel != found.searched)]
    edits = pd.concat([found.of(panel, COLLAPSING) for panel in panels if panel == found.searched or _edited(found, panel, COLLAPSING)])
    flagged = edits["collapsed"] & ~(edits[CORPUS_RATIO] > found.times)
    name = f"{method_name(COLLAPSING)}: collapses by the mean over rows alone, {len(edits)} single edits"
    every = found.edits.dropna(subset=RATIO)
    alone = int((every["collapsed"] & ~(every[CORPUS_RATIO] > found.times)).sum())
    why = f"All editors: {alone} of {len(every)} single edits."
    return RuleResult([Condition(name, _share(flagged))], [why])


# --- parts --------------------------------------------------------------------------------------------------------------


def _share(flags: "pd.Series[bool]") -> IntervalEstimate:
    return share_interval(int(flags.sum()), len(flags))


def _edits_by(found: Collapse, panel: Panel, editor: str) -> str:
    return f"single edits by {method_name(editor)} that collapse the model, {found.panel_name(panel)}"


def _edited(found: Collapse, panel: Panel, editor: str) -> bool:
    edits = found.edits
    return bool(((edits["model"] == panel.model) & (edits["dataset"] == panel.dataset) & (edits["editor"] == editor)).any())


def _shares(found: Collapse, panel: Panel, editors: tuple[str, ...] = (COLLAPSING, BESIDE)) -> Iterator[str]:
    """Sentences with the share of collapses of editors that were run on a panel."""
    for editor in editors:
        if _edited(found, panel, editor):
            edits = found.of(panel, editor)
            share = show_estimate(_share(edits["collapsed"]), "points", signed=False)
            yield f"{_edits_by(found, panel, editor)}: {share}, {int(edits['above_1000'].sum())} above a perplexity of 1000."


def _log_ratio(found: Collapse, editor: str) -> IntervalEstimate:
    """Log of edits to collapse of normal over hard cases, over seeds; sequences that never collapse count with their length.

    Raises:
        NotMeasured: if an end is missing, none collapses, or there is one seed, which gives no interval.
    """
    ends: dict[Cases, dict[int, tuple[int, bool]]] = {"hard": {}, "normal": {}}
    for end in found.sequences:
        if end.editor == editor:
            ends[end.cases][end.seed] = end.edits, end.collapsed
    seeds = sorted(ends["hard"].keys() & ends["normal"].keys())
    if not any(ends[cases][seed][1] for seed in seeds for cases in ends):
        raise NotMeasured(f"no sequence of hard or normal cases by {method_name(editor)} collapsed the model")
    if len(seeds) < 2:
        raise NotMeasured(f"sequences by {method_name(editor)} have one seed, which gives no interval")
    logs = [float(np.log(ends["normal"][seed][0] / ends["hard"][seed][0])) for seed in seeds]
    return over_seeds([IntervalEstimate(value, np.nan, np.nan, 1) for value in logs])


def _hard_alone(found: Collapse) -> Iterator[str]:
    """How many facts of the searched panel collapse the model when they are edited alone, by any editor."""
    panel, edits = found.searched, found.edits
    if not edits.empty:
        facts = edits[(edits["model"] == panel.model) & (edits["dataset"] == panel.dataset)].groupby("fact_id")["collapsed"].any()
        yield f"Of {len(facts)} facts edited alone, {int(facts.sum())} collapse the model by some editor."

"""Rules of SAUL's claims (SA1–SA5): edits as good as those of locating editors, fluency kept, and the cost of an edit.

Fine-tuning with true sentences behind its targets is held against the same fine-tuning without, in a sequence and as mass editing.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from d4s.analysis.display_names import method_name
from d4s.analysis.edit_costs import EditCost, edit_cost
from d4s.analysis.intervals import IntervalEstimate, over_seeds
from d4s.analysis.pairs import average_gap, length_of_both, score_gap
from d4s.analysis.study_results import Panel, Results
from d4s.analysis.verdicts import Condition, NotMeasured, RuleResult, Unit, collect_missing
from d4s.schemas import ENTROPY

SPECIFICITY = "locality_accuracy"
KEPT_ENTROPY, GAINED_ENTROPY, GAINED_SPECIFICITY = 0.30, 0.10, 0.05


class Row(NamedTuple):
    """The editors of a row of the study by their part: SAUL, fine-tuning without sentences and with sentences apart, MEMIT."""

    saul: str
    plain: str
    apart: str
    memit: str


SEQUENCE = Row("saul", "ft_m", "ft_facts", "memit")
MASS = Row("saul_mass", "ft_m_mass", "ft_facts_mass", "memit_mass")
LOCATORS = ("rome", MASS.memit)


def edits_as_well(results: Results) -> RuleResult:
    """SA1: mass editing by SAUL has at least the average of locating editors."""
    conditions, missing = [], []
    for panel in _panels(results, MASS.saul):
        for rival in LOCATORS:
            with collect_missing(missing):
                length = length_of_both(results, panel, (MASS.saul, rival))
                gap = average_gap(results, panel, (MASS.saul, rival), length)
                if gap is not None:
                    conditions.append(Condition(_name(results, panel, (MASS.saul, rival), length, "average"), gap))
    return RuleResult(conditions, missing=missing)


def keeps_fluency(results: Results) -> RuleResult:
    """SA2: texts are more varied than after fine-tuning alone, and nearly as varied as the unedited model's."""
    conditions, missing = [], []
    for panel, row in _rows(results):
        with collect_missing(missing):
            conditions.append(_gap(results, panel, (row.saul, row.plain), ENTROPY, margin=GAINED_ENTROPY))
        with collect_missing(missing):
            lost = _gap(results, panel, (row.saul, "unedited"), ENTROPY)
            name = f"{KEPT_ENTROPY:.2f} bits − loss of entropy: {lost.name}"
            conditions.append(Condition(name, lost.estimate.shifted(KEPT_ENTROPY), unit="bits"))
    return RuleResult(conditions, missing=missing)


def keeps_unrelated_facts(results: Results) -> RuleResult:
    """SA3: specificity is higher than after fine-tuning alone."""
    conditions, missing = [], []
    for panel, row in _rows(results):
        with collect_missing(missing):
            conditions.append(_gap(results, panel, (row.saul, row.plain), SPECIFICITY, margin=GAINED_SPECIFICITY))
    return RuleResult(conditions, missing=missing)


def concatenation_helps(results: Results) -> RuleResult:
    """SA4: sentences behind the targets do more for fluency and specificity than the same sentences apart."""
    conditions, missing = [], []
    for panel, row in _rows(results):
        for metric in (ENTROPY, SPECIFICITY):
            with collect_missing(missing):
                conditions.append(_gap(results, panel, (row.saul, row.apart), metric))
    return RuleResult(conditions, missing=missing)


def is_cheaper(results: Results) -> RuleResult:
    """SA5: an edit takes less processor time than one of MEMIT, what is prepared for either included."""
    conditions, why, missing = [], [], []
    for panel, row in _rows(results):
        with collect_missing(missing):
            pairs = _costs(results, panel, row)
            why += _cost_sentences(results, panel, row, pairs)
            conditions.append(_cost_condition(results, panel, row, pairs))
    return RuleResult(conditions, why, missing=missing)


def _cost_condition(results: Results, panel: Panel, row: Row, pairs: Sequence[tuple[EditCost, EditCost]]) -> Condition:
    """The log ratio of costs over seeds.

    Raises:
        NotMeasured: if there is one seed.
    """
    edits = pairs[0][0].edits
    name = f"{method_name(row.memit)} ÷ {method_name(row.saul)}, CPU-s per edit, {edits} edits, {results.panel_name(panel)}"
    if len(pairs) < 2:
        raise NotMeasured(f"{name}: costs are recorded per run, so one seed gives no interval")
    found = [IntervalEstimate(math.log(theirs.per_edit / ours.per_edit), np.nan, np.nan, edits) for ours, theirs in pairs]
    return Condition(name, over_seeds(found), unit="log ratio")


def _costs(results: Results, panel: Panel, row: Row) -> list[tuple[EditCost, EditCost]]:
    """Costs of SAUL and of MEMIT in every seed that has both, at the same number of edits.

    Raises:
        NotMeasured: if there are none.
    """
    names = f"{method_name(row.saul)} and {method_name(row.memit)} on {results.panel_name(panel)}"
    ours, theirs = (
        {run.seed: found for run in results.runs_of(panel, editor) if (found := edit_cost(results, run)) is not None}
        for editor in (row.saul, row.memit)
    )
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys()) if ours[seed].edits == theirs[seed].edits]
    if not pairs:
        raise NotMeasured(f"no costs of {names} at one number of edits")
    return pairs


def _cost_sentences(results: Results, panel: Panel, row: Row, pairs: Sequence[tuple[EditCost, EditCost]]) -> Iterator[str]:
    ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    for editor, costs in ((row.saul, ours), (row.memit, theirs)):
        alone, whole = (float(np.mean([getattr(cost, key) for cost in costs])) for key in ("editing_per_edit", "per_edit"))
        yield f"{method_name(editor)}, {results.panel_name(panel)}: {alone:.2f} CPU-s per edit, {whole:.2f} with what is prepared."
    turn = float(np.mean([their.break_even(our) for our, their in pairs]))
    cheaper = f"{method_name(row.saul)} has cost less than {method_name(row.memit)}"
    yield f"{cheaper} from {turn:.0f} edits on." if math.isfinite(turn) else f"{cheaper} at no number of edits."


# --- panels and pairs ---------------------------------------------------------------------------------------------------


def _panels(results: Results, editor: str) -> list[Panel]:
    """The panels in which an editor was run.

    Raises:
        NotMeasured: if there are none.
    """
    panels = [panel for panel in results.main_panels if results.runs_of(panel, editor)]
    if not panels:
        raise NotMeasured(f"no run of {method_name(editor)}")
    return panels


def _rows(results: Results) -> list[tuple[Panel, Row]]:
    """The panels and the rows of the study that SAUL was run in.

    Raises:
        NotMeasured: if there are none.
    """
    found = [(panel, row) for panel in results.main_panels for row in (SEQUENCE, MASS) if results.runs_of(panel, row.saul)]
    if not found:
        raise NotMeasured(f"no run of {method_name(SEQUENCE.saul)} or {method_name(MASS.saul)}")
    return found


def _gap(results: Results, panel: Panel, editors: tuple[str, str], metric: str, margin: float = 0.0) -> Condition:
    """A metric of one editor minus another's, paired by fact, at the longest length that both have.

    Raises:
        NotMeasured: if one was not run or not measured.
    """
    length = length_of_both(results, panel, editors)
    gap = score_gap(results, panel, editors, length, metric)
    unit: Unit = "bits" if metric == ENTROPY else "points"
    what = "entropy" if metric == ENTROPY else "specificity"
    name = _name(results, panel, editors, length, what)
    if gap is None:
        raise NotMeasured(f"{name}: a run lacks it")
    return Condition(name, gap, margin, unit)


def _name(results: Results, panel: Panel, editors: tuple[str, str], length: int, what: str) -> str:
    left, right = map(method_name, editors)
    return f"{what}: {left} − {right}, {length} edits, {results.panel_name(panel)}"

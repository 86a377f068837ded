"""Rules on robustness to shifted prompts (RO1 to RO4): what edits cost, where, and what lies on the way to the edited weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from d4s.analysis.display_names import method_name
from d4s.analysis.intervals import Array, IntervalEstimate, bootstrap, over_seeds, percentiles
from d4s.analysis.robustness import Statistic, interval, mean_robustness, shifted_accuracy, shifts_of, value_of
from d4s.analysis.robustness_results import Cell, Draw, Robustness, Way
from d4s.analysis.study_results import Panel, Results
from d4s.analysis.verdicts import Condition, NotMeasured, RuleResult, show_estimate

COST_MARGIN, SPREAD_MARGIN, SAVED_MARGIN, MONOTONE_SHARE = 0.01, 0.02, 0.25, 0.9
LEAST_LOSS = 0.02
"""Loss of shifted accuracy below which there is nothing for a better point to save."""


def edits_cost_robustness(results: Results) -> RuleResult:
    """RO1: the effective robustness of edited models is below that of ordinary models, for most editors and above it for none.

    Raises:
        NotMeasured: if no model that edits change was asked, or there is no line of ordinary ones.
    """
    answers, conditions, why = Robustness(results), [], []
    for panel in answers.panels:
        length = answers.judged_length(panel)
        for method, cells in _by_method(answers, panel, length).items():
            lost = _over_draws(answers, panel, cells, partial(_robustness, answers)).scaled(-1.0)
            name = f"{method_name(method)}: usual − edited model's shifted accuracy, {length} edits, {results.panel_name(panel)}"
            if answers.changes_weights(panel, cells[0]):
                conditions.append(Condition(name, lost, COST_MARGIN))
            else:
                why.append(f"Reported alone, since no weight changes: {name}: {show_estimate(lost, 'points')}.")
        unedited = over_seeds([_of_unedited(answers, draw) for draw in answers.draws_of(panel)])
        why.append(f"Effective robustness of the unedited model, {results.panel_name(panel)}: {show_estimate(unedited, 'points')}.")
    if not conditions:
        raise NotMeasured("no editor that changes weights was asked in shifted prompts")
    return RuleResult(conditions, why, is_tendency=True)


def _by_method(answers: Robustness, panel: Panel, length: int) -> Mapping[str, list[Cell]]:
    """The cells of a panel at a length, by method; its layers together."""
    found: dict[str, list[Cell]] = {}
    for cell in answers.cells(panel):
        if cell.edits == length:
            found.setdefault(cell.method, []).append(cell)
    return found


def _over_draws(
    answers: Robustness, panel: Panel, cells: Sequence[Cell], statistic: Callable[[Draw, Sequence[Cell]], Statistic]
) -> IntervalEstimate:
    """A statistic of cells over general facts within each draw, combined."""
    draws = [draw for draw in answers.draws_of(panel) if all((draw, cell) in answers.ways for cell in cells)]
    return over_seeds([interval(statistic(draw, cells), len(answers.unedited[draw])) for draw in draws])


def _robustness(answers: Robustness, draw: Draw, cells: Sequence[Cell]) -> Statistic:
    """Effective robustness, mean over cells and shifts."""
    return mean_robustness([answers.ways[draw, cell].general[1.0] for cell in cells], answers.ordinary[draw])


def _of_unedited(answers: Robustness, draw: Draw) -> IntervalEstimate:
    table = answers.unedited[draw]
    return interval(mean_robustness([table], answers.ordinary[draw]), len(table))


def depends_on_cell(results: Results) -> RuleResult:
    """RO2: effective robustness at the best editor and layer is above that at the worst; chosen on half of the facts, judged on the rest.

    Raises:
        NotMeasured: if there is only one cell, or no line.
    """
    answers, conditions, why = Robustness(results), [], []
    for panel in answers.panels:
        length = answers.judged_length(panel)
        cells = [cell for cell in answers.cells(panel) if cell.edits == length and answers.changes_weights(panel, cell)]
        if len(cells) < 2:
            continue
        found = [_best_and_worst(answers, draw, cells) for draw in answers.draws_of(panel)]
        name = f"best − worst editor and layer, {length} edits, {results.panel_name(panel)}"
        conditions.append(Condition(name, over_seeds([gap for *_, gap in found]), SPREAD_MARGIN))
        for what, chosen in (("Best", [best for best, _, _ in found]), ("Worst", [worst for _, worst, _ in found])):
            names = ", ".join(dict.fromkeys(cell.name for cell in chosen))
            why.append(f"{what} on the facts that choose, {results.panel_name(panel)}: {names}.")
    if not conditions:
        raise NotMeasured("fewer than two editors or layers were asked in shifted prompts")
    return RuleResult(conditions, why)


def _best_and_worst(answers: Robustness, draw: Draw, cells: Sequence[Cell]) -> tuple[Cell, Cell, IntervalEstimate]:
    """The best and the worst cell on every other fact, and their difference on the rest."""
    own = [cell for cell in cells if (draw, cell) in answers.ways]
    sides: list[dict[Cell, Statistic]] = []
    sizes = []
    for first in (0, 1):
        ordinary = [table.iloc[first::2] for table in answers.ordinary[draw]]
        tables = {cell: answers.ways[draw, cell].general[1.0].iloc[first::2] for cell in own}
        sides.append({cell: mean_robustness([table], ordinary) for cell, table in tables.items()})
        sizes.append(len(answers.unedited[draw].iloc[first::2]))
    values = {cell: value_of(statistic, sizes[0]) for cell, statistic in sides[0].items()}
    best, worst = max(values, key=values.__getitem__), min(values, key=values.__getitem__)
    return best, worst, interval(lambda weights: sides[1][best](weights) - sides[1][worst](weights), sizes[1])


# --- on the way to the edited weights -----------------------------------------------------------------------------------


def better_point(results: Results) -> RuleResult:
    """RO3: at the smallest share that keeps 0.9 of the success, less of the loss of shifted accuracy is there.

    Fine-tuning of one layer without a bound is judged, as the paper does; the others are reported.

    Raises:
        NotMeasured: if no such way was walked, or edits lose too little on it.
    """
    answers, conditions, why, missing = Robustness(results), [], [], list[str]()
    for panel, cell in _walked(answers):
        name = f"{cell.name}, {cell.edits} edits, {results.panel_name(panel)}"
        try:
            ways = [answers.ways[draw, cell] for draw in answers.draws_of(panel) if (draw, cell) in answers.ways]
            saved = over_seeds([_saved(way, name) for way in ways])
        except NotMeasured as reason:
            (missing if _is_free_fine_tuning(answers, panel, cell) else why).append(str(reason))
            continue
        if _is_free_fine_tuning(answers, panel, cell):
            conditions.append(Condition(f"saved share of the loss: {name}", saved, SAVED_MARGIN, "percent"))
        else:
            why.append(f"Reported alone: saved share of the loss: {name}: {show_estimate(saved, 'percent')}.")
        shares = ", ".join(f"{way.operating_share:g}" for way in ways)
        others = float(np.mean([way.success(way.operating_share, ~way.is_kept) for way in ways]))
        why.append(f"{name}: share of the change {shares}, where {100 * others:.0f} % of the requests that did not choose it succeed.")
    if not conditions and not missing:
        raise NotMeasured("no fine-tuning of one layer without a bound was asked on the way to its weights")
    return RuleResult(conditions, why, missing=missing)


def _walked(answers: Robustness) -> Iterator[tuple[Panel, Cell]]:
    for panel in answers.panels:
        for cell in answers.walked(panel):
            yield panel, cell


def _is_free_fine_tuning(answers: Robustness, panel: Panel, cell: Cell) -> bool:
    settings = answers.settings(panel, cell)
    plain = all(settings.get(key) in (None, [], ()) for key in ("bound", "more_layers", "regularize", "delta_transform"))
    return settings.get("family") == "fine_tune" and settings.get("layer") is not None and plain


def _saved(way: Way, name: str) -> IntervalEstimate:
    """1 − loss at the operating share ÷ loss at the end, of shifted accuracy about general facts.

    Raises:
        NotMeasured: if the loss at the end is too small to be saved.
    """
    original, chosen, whole = (shifted_accuracy(way.general[share]) for share in (0.0, way.operating_share, 1.0))
    facts = len(way.general[1.0])
    loss = value_of(original, facts) - value_of(whole, facts)
    if loss < LEAST_LOSS:
        raise NotMeasured(f"{name} loses {100 * loss:.1f} points of shifted accuracy, which leaves nothing to save")

    def saved(weights: Array) -> Array:
        before = original(weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            return 1 - (before - chosen(weights)) / (before - whole(weights))

    return interval(saved, facts)


def is_monotone(results: Results) -> RuleResult:
    """RO4: from share to share the loss of edited facts falls and that of general facts in shifted prompts rises.

    Raises:
        NotMeasured: if no way was walked.
    """
    answers, conditions = Robustness(results), []
    for panel, cell in _walked(answers):
        ways = [answers.ways[draw, cell] for draw in answers.draws_of(panel) if (draw, cell) in answers.ways]
        name = f"share of steps: {cell.name}, {cell.edits} edits, {results.panel_name(panel)}"
        conditions.append(Condition(name, over_seeds([_monotone(way) for way in ways]), MONOTONE_SHARE, "percent"))
    if not conditions:
        raise NotMeasured("no editor was asked on the way to its weights")
    return RuleResult(conditions)


def _monotone(way: Way) -> IntervalEstimate:
    """Share of neighbouring shares between which both losses move as claimed, with a bootstrap over edited and over general facts."""
    edited = _losses([way.edited_loss[share][["clean"]] for share in way.shares])
    general = _losses([way.general_loss[share][shifts_of(way.general_loss[share])] for share in way.shares])
    sizes = len(way.edited_loss[1.0]), len(way.general_loss[1.0])
    of_edited, of_general = (bootstrap(size, losses) for size, losses in zip(sizes, (edited, general), strict=True))
    low, high = percentiles(_share_of_steps(of_edited, of_general))
    as_they_are = (losses(np.ones((1, size))) for size, losses in zip(sizes, (edited, general), strict=True))
    return IntervalEstimate(float(_share_of_steps(*as_they_are)[0]), float(low), float(high), min(sizes))


def _share_of_steps(edited: Array, general: Array) -> Array:
    """Of losses by share (r, shares): the share of steps with less loss on edited and more on general facts."""
    return ((np.diff(edited) < 0) & (np.diff(general) > 0)).mean(1)


def _losses(tables: Sequence[pd.DataFrame]) -> Statistic:
    """Mean losses by share (r, shares) from a table of each, mean over columns."""
    values = np.stack([table.to_numpy(dtype=float) for table in tables])  # (shares, n, columns)
    present, filled = ~np.isnan(values), np.nan_to_num(values)
    return lambda weights: (np.einsum("rn,snc->rsc", weights, filled) / np.einsum("rn,snc->rsc", weights, present.astype(float))).mean(2)

"""Table: what editors cost on shifted prompts, by layer and number of edits, and the front on the way to their weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from d4s.analysis.display_names import method_name
from d4s.analysis.intervals import IntervalEstimate, over_seeds
from d4s.analysis.robustness import Statistic, clean_accuracy, interval, mean_robustness, relative_robustness, shifted_accuracy, value_of
from d4s.analysis.robustness_results import Cell, Draw, Robustness, Way
from d4s.analysis.study_results import Panel, Results
from d4s.analysis.verdicts import NotMeasured
from d4s.tables.table import Column, Table, TableSkipped

NOT_KNOWN = IntervalEstimate(np.nan, np.nan, np.nan, 0)
Measure = Callable[[Draw, Way], float]


def table(results: Results) -> Table:
    """The table, a row per editor and layer, blocks by length.

    Raises:
        TableSkipped: if no shifted prompts were asked.
    """
    answers = Robustness(results)
    try:
        cells = [(panel, cell) for panel in answers.panels for cell in sorted(answers.cells(panel), key=lambda cell: cell.edits)]
        rows = [_row(results, answers, panel, cell) for panel, cell in cells]
    except NotMeasured as reason:
        raise TableSkipped(str(reason)) from None
    columns = (
        Column("success", "Success", "Edited facts", best="high", factor=100.0),
        Column("clean", "Clean", "Other facts", best="high", factor=100.0),
        Column("shifted", "Shifted", "Other facts", best="high", factor=100.0),
        Column("effective", "Effective", "Robustness", best="high", factor=100.0, signed=True, interval=True),
        Column("relative", "Relative", "Robustness", best="high", factor=100.0, signed=True),
        Column("text", "Text", "Robustness", best="low", digits=3, signed=True),
        Column("share", "Share", "On the way", digits=2),
        Column("area", "Area", "On the way", best="high", digits=3),
    )
    half = "bootstrap interval over facts" if len(results.seeds) == 1 else "t-interval over seeds"
    caption = (
        "Success: clean prompts about edited facts. Other facts: accuracy on clean and, mean over shifts, on shifted prompts. Effective "
        "robustness: shifted accuracy minus that of ordinary models of the same clean accuracy; relative robustness: change of shifted "
        f"minus change of clean accuracy; both in points, ± half a 95 % {half}. Text: nats per token more than the unedited model loses on "
        "shifted text. On the way to the edited weights: the smallest share at which 0.9 of the edits succeed, and the area under the "
        "front of success and shifted accuracy. Best in bold, second underlined."
    )
    return Table("Robustness to shifted prompts", caption, ("method", "layer"), columns, pd.DataFrame(rows))


def _row(results: Results, answers: Robustness, panel: Panel, cell: Cell) -> dict[str, Any]:
    found = {draw: answers.ways[draw, cell] for draw in answers.draws_of(panel) if (draw, cell) in answers.ways}
    effective = _effective(answers, found)

    def mean_over(measure: Measure) -> float:
        return float(np.mean([measure(draw, way) for draw, way in found.items()]))

    def of_general(statistic: Callable[[Draw, pd.DataFrame], Statistic]) -> float:
        return mean_over(lambda draw, way: value_of(statistic(draw, way.general[1.0]), len(way.general[1.0])))

    row: dict[str, Any] = {
        "block": f"{results.panel_name(panel)}, {cell.edits} edits",
        "method": method_name(cell.method),
        "layer": str(cell.layer) if cell.layer >= 0 else "own",
        "reference": False,
        "success": mean_over(lambda _, way: way.success(1.0)),
        "clean": of_general(lambda _, one: clean_accuracy(one)),
        "shifted": of_general(lambda _, one: shifted_accuracy(one)),
        "relative": of_general(lambda draw, one: relative_robustness(one, answers.unedited[draw])),
        "text": mean_over(lambda draw, _: answers.text_loss(draw, cell)),
        "effective": effective.value,
        "effective_low": effective.low,
        "effective_high": effective.high,
    }
    is_walked = cell in answers.walked(panel)
    row |= {"area": mean_over(lambda _, way: way.area) if is_walked else np.nan, "share": np.nan}
    if is_walked and all(way.success(1.0, way.is_kept) for way in found.values()):
        row["share"] = mean_over(lambda _, way: way.operating_share)
    return row


def _effective(answers: Robustness, ways: dict[Draw, Way]) -> IntervalEstimate:
    """Effective robustness over draws; not known without ordinary models."""
    try:
        each = [interval(mean_robustness([way.general[1.0]], answers.ordinary[draw]), len(way.general[1.0])) for draw, way in ways.items()]
    except NotMeasured:
        return NOT_KNOWN
    return over_seeds(each)

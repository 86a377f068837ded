"""Table (after Hase et al. 2023, Table 3): R² of the rewrite score by layer, by tracing effect and by both, by problem and method."""

import pandas as pd

from d4s.analysis.localisation import Localisation
from d4s.analysis.localisation_fits import problem_fits
from d4s.analysis.study_results import Results
from d4s.tables.table import Column, Table, TableSkipped

COLUMNS = (
    Column("score", "Mean", "rewrite score", digits=2),
    Column("layer", "layer", "R²", digits=3, interval=True),
    Column("trace", "tracing", "R²", digits=3),
    Column("both", "both", "R²", digits=3),
    Column("gain", "Gain", "by tracing", digits=3, signed=True, interval=True),
    Column("p_value", "p (F)", "by tracing", digits=3),
    Column("n", "n", digits=0),
)


def table(results: Results) -> Table:
    """The table, a block per problem, a row per method and reading.

    Raises:
        TableSkipped: if no edits were swept over layers of traced facts.
    """
    located = Localisation(results)
    rows = []
    for fit in problem_fits(located):
        model = f" ({fit.model})" if len(results.models) > 1 else ""
        reading = f", {fit.reading}" if fit.reading else ""
        numbers = {f"{name}{end}": getattr(getattr(fit, name), side) for name in ("layer", "trace", "both", "gain") for end, side in _SIDES}
        row = {"block": fit.problem, "method": f"{fit.method.name}{model}{reading}", "reference": bool(fit.reading)}
        rows.append(row | numbers | {"score": fit.score, "p_value": fit.p_value, "n": fit.cells})
    if not rows:
        raise TableSkipped("no edits were swept over layers of traced facts, or their scores do not vary")
    caption = (
        "Single edits swept over layers. Adjusted R² of the rewrite score by the edited layer (a mean per layer), by the tracing effect at "
        "that layer (one line), and by both with their interaction (a line per layer); the gain is that of both over layer, p that of an "
        "F-test of it. Intervals: bootstrap over facts, each with all its layers. Feasible layers have a mean score of at least half "
        "of the best layer's; the ceiling is a score of 0.99; n counts scores."
    )
    return Table("Does tracing say where to edit?", caption, ("method",), COLUMNS, pd.DataFrame(rows))


_SIDES = (("", "value"), ("_low", "low"), ("_high", "high"))

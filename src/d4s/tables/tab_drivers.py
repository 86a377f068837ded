"""Table: regressions of damage on properties of the targets over data sets, each property alone and all together."""

import pandas as pd

from d4s.analysis.display_names import method_name
from d4s.analysis.drivers import FEWEST_ROWS, TARGET_PROPERTIES, damage_table, effects
from d4s.analysis.study_results import Results
from d4s.tables.table import Column, Table, TableSkipped

COLUMNS = (
    Column("coefficient", "Points per SD", factor=100.0, signed=True),
    Column("low", "Low", "95 % interval", factor=100.0, signed=True),
    Column("high", "High", "95 % interval", factor=100.0, signed=True),
    Column("r_squared", "R²", digits=2),
    Column("n", "n", digits=0),
)


def table(results: Results) -> Table:
    """The table, a row per property, alone and together.

    Raises:
        TableSkipped: if too few data sets have benchmarks.
    """
    found = damage_table(results)
    if found is None or not found.can_separate_predictors:
        raise TableSkipped(
            f"benchmarks after edits of at least {FEWEST_ROWS} data sets are needed to tell length, diversity and perplexity apart"
        )
    rows = [
        {
            "block": "alone" if effect.is_univariate else "together",
            "property": TARGET_PROPERTIES[effect.predictor],
            "reference": False,
            "coefficient": effect.estimate.value,
            "low": effect.estimate.low,
            "high": effect.estimate.high,
            "r_squared": effect.r_squared,
            "n": effect.estimate.n,
        }
        for effect in effects(found)
    ]
    caption = (
        f"Loss of the mean benchmark score after {found.length} edits (mean of {', '.join(map(method_name, found.editors))} and of seeds; "
        "one row of the regression per data set and model) against properties of the counterfactual targets under the unedited model. "
        "Ordinary least squares with HC3 intervals; coefficients are points lost per standard deviation of the property."
    )
    return Table("What about the data does the damage", caption, ("property",), COLUMNS, pd.DataFrame(rows))

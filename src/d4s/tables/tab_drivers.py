"""What about the targets goes with the damage: regressions over data sets, each property alone and beside the others."""

import pandas as pd

from d4s.studies.drivers import FEWEST_ROWS, PREDICTORS, damages, effects
from d4s.studies.names import method_name
from d4s.studies.results import Results
from d4s.tables.table import Column, NotTabled, Table

COLUMNS = (
    Column("coefficient", "Points per SD", factor=100.0, signed=True),
    Column("low", "Low", "95 % interval", factor=100.0, signed=True),
    Column("high", "High", "95 % interval", factor=100.0, signed=True),
    Column("r_squared", "R²", digits=2),
    Column("n", "n", digits=0),
)


def table(results: Results) -> Table:
    """A row per property, alone and together.

    Raises:
        NotTabled: if too few data sets have benchmarks.
    """
    found = damages(results)
    if found is None or not found.is_enough:
        raise NotTabled(
            f"benchmarks after edits of at least {FEWEST_ROWS} data sets are needed to tell length, diversity and perplexity apart"
        )
    rows = [
        {
            "block": "alone" if effect.alone else "together",
            "property": PREDICTORS[effect.predictor],
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

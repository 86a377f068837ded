"""The regressions of a study by problem and method, over seeds: on all cells, in feasible layers, and below the ceiling of scores."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from d4s.analysis.intervals import IntervalEstimate, over_seeds
from d4s.analysis.localisation import Localisation, Method
from d4s.analysis.localisation_regression import LocalisationFit, fit_localisation
from d4s.analysis.localisation_scores import PROBLEMS, EditingProblem, below_ceiling, in_feasible_layers

READINGS = {"": lambda cells: cells, "in feasible layers": in_feasible_layers, "below the ceiling": below_ceiling}
"""Which cells a regression is on, by what is said of it; all of them where nothing is said."""


@dataclass(frozen=True, slots=True)
class ProblemFit:
    """A method on a problem: R² over seeds, the largest p of the F-tests, the mean score and the number of scores over seeds."""

    model: str
    problem: EditingProblem
    method: Method
    reading: str
    layer: IntervalEstimate
    trace: IntervalEstimate
    both: IntervalEstimate
    gain: IntervalEstimate
    p_value: float
    score: float
    cells: int


def problem_fits(located: Localisation) -> Iterator[ProblemFit]:
    """Every regression whose scores vary, by problem, then model and method."""
    for problem in PROBLEMS:
        for (model, method), keys in located.keys(problem).items():
            for reading, choose in READINGS.items():
                chosen = [choose(located.cells[key]) for key in keys]
                fits = [(fit, cells) for cells in chosen if (fit := fit_localisation(cells)) is not None]
                if fits:
                    score = float(np.mean([cells["score"].mean() for _, cells in fits]))
                    yield _over_seeds([fit for fit, _ in fits], score, (model, problem, method, reading))


def _over_seeds(fits: list[LocalisationFit], score: float, names: tuple[str, EditingProblem, Method, str]) -> ProblemFit:
    layer, trace, both, gain = (over_seeds([getattr(fit, name) for fit in fits]) for name in ("layer", "trace", "both", "gain"))
    return ProblemFit(*names, layer, trace, both, gain, max(fit.p_value for fit in fits), score, sum(fit.cells for fit in fits))

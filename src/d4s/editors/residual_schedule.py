"""How the residual is shared among the edited layers.

Terms and symbols: docs/notation.md.
"""

import math
from typing import Literal

ResidualSchedule = Literal["remeasured", "static", "even", "root", "own"]
REMEASURED: frozenset[str] = frozenset({"remeasured", "root"})


def residual_weight(residual_schedule: ResidualSchedule, index: int, count: int) -> float:
    """The part of the residual that the layer with an index (from 0) among `count` edited layers takes over.

    `remeasured` and `static` take 1/(L-i): of what is still missing, which adds up to the whole, or of the residual
    measured once, which nominally adds up to 1 + 1/2 + ... + 1/L of it. `even` takes 1/L, `root` 1/sqrt(L-i),
    `own` all of a residual of the layer's own.
    """
    if residual_schedule == "own":
        return 1.0
    if residual_schedule == "even":
        return 1.0 / count
    left = count - index
    return 1.0 / math.sqrt(left) if residual_schedule == "root" else 1.0 / left

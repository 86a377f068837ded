"""How the residual is shared among the edited layers."""

import math
from typing import Literal

Spread = Literal["remeasured", "static", "even", "root", "own"]
REMEASURED: frozenset[str] = frozenset({"remeasured", "root"})


def share(spread: Spread, index: int, count: int) -> float:
    """The part of the residual that the layer with an index (from 0) among `count` edited layers takes over.

    `remeasured` and `static` take 1/(L-i): of what is still missing, which adds up to the whole, or of the residual
    measured once, which nominally adds up to 1 + 1/2 + ... + 1/L of it. `even` takes 1/L, `root` 1/sqrt(L-i),
    `own` all of a residual of the layer's own.
    """
    if spread == "own":
        return 1.0
    if spread == "even":
        return 1.0 / count
    left = count - index
    return 1.0 / math.sqrt(left) if spread == "root" else 1.0 / left

"""Sizes that editors work with and that plans of memory and time count with; nothing here imports torch."""

from typing import Literal

REFACTOR_EVERY = 1000
"""Steps after which the inverse of a recursive solver is recomputed."""
DELAYED_ROWS = 32
"""Rows of updates that a recursive solver collects for one product."""
ACTIVATIONS_PER_PASS = 2**28
"""Entries of hidden states in one pass of target optimisation."""
ATTRIBUTED_TOKENS = 256
"""Tokens that one layer's steps of attribution, and those of its neighbours with them, may bring into a pass."""

ANSWER_TOKENS = 3
"""Tokens that an original answer is assumed to have."""
BACKWARD = 2
"""Passes that one with a gradient with respect to hidden states costs."""

SolverKind = Literal["low_rank", "direct", "recursive"]


def solver_kind(size: int, *, batch: int, grows: bool) -> SolverKind:
    """The cheapest way to hold the inverse of a matrix of a size, for batches of rows and a history that grows or stays empty."""
    if not grows:
        return "low_rank"
    return "direct" if 4 * batch >= size else "recursive"

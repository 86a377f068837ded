"""How the residual is shared among the edited layers."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from d4s.editors.parts.part_families import ResidualSchedule

if TYPE_CHECKING:
    from d4s.editors.least_squares_settings import LeastSquaresSettings


class Remeasured(ResidualSchedule):
    """An equal part of what is still missing, measured again after each layer (MEMIT); adds up to the whole."""

    kind: Literal["remeasured"] = "remeasured"

    formula: ClassVar[str] = "*share = 1 / (L − i)* of the residual measured after each layer"
    is_remeasured: ClassVar[bool] = True

    def weight(self, index: int, count: int) -> float:
        """1/(L-i)."""
        return 1.0 / (count - index)


class Static(ResidualSchedule):
    """The same parts of the residual measured once (D4S as released); nominally adds up to 1 + 1/2 + ... + 1/L of it."""

    kind: Literal["static"] = "static"

    label: ClassVar[str] = "static"
    formula: ClassVar[str] = "*share = 1 / (L − i)* of the residual measured once; adds up to *1 + 1/2 + … + 1/L*"

    def weight(self, index: int, count: int) -> float:
        """1/(L-i)."""
        return 1.0 / (count - index)


class Even(ResidualSchedule):
    """Equal parts of the residual measured once."""

    kind: Literal["even"] = "even"

    label: ClassVar[str] = "even"
    formula: ClassVar[str] = "*share = 1 / L* of the residual measured once"

    def weight(self, index: int, count: int) -> float:
        """1/L."""
        return 1.0 / count


class Root(ResidualSchedule):
    """A larger part of what is still missing, measured again after each layer (PMET); adds up to the whole."""

    kind: Literal["root"] = "root"

    label: ClassVar[str] = "root"
    formula: ClassVar[str] = "*share = 1 / √(L − i)* of the residual measured after each layer"
    is_remeasured: ClassVar[bool] = True

    def weight(self, index: int, count: int) -> float:
        """1/sqrt(L-i)."""
        return 1.0 / math.sqrt(count - index)


class Own(ResidualSchedule):
    """All of a residual of the layer's own: each layer has its target, optimised once the layers below are changed (BLUE)."""

    kind: Literal["own"] = "own"

    label: ClassVar[str] = "own targets"
    formula: ClassVar[str] = "each layer has a target and a residual of its own, and takes all of it"
    has_own_targets: ClassVar[bool] = True

    def conflicts(self, editor: "LeastSquaresSettings") -> Iterator[str]:
        """What is about one target for all layers."""
        yield from _conflicts_of_own_targets(self.kind, editor)

    def weight(self, index: int, count: int) -> float:
        """1."""
        return 1.0


class OwnMeasured(ResidualSchedule):
    """All that a layer still misses of its own target, where all targets are optimised before any layer is changed (MEMIT-FE)."""

    kind: Literal["own_measured"] = "own_measured"

    label: ClassVar[str] = "own targets, first"
    formula: ClassVar[str] = (
        "each layer has a target of its own, optimised before any is written, and takes all of the residual measured then"
    )
    is_remeasured: ClassVar[bool] = True
    has_own_targets: ClassVar[bool] = True
    optimises_before_writing: ClassVar[bool] = True

    def conflicts(self, editor: "LeastSquaresSettings") -> Iterator[str]:
        """What is about one target for all layers."""
        yield from _conflicts_of_own_targets(self.kind, editor)

    def weight(self, index: int, count: int) -> float:
        """1."""
        return 1.0


def _conflicts_of_own_targets(kind: str, editor: "LeastSquaresSettings") -> Iterator[str]:
    if editor.anchor is not None:
        yield f"anchor rescales one target by the usual norm at its layer, and residual_schedule `{kind}` has a target at each layer"
    if editor.target.at == "original":
        yield f"residual_schedule `{kind}` optimises a target per layer of the edited model, so target.at must be `current`"

"""SimIE: each step reduced to step · K Kᵀ (w I + M)⁻¹, with M of all keys so far."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from d4s.editors.parts.part import DOUBLE, Keys, Positive, Square
from d4s.editors.parts.part_families import LayerTransform, Recursive, StepTransform

if TYPE_CHECKING:
    from d4s.editors.edited_layers import EditedLayer
    from d4s.editors.least_squares_settings import LocateThenEdit
    from d4s.models.model_shape import Shape


class SimIE(StepTransform):
    """Reduce a step to what its keys need, with earlier keys held fast (SimIE)."""

    kind: Literal["simie"] = "simie"
    weight: Positive = Field(default=10_000.0, description="Multiple of the identity beside the keys' Gram matrix.")

    label: ClassVar[str] = "SimIE"
    formula: ClassVar[str] = "*G ← G Kᵀ K (w I + M)⁻¹*, with *M* of all keys so far"
    refactors: ClassVar[bool] = True

    def conflicts(self, editor: "LocateThenEdit") -> Iterator[str]:
        """What shows it the keys of a step more than once, or has no steps."""
        yield from super().conflicts(editor)
        if editor.state_kind != "additive" or editor.rounds is not None:
            yield (
                "step_transform `simie` sees the keys of every step once, so neither rounds nor a delta_transform that makes one change of "
                "all go with it"
            )

    def at(self, layer: "EditedLayer") -> LayerTransform:
        """The transform before any keys."""
        return SimIELayer(layer, self.weight)

    def bytes(self, shape: "Shape") -> int:
        """The inverse: d² in float64."""
        return DOUBLE * shape.mlp_width**2


class SimIELayer(LayerTransform):
    """SimIE at one layer, with a solver over all keys so far."""

    needs_keys: ClassVar[bool] = True

    def __init__(self, layer: "EditedLayer", weight: float) -> None:
        from d4s.editors.least_squares import RecursiveSolver

        self._width, self._device, self._weight = layer.delta.shape[1], layer.delta.device, weight
        self.solver = RecursiveSolver(self._empty())

    def right(self, keys: Keys, gain: Keys) -> Keys:
        """G Kᵀ K (w I + M)⁻¹, after which M holds these keys too."""
        return (gain @ keys.mT) @ self.solver.add(keys)

    def replay_keys(self, keys: Keys) -> None:
        """Add the keys of a recorded step."""
        self.solver.add(keys)

    def recursive(self) -> Iterator[Recursive]:
        """The solver, which sees keys as they are."""
        yield self.solver, self._empty(), None

    def _empty(self) -> Square:
        """What the solver holds before any keys: w I."""
        import torch

        return self._weight * torch.eye(self._width, dtype=torch.float64, device=self._device)

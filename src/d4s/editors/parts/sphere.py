"""SPHERE: a step less a share of what points along the main directions of the original weight's rows."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from d4s.editors.parts.part import DOUBLE, Basis, Keys, Original
from d4s.editors.parts.part_families import LayerTransform, StepTransform

if TYPE_CHECKING:
    from d4s.editors.edited_layers import EditedLayer
    from d4s.models.model_shape import Shape


class Sphere(StepTransform):
    """Take out of a step what points along the main directions of the original weight's rows (SPHERE)."""

    kind: Literal["sphere"] = "sphere"
    energy: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.5, description="Share of the spectrum that the main directions hold.")
    strength: Annotated[float, Field(gt=0, le=1)] = Field(default=0.5, description="Share of it that is taken out.")

    label: ClassVar[str] = "SPHERE"
    formula: ClassVar[str] = "*G ← G − strength · G V Vᵀ*, *V* the main directions of the weight's normalised rows"

    def at(self, layer: "EditedLayer") -> LayerTransform:
        """The transform with the main directions of a layer."""
        return SphereLayer(main_directions(layer.original.to(layer.delta.device), self.energy), self.strength)

    def bytes(self, shape: "Shape") -> int:
        """Directions, at most as many as the weight has rows: m d in float64."""
        return DOUBLE * shape.mlp_out


class SphereLayer(LayerTransform):
    """SPHERE at one layer."""

    def __init__(self, directions: Basis, strength: float) -> None:
        self._directions, self._strength = directions, strength

    def right(self, keys: Keys, gain: Keys) -> Keys:
        """G − strength · G V Vᵀ."""
        return gain - self._strength * (gain @ self._directions) @ self._directions.mT


def main_directions(weight: Original, energy: float) -> Basis:
    """The fewest eigenvectors of the Gram matrix of a weight's normalised rows that hold a share of its trace."""
    import torch

    rows = torch.nn.functional.normalize(weight.double(), dim=1)
    _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
    cumulative = (values**2).cumsum(0) / (values**2).sum()
    return vectors[: int((cumulative < energy).sum()) + 1].mT.contiguous()

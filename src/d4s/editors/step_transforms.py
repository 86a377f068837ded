"""What is done to a step before it is written: RECT keeps the entries that matter, SPHERE takes main directions out.

Terms and symbols: docs/notation.md.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from d4s.editors.part_settings import Rect, Sphere, StepTransform

Weight = Float64[Tensor, "d_out d_in"]
SMALLEST_WEIGHT = 1e-8


@dataclass(frozen=True, slots=True)
class RectTransform:
    """RECT: a step with all but a share of its entries set to zero, those largest relative to the present weight kept."""

    fraction: float

    def of(self, step: Weight, weight: Weight) -> Weight:
        """The entries of a step that are written, for the weight before it."""
        relative = (step / (weight + SMALLEST_WEIGHT)).abs().flatten()
        dropped = len(relative) - math.ceil(self.fraction * len(relative))
        if dropped <= 0:
            return step
        bound = relative.kthvalue(dropped).values
        return torch.where(relative.view_as(step) > bound, step, 0.0)


@dataclass(frozen=True, slots=True)
class SphereTransform:
    """SPHERE: the right factor of a step, less a share of what points along the main directions of the original weight."""

    directions: Float64[Tensor, "d_in k"]
    strength: float

    def of(self, right: Float64[Tensor, "b d_in"]) -> Float64[Tensor, "b d_in"]:
        """The right factor that is written."""
        return right - self.strength * (right @ self.directions) @ self.directions.mT


def build_step_transform(settings: StepTransform | None, original: Float[Tensor, "d_out d_in"]) -> RectTransform | SphereTransform | None:
    """How steps of a layer with an original weight are changed by their entries or their right factor; None where they are not."""
    if isinstance(settings, Rect):
        return RectTransform(settings.keep)
    if isinstance(settings, Sphere):
        return SphereTransform(main_directions(original, settings.energy), settings.strength)
    return None


def main_directions(weight: Float[Tensor, "d_out d_in"], energy: float) -> Float64[Tensor, "d_in k"]:
    """The fewest eigenvectors of the Gram matrix of a weight's normalised rows that hold a share of its trace."""
    rows = torch.nn.functional.normalize(weight.double(), dim=1)
    _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
    cumulative = (values**2).cumsum(0) / (values**2).sum()
    return vectors[: int((cumulative < energy).sum()) + 1].mT.contiguous()

"""What is done to a step before it is written: RECT keeps the entries that matter, SPHERE takes main directions out."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from d4s.editors.parts import Rect, SimIE, Sphere

Weight = Float64[Tensor, "d_out d_in"]
SMALLEST_WEIGHT = 1e-8


@dataclass(frozen=True, slots=True)
class After:
    """How steps of one layer are changed; what does not apply is never called."""

    share: float = 1.0
    directions: Float64[Tensor, "d_in k"] | None = None
    strength: float = 0.0

    def keep(self, step: Weight, weight: Weight) -> Weight:
        """RECT: the step with all but a share of its entries set to zero, those largest relative to the present weight kept."""
        relative = (step / (weight + SMALLEST_WEIGHT)).abs().flatten()
        dropped = len(relative) - math.ceil(self.share * len(relative))
        if dropped <= 0:
            return step
        bound = relative.kthvalue(dropped).values
        return torch.where(relative.view_as(step) > bound, step, 0.0)

    def reduce(self, right: Float64[Tensor, "b d_in"]) -> Float64[Tensor, "b d_in"]:
        """SPHERE: the right factor of a step, less a share of what points along the main directions."""
        assert self.directions is not None
        return right - self.strength * (right @ self.directions) @ self.directions.mT


def after_step(settings: Rect | Sphere | SimIE | None, original: Float[Tensor, "d_out d_in"]) -> After:
    """How steps of a layer with an original weight are changed."""
    if isinstance(settings, Rect):
        return After(share=settings.keep)
    if isinstance(settings, Sphere):
        return After(directions=main_directions(original, settings.energy), strength=settings.strength)
    return After()


def main_directions(weight: Float[Tensor, "d_out d_in"], energy: float) -> Float64[Tensor, "d_in k"]:
    """The fewest eigenvectors of the Gram matrix of a weight's normalised rows that hold a share of its trace."""
    rows = torch.nn.functional.normalize(weight.double(), dim=1)
    _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
    held = (values**2).cumsum(0) / (values**2).sum()
    return vectors[: int((held < energy).sum()) + 1].mT.contiguous()

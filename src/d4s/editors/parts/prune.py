"""PRUNE: the whole change with its large singular values compressed."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from d4s.editors.parts.part import Original, Weight
from d4s.editors.parts.part_families import DeltaTransform


class Prune(DeltaTransform):
    """Compress singular values of the whole change that exceed the original weight's largest (PRUNE)."""

    kind: Literal["prune"] = "prune"
    base: Annotated[float, Field(gt=1)] = Field(default=1.2, description="Base of the logarithm that compresses them.")

    label: ClassVar[str] = "PRUNE"
    formula: ClassVar[str] = "singular values *s > m* of Δ become *log(s/m) + m*, *m* the largest of *W₀*"
    is_dense: ClassVar[bool] = True

    def of(self, delta: Weight, original: Original, layer: int) -> Weight:
        """Singular values s above the original's largest, m, become log(s) − log(m) + m, to the given base."""
        import torch

        left, values, right = torch.linalg.svd(delta, full_matrices=False)
        largest = torch.linalg.matrix_norm(original.to(delta), 2)
        compressed = torch.log(values / largest) / math.log(self.base) + largest
        return (left * torch.where(values > largest, compressed, values)) @ right

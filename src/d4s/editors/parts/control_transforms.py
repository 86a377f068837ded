"""Controls: the change rescaled, or its entries in random order, which tell the norm of a change from its direction."""

import zlib
from typing import ClassVar, Literal

from pydantic import Field

from d4s.editors.parts.part import NotNegative, Original, Weight
from d4s.editors.parts.part_families import DeltaTransform


class Rescale(DeltaTransform):
    """Control: the whole change times a factor, so that its direction stays and its norm does not."""

    kind: Literal["rescale"] = "rescale"
    factor: NotNegative = Field(description="The factor.")

    label: ClassVar[str] = "rescaled"
    formula: ClassVar[str] = "control: *W₀ + factor · Δ*"
    is_control: ClassVar[bool] = True

    def of(self, delta: Weight, original: Original, layer: int) -> Weight:
        """The factor times the change."""
        return self.factor * delta


class Scramble(DeltaTransform):
    """Control: the entries of the whole change in random order, so that its norms stay and its directions do not."""

    kind: Literal["scramble"] = "scramble"
    seed: int = Field(default=0, ge=0, description="Seed of the order.")

    label: ClassVar[str] = "scrambled"
    formula: ClassVar[str] = "control: the entries of Δ in random order"
    is_control: ClassVar[bool] = True

    def of(self, delta: Weight, original: Original, layer: int) -> Weight:
        """The entries in an order of the layer's own."""
        import torch

        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}.{layer}".encode()))
        order = torch.randperm(delta.numel(), generator=generator)
        return delta.flatten()[order.to(delta.device)].view_as(delta)

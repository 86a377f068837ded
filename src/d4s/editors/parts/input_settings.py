"""What the stages before an edit compute for it: targets at the original weights, free directions, the usual norm."""

from pydantic import Field

from d4s.editors.parts.part import Layers, Positive
from d4s.editors.parts.target_rule import AnchorSettings, TargetSettings
from d4s.settings_base import Frozen


class TargetsJobSettings(Frozen):
    """What the `targets` stage computes: targets of the requests that a seed draws."""

    target: TargetSettings
    seed: int = Field(ge=0, description="Draw of the requests and their order.")


class BasisSettings(Frozen):
    """Directions of key space that text hardly uses, per layer."""

    layers: Layers
    threshold: Positive


class AnchorJobSettings(Frozen):
    """The usual norm of what an MLP puts out for solved requests."""

    target: TargetSettings
    anchor: AnchorSettings


class PrepareSettings(Frozen):
    """What the `prepare` stage computes for an editor: free directions from second moments, the anchor from model and facts."""

    basis: BasisSettings | None = None
    anchor: AnchorJobSettings | None = None

    @property
    def basis_layers(self) -> int:
        """Number of layers whose free directions are asked for."""
        return 0 if self.basis is None else len(self.basis.layers)

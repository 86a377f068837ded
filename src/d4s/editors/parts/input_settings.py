"""What stages before an edit compute for it: targets, directions, the usual norm, statistics, sentences, trainings, demonstrations."""

from pydantic import Field

from d4s.editors.parts.hypernetwork_settings import HypernetworkSettings
from d4s.editors.parts.part import Layers, Positive
from d4s.editors.parts.scope_settings import ScopeSettings
from d4s.editors.parts.target_rule import AnchorSettings, TargetSettings
from d4s.settings_base import Count, Frozen


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


class WarmUpSettings(Frozen):
    """Statistics of keys and gradients of the draw of requests for tuning, before any edit."""

    layers: Layers
    requests: int = Field(gt=0)
    whiten: bool


class FactPoolSettings(Frozen):
    """True sentences about subjects that nothing is measured of, for fine-tuning to learn beside its targets."""

    count: Count = 200
    known: bool = True
    least: Count = 1
    separator: str = ". "


class LocalitySettings(Frozen):
    """Sentences that the unedited model writes, and the median norm of an MLP's output over their tokens."""

    layer: int
    count: Count
    tokens: Count
    seed: int


class BackgroundSettings(Frozen):
    """The mean key of the draw of requests for tuning: over the tokens of a prompt, then over prompts."""

    layer: int
    requests: Count


class CurvatureSettings(Frozen):
    """Principal directions of the loss of text at the weight of a layer; text that the model writes itself, with a seed."""

    layer: int
    tokens: Count
    seed: int


class DemonstrationPoolSettings(Frozen):
    """Facts that nothing is measured of, each with another wording and a neighbour, for demonstrations before edits."""

    facts: Count
    seed: int


class PrepareSettings(Frozen):
    """What the `prepare` stage computes: free directions from second moments; the rest from a model, most of it with facts."""

    basis: BasisSettings | None = None
    anchor: AnchorJobSettings | None = None
    warm_up: WarmUpSettings | None = Field(default=None, exclude_if=lambda warm_up: warm_up is None)
    facts: FactPoolSettings | None = Field(default=None, exclude_if=lambda pool: pool is None)
    locality: LocalitySettings | None = Field(default=None, exclude_if=lambda locality: locality is None)
    background: BackgroundSettings | None = Field(default=None, exclude_if=lambda background: background is None)
    curvature: CurvatureSettings | None = Field(default=None, exclude_if=lambda curvature: curvature is None)
    scope: ScopeSettings | None = Field(default=None, exclude_if=lambda scope: scope is None)
    demonstrations: DemonstrationPoolSettings | None = Field(default=None, exclude_if=lambda pool: pool is None)
    hypernetwork: HypernetworkSettings | None = Field(default=None, exclude_if=lambda network: network is None)

    @property
    def reads_requests(self) -> bool:
        """Whether requests are run through the model."""
        return self.anchor is not None or self.warm_up is not None or self.background is not None

    @property
    def reads_model(self) -> bool:
        """Whether a model is read."""
        return self.reads_requests or any(one is not None for one in (self.facts, self.scope, self.locality, self.curvature))

    @property
    def reads_pool(self) -> bool:
        """Whether facts are read that nothing is measured of."""
        learns = self.scope is not None or self.hypernetwork is not None
        return self.facts is not None or learns or self.demonstrations is not None

    @property
    def moment_layers(self) -> tuple[int, ...]:
        """Layers whose second moments are read and decomposed."""
        if self.curvature is not None:
            return (self.curvature.layer,)
        return () if self.basis is None else self.basis.layers

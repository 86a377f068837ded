"""What a network that rewrites keys and gradients is, and how it is trained: settings of MEND, MALMEN and RLEdit."""

from typing import Annotated, Literal

from pydantic import Field

from d4s.editors.parts.part import Layers, NotNegative, Positive
from d4s.settings_base import Count, Frozen

Coefficient = Literal["normalised", "mixed"]


class NoNetwork(Frozen):
    """Keys and gradients are taken as they are normalised; nothing is trained."""

    kind: Literal["none"] = "none"


class TrainedNetwork(Frozen):
    """Low-rank residual blocks on the normalised [x; g], trained before any edit on facts that nothing is measured of."""

    kind: Literal["trained"] = "trained"
    rank: Count = Field(default=1920, description="Rank r of a block's matrices.")
    blocks: Count = Field(default=2, description="Residual blocks, each the identity as training begins.")
    scaled: Literal["before", "after"] = Field(
        default="after",
        description="Whether a layer's own scale and shift come before a block's values are cut off below 0 (MEND) or after it (MALMEN).",
    )
    facts: Count = Field(default=400, description="Facts to train on, at most, the first ones in an order by their ids.")
    edits: Count = Field(
        default=10, description="Requests of a turn of training; at most half of the facts are edited in a sequence of turns."
    )
    turns: Count = Field(
        default=1, description="Turns in a row, each from the weights that those before left; then weights are the original ones again."
    )
    back: Count = Field(default=1, description="How many of the last turns the loss after a turn is about.")
    discount: Positive = Field(default=1.0, le=1, description="Weight of a turn in the loss after the next one.")
    edit_weight: Positive = Field(default=1.0, description="Weight of the requests' loss, each at another wording of its prompt.")
    locality_weight: NotNegative = Field(
        default=1.0, description="Weight of the divergence from the unedited model at unrelated facts, as many as there are requests."
    )
    norm_weight: NotNegative = Field(default=0.0, description="Weight of the squared norm of a turn's change.")
    accumulate: Count = Field(default=1, description="Sequences of turns per step of Adam, whose gradients are averaged.")
    steps: Count = Field(default=300, description="Steps of Adam, at most.")
    lr: Positive = Field(default=1e-5, description="Learning rate of Adam for blocks and ridges.")
    rate_lr: Positive = Field(default=1e-5, description="Learning rate of Adam for the layers' step sizes.")
    clip: Positive = Field(default=1.0, description="Bound of the norm of the gradient of all that is trained.")
    check_every: Count = Field(default=20, description="Steps between looks at the loss of held-out facts, and between checkpoints.")
    patience: Count = Field(default=5, description="Looks without a lower loss after which training ends; the lowest one's network stays.")
    seed: int = Field(default=0, ge=0, description="Seed of the blocks and of what is drawn.")

    def entries(self, d_in: int, d_out: int, layers: int) -> int:
        """Numbers that are trained, for layers of one shape."""
        width = d_in + d_out
        return self.blocks * width * (2 * self.rank + 1 + 2 * layers) + 2 * layers


Network = Annotated[NoNetwork | TrainedNetwork, Field(discriminator="kind")]


class HypernetworkSettings(Frozen):
    """A network with the change of weights that it is trained for; `lr` and `ridge` are where training begins."""

    layers: Layers
    change: Literal["regression", "outer_product"]
    coefficient: Coefficient = "mixed"
    lr: Positive
    ridge: Positive = 1.0
    network: TrainedNetwork

    @property
    def reads_prompts(self) -> bool:
        """Whether all tokens of a text count, not the target's alone: of outer products, which need no solution."""
        return self.change == "outer_product"

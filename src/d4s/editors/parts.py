"""The typed parts that least-squares editors are made of: targets, keys, what is preserved, what is prepared.

Nothing here imports torch. `settings.py` puts parts together to families and says which go with which.
"""

from typing import Annotated, Literal

from pydantic import Field

from d4s.config import Count, Frozen

Layers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class TargetSettings(Frozen):
    """How the target hidden state of a request is optimised: the hidden state at the lookup token plus a shift."""

    layer: int = Field(ge=0, description="Block whose output is shifted; the last edited layer.")
    hook: Literal["block_output", "mlp_output"] = Field(
        default="block_output", description="The vector that is shifted: the block's output, or the MLP's share of it."
    )
    at: Literal["original", "current"] = Field(
        default="current", description="Optimise on the unedited model (once, shared by editors) or on the model as edited so far."
    )
    steps: Count = Field(default=25, description="Evaluations of the loss; the last one is not followed by an update.")
    lr: Positive = Field(default=0.5, description="Learning rate of Adam.")
    clamp: Positive = Field(default=0.75, description="Largest norm of the shift, relative to the hidden state.")
    kl_weight: NotNegative = Field(default=0.0625, description="Weight of the divergence at the essence prompt `SUBJECT is a`.")
    weight_decay: NotNegative = Field(default=0.5, description="Weight of the shift's norm over the squared norm of the hidden state.")
    stop_loss: NotNegative = Field(default=0.05, description="Stop once the loss is below this.")
    stop_probability: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Also stop once every target token has at least this probability after every prompt."
    )


class TargetsJobSettings(Frozen):
    """What the `targets` stage computes: targets of the requests that a seed draws."""

    target: TargetSettings
    seed: int = Field(ge=0, description="Draw of the requests and their order.")


class KeySettings(Frozen):
    """Which key stands for a request at a layer."""

    average: Literal["grouped", "plain", "bare"] = Field(
        default="grouped",
        description="Half the bare prompt's key and half the mean of the prefixed ones (MEMIT), the mean of all (ROME), or the bare one.",
    )
    mode: Literal["progressive", "frozen"] = Field(
        default="progressive", description="Read keys with the layers below already edited, or always at the original weights."
    )


class MomentPreservation(Frozen):
    """Preserve what text says: weight times the second moment of its keys, and a ridge."""

    kind: Literal["moments"] = "moments"
    weight: Positive = Field(description="Factor on the second moment; acts like a number of preserved tokens.")
    ridge: NotNegative = Field(default=0.0, description="Multiple of the identity added to it.")


class IdentityPreservation(Frozen):
    """Preserve every direction equally: a multiple of the identity in place of the second moment."""

    kind: Literal["identity"] = "identity"
    weight: Positive = Field(default=1.0, description="The multiple.")


class NullSpacePreservation(Frozen):
    """Change nothing outside the directions that text hardly uses, and only a little there."""

    kind: Literal["null_space"] = "null_space"
    threshold: Positive = Field(description="Eigenvalues of the second moment below this span the free directions.")
    weight: Positive = Field(default=10.0, description="Multiple of the identity within the free directions.")


Preservation = Annotated[MomentPreservation | IdentityPreservation | NullSpacePreservation, Field(discriminator="kind")]


class PrepareSettings(Frozen):
    """What the `prepare` stage computes for an editor from the second moments: a basis of free directions per layer."""

    kind: Literal["null_space"] = "null_space"
    layers: Layers
    threshold: Positive

"""The typed parts that least-squares editors are made of: targets, keys, what is preserved, what is prepared.

Nothing here imports torch. `settings.py` puts parts together to families and says which go with which.

Terms and symbols: docs/notation.md.
"""

from typing import Annotated, Literal

from pydantic import Field

from d4s.config import Count, Frozen

Layers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class TargetSettings(Frozen):
    """How the target hidden state of a request is optimised: the hidden state at the last subject token plus a shift."""

    layer: int = Field(ge=0, description="Block whose output is shifted; the last edited layer.")
    hook: Literal["block_output", "mlp_output", "mlp_and_attention"] = Field(
        default="block_output",
        description="What is shifted: the block's output, the MLP's share of it, or that and the attention's share jointly (PMET), "
        "of which only the MLP's is written.",
    )
    at: Literal["original", "current"] = Field(
        default="current", description="Optimise on the unedited model (once, shared by editors) or on the model as edited so far."
    )
    steps: Count = Field(default=25, description="Evaluations of the loss; the last one is not followed by an update.")
    lr: Positive = Field(default=0.5, description="Learning rate of Adam.")
    clamp: Positive = Field(default=0.75, description="Largest norm of the shift, relative to the hidden state.")
    kl_weight: NotNegative = Field(default=0.0625, description="Weight of the divergence at the KL prompt `SUBJECT is a`.")
    weight_decay: NotNegative = Field(default=0.5, description="Weight of the shift's norm over the squared norm of the hidden state.")
    stop_loss: NotNegative = Field(default=0.05, description="Stop once the loss is below this.")
    stop_probability: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Also stop once every target token has at least this probability after every prompt."
    )
    stop_top1: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Also stop this number of steps after every target token became the most likely one after every prompt."
    )
    top1_weight: NotNegative = Field(
        default=1.0, description="Weight of the target's loss while every target token is the most likely one after every prompt (PMET)."
    )
    top1_divergence: NotNegative | None = Field(
        default=None, description="Also stop once that is so and the divergence at the KL prompt is at most this (PMET)."
    )


class TargetsJobSettings(Frozen):
    """What the `targets` stage computes: targets of the requests that a seed draws."""

    target: TargetSettings
    seed: int = Field(ge=0, description="Draw of the requests and their order.")


class KeySettings(Frozen):
    """Which key stands for a request at a layer."""

    average: Literal["grouped", "plain", "unprefixed"] = Field(
        default="grouped",
        description="Half the unprefixed prompt's key and half the mean of the prefixed ones (MEMIT), the mean of all (ROME), or the "
        "unprefixed one.",
    )
    mode: Literal["progressive", "frozen", "refreshed"] = Field(
        default="progressive",
        description="Read keys with the layers below already edited, always at the original weights, or read those of all edits so far "
        "again from time to time.",
    )
    every: Count = Field(default=50, description="With mode `refreshed`: steps, each of a batch of requests, between two such readings.")
    shared_key: bool = Field(
        default=False,
        description="With solver `hard_constraint`: meet the target at the averaged key, from where the averaged output is now (R-ROME), "
        "not at the unprefixed prompt's.",
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


class AnchorSettings(Frozen):
    """Rescale what an MLP is to put out for a request to the usual norm on the unedited model, or leave the request out."""

    requests: Count = Field(
        default=1000, description="Requests, solved on the unedited model at their unprefixed prompts, that the norm is taken from."
    )
    drop: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.05, description="Share of the largest norms that is left out of the mean.")
    skip: Positive = Field(default=2.0, description="A request with more than this multiple of the usual norm is not edited.")


class Rounds(Frozen):
    """Go over the layers again for requests whose residual is still large (NSE)."""

    most: Count = Field(default=2, description="Rounds at most.")
    above: NotNegative = Field(description="Requests with a residual of a smaller norm are done.")
    below: Positive = Field(description="Requests with a residual of a larger norm are left out.")


class Rect(Frozen):
    """Write only the entries of a step that change their weight most, relative to its size (RECT)."""

    kind: Literal["rect"] = "rect"
    keep: Annotated[float, Field(gt=0, le=1)] = Field(default=0.4, description="Share of entries that is written.")
    feedback: bool = Field(default=False, description="Solve the next step so that it makes up for what was not written (OTE-SE).")


class Sphere(Frozen):
    """Take out of a step what points along the main directions of the original weight's rows (SPHERE)."""

    kind: Literal["sphere"] = "sphere"
    energy: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.5, description="Share of the spectrum that the main directions hold.")
    strength: Annotated[float, Field(gt=0, le=1)] = Field(default=0.5, description="Share of it that is taken out.")


class SimIE(Frozen):
    """Reduce a step to what its keys need, with earlier keys held fast (SimIE)."""

    kind: Literal["simie"] = "simie"
    weight: Positive = Field(default=10_000.0, description="Multiple of the identity beside the keys' Gram matrix.")


StepTransform = Annotated[Rect | Sphere | SimIE, Field(discriminator="kind")]


class Prune(Frozen):
    """Compress singular values of the whole change that exceed the original weight's largest (PRUNE)."""

    kind: Literal["prune"] = "prune"
    base: Annotated[float, Field(gt=1)] = Field(default=1.2, description="Base of the logarithm that compresses them.")


class Interpolate(Frozen):
    """Go only part of the way from the original to the edited weights, as far as recorded requests ask for (1-LI)."""

    kind: Literal["interpolate"] = "interpolate"
    points: Annotated[int, Field(ge=2)] = Field(default=11, description="Shares between 0 and 1, both ends among them, that are tried.")
    every: Count = Field(default=5, description="One in this number of requests is kept for validation.")
    floor: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.9, description="Least share of KL prompts `SUBJECT is a` whose most likely continuation stays."
    )


class Rescale(Frozen):
    """Control: the whole change times a factor, so that its direction stays and its norm does not."""

    kind: Literal["rescale"] = "rescale"
    factor: NotNegative = Field(description="The factor.")


class Scramble(Frozen):
    """Control: the entries of the whole change in random order, so that its norms stay and its directions do not."""

    kind: Literal["scramble"] = "scramble"
    seed: int = Field(default=0, ge=0, description="Seed of the order.")


DeltaTransform = Annotated[Prune | Interpolate | Rescale | Scramble, Field(discriminator="kind")]


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

"""How the target hidden state of a request is optimised, and how it is rescaled; `target_optimisation.py` computes it."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from d4s.editors.parts.part import Choice, NotNegative, Positive
from d4s.settings_base import Count, Frozen

MODULE, TERMS = "d4s.editors.target_optimisation", "d4s.editors.target_terms"
PROMPTS, WINDOWS = "d4s.editors.prompts", "d4s.editors.windows"
LOSS = "least mean of −log P(target tokens) + kl · KL at the KL prompt + decay · ‖δ‖ / ‖h‖², with ‖δ‖ ≤ clamp · ‖h‖"
TOP1 = Choice(
    "target.stop",
    "top1",
    "optimising stops a few steps after every target token has become the most likely one",
    MODULE,
    "top-1 stop",
)
ANCHOR = Choice(
    "anchor", "norm", "MLP output at the target rescaled to the usual norm *c*; unshifted where it is above *2c*", MODULE, "anchor"
)
CONSISTENCY = Choice(
    "target.consistency",
    "weight",
    "the loss of δ also has *weight · mean over blocks of Σ ‖h_i − h_j‖² / d* over pairs of prompts, with *h* at the subject's last "
    "token, above the target's block",
    TERMS,
    "alike behind prefixes",
)
ALIGN = Choice(
    "target.align",
    "in_turn",
    "the shifts δ of a batch are optimised in turn; the loss of the *j*-th also has *kl · KL(softmax(c/τ) ‖ softmax(c′/τ)) + mse · Σ w "
    "(c − c′)²*, with *c = cos(k_j, k_i)*, *c′ = cos(δ_j, δ_i)* over *i < j*, *w* the softmax over the nearest keys",
    TERMS,
    "aligned with keys",
)
POSITION = Choice(
    "target.position",
    "prompt_last",
    "the shift stands at the last token of the prompt, and the key is read there",
    PROMPTS,
    "at the prompt's end",
)
PREFIXES = Choice("target.prefixes", "none", "the unprefixed prompt alone, for targets and keys", PROMPTS, "unprefixed prompts")
WINDOW = Choice(
    "target.windows",
    "in_turn",
    "the answer is cut into windows of tokens; window *w* has a shift *δ_w* of its own at the token before it, optimised with "
    "*δ_1 … δ_{w−1}* in place; each is a row *(k_w, r_w)* of the solve",
    WINDOWS,
    "windows",
)
CHOICES = {
    (choice.name, choice.kind): choice
    for choice in (
        Choice("target.hook", "block_output", f"*z = h + δ* at the block's output; δ has the {LOSS}", MODULE),
        Choice("target.hook", "mlp_output", "the same with *h* the MLP's share of the block's output", MODULE, "MLP target"),
        Choice(
            "target.hook",
            "mlp_and_attention",
            "two shifts at once, of the MLP's and of the attention's share; the MLP's is written",
            MODULE,
            "joint target",
        ),
        Choice("target.at", "original", "δ is optimised on the unedited model: once, for all editors", MODULE, "first targets"),
        Choice("target.at", "current", "δ is optimised on the model as edited so far", MODULE),
        TOP1,
        CONSISTENCY,
        ALIGN,
        POSITION,
        PREFIXES,
        WINDOW,
    )
}


class ConsistencySettings(Frozen):
    """Keep what later blocks make of a request alike behind all prefixes (CORE)."""

    weight: NotNegative = Field(description="Weight of the squared distances between prompts; they are summed over pairs, as released.")
    blocks: Count = Field(default=28, description="Blocks above the target's that are compared, or as many as there are.")


class AlignSettings(Frozen):
    """Optimise the shifts of a batch one after another, at the angles to each other that their keys have (EAMET)."""

    kl: NotNegative = Field(description="Weight of the divergence of the softmaxed cosines of shifts from those of keys.")
    mse: NotNegative = Field(description="Weight of the squared differences of cosines, over the nearest keys.")
    tau: Positive = Field(default=0.07, description="Temperature of both softmaxes.")
    top: Count = Field(default=50, description="Nearest keys whose differences of cosines are squared.")
    start: Literal["hidden", "zero"] = Field(
        default="hidden", description="Where a shift begins: along the hidden state, as long as the request's key; or at zero."
    )
    start_below: Positive = Field(default=100.0, description="Norm of the hidden state from which on shifts begin at zero all the same.")
    clamp_to: Literal["key", "hidden"] = Field(
        default="key", description="Whether `target.clamp` is relative to the norm of the request's key or of the hidden state."
    )


class TargetSettings(Frozen):
    """How the target hidden state of a request is optimised: the hidden state at the token that is looked up, plus a shift."""

    layer: int = Field(ge=0, description="Block whose output is shifted; the last edited layer.")
    hook: Literal["block_output", "mlp_output", "mlp_and_attention"] = Field(
        default="block_output",
        description="What is shifted: the block's output, the MLP's share of it, or that and the attention's share jointly (PMET), "
        "of which only the MLP's is written.",
    )
    at: Literal["original", "current"] = Field(
        default="current", description="Optimise on the unedited model (once, shared by editors) or on the model as edited so far."
    )
    position: Literal["subject_last", "prompt_last"] = Field(
        default="subject_last",
        exclude_if=lambda found: found == "subject_last",
        description="Token that is looked up, where the shift stands and the key is read: the subject's last one, or the prompt's "
        "(AnyEdit).",
    )
    prefixes: bool = Field(
        default=True,
        exclude_if=lambda found: found,
        description="Whether prompts behind prefixes count beside the unprefixed one, for targets and for keys.",
    )
    windows: Count | None = Field(
        default=None,
        exclude_if=lambda found: found is None,
        description="Tokens of a window: cut the answer into windows, each with a target of its own at the token before it, optimised in "
        "turn (AnyEdit).",
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
        default=None,
        description="Also stop this number of steps after every target token has become the most likely one after every prompt.",
    )
    top1_weight: NotNegative = Field(
        default=1.0, description="Weight of the target's loss while every target token is the most likely one after every prompt (PMET)."
    )
    top1_divergence: NotNegative | None = Field(
        default=None, description="Also stop once that is so and the divergence at the KL prompt is at most this (PMET)."
    )
    consistency: ConsistencySettings | None = Field(
        default=None,
        exclude_if=lambda found: found is None,
        description="Keep hidden states above the target alike behind all prefixes (CORE).",
    )
    align: AlignSettings | None = Field(
        default=None,
        exclude_if=lambda found: found is None,
        description="Optimise the shifts of a batch in turn, in the order of its requests, and align them with their keys (EAMET).",
    )

    @property
    def is_one_by_request(self) -> bool:
        """Whether every request has one target, which depends on no other target."""
        return self.align is None and self.windows is None

    def at_once(self, batch: int) -> int:
        """How many requests of a batch are optimised at the same time."""
        return batch if self.align is None else 1

    def conflicts(self) -> Iterator[str]:
        """Reasons why the rule's settings do not go together."""
        if self.align is not None and self.at == "original":
            yield (
                "target.align makes a target depend on the batch and its order, and targets at the original weights are kept by request, "
                "so target.at must be `current`"
            )
        if self.align is not None and self.shifts > 1:
            yield f"target.align aligns one shift, so target.hook must not be `{self.hook}`"
        if self.consistency is not None and not self.prefixes:
            yield "target.consistency compares prompts behind prefixes, so target.prefixes must be true"
        if self.windows is not None:
            yield from self._conflicts_of_windows()

    def _conflicts_of_windows(self) -> Iterator[str]:
        if self.at == "original":
            yield (
                "target.windows gives a request as many targets as its answer has windows, and targets at the original weights are kept "
                "one by request, so target.at must be `current`"
            )
        if self.position != "prompt_last" or self.prefixes:
            yield (
                "target.windows cuts the answer behind the unprefixed prompt and looks up the token before each window, so target.position "
                "must be `prompt_last` and target.prefixes false"
            )
        if self.shifts > 1:
            yield f"target.windows holds one shift of each window in place, so target.hook must not be `{self.hook}`"
        if self.align is not None:
            yield "target.align and target.windows both optimise targets in turn, by request and by window; leave one out"

    @property
    def shifts(self) -> int:
        """How many vectors of a request are shifted at once."""
        return 2 if self.hook == "mlp_and_attention" else 1

    def choices(self) -> Iterator[Choice]:
        """The rule's choices, with their formulas."""
        yield CHOICES["target.hook", self.hook]
        yield CHOICES["target.at", self.at]
        if self.position == "prompt_last":
            yield POSITION
        if not self.prefixes:
            yield PREFIXES
        if self.windows is not None:
            yield WINDOW
        if self.stop_top1 is not None:
            yield TOP1
        if self.consistency is not None:
            yield CONSISTENCY
        if self.align is not None:
            yield ALIGN


class AnchorSettings(Frozen):
    """Rescale what an MLP is to put out for a request to the usual norm on the unedited model, or leave the request out."""

    requests: Count = Field(
        default=1000, description="Requests, solved on the unedited model at their unprefixed prompts, that the norm is taken from."
    )
    drop: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.05, description="Share of the largest norms that is left out of the mean.")
    skip: Positive = Field(default=2.0, description="A request whose norm is above this multiple of the usual one is not edited.")

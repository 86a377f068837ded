"""The settings of editors that tune or regress on gradients of the targets, with the memory and work that their steps take."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from d4s.editors.constants import ANSWER_TOKENS, BACKWARD
from d4s.editors.family_settings import SINGLE, Family, ModelPasses
from d4s.editors.parts.hypernetwork_settings import Coefficient, HypernetworkSettings, Network, NoNetwork, TrainedNetwork
from d4s.editors.parts.input_settings import CurvatureSettings, PrepareSettings, WarmUpSettings
from d4s.editors.parts.part import DOUBLE, Layers, NotNegative, Positive
from d4s.editors.parts.part_families import InputKind
from d4s.settings_base import Count, Frozen

if TYPE_CHECKING:
    from d4s.models.model_shape import Shape

GRADIENT_REQUESTS = 10
"""Requests that run together when keys and gradients are read."""
TEXT_TOKENS = 20
"""Tokens that a prompt with its target is assumed to have, where all of them count."""

CURVATURE_ROWS = 4
"""Rows of text that run together when gradients of text are read."""


class ProtectSettings(Frozen):
    """Directions in which the loss of text bends most, which no step may use (CrispEdit)."""

    energy: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.8, description="Share of the sum of the curvature's eigenvalues whose directions, the largest first, are protected."
    )
    order: Literal["adam_then_project", "project_then_adam"] = Field(
        default="adam_then_project",
        description="Whether Adam's step is projected, which stays free of the protected directions, or, as released, the gradient, whose "
        "directions Adam's scaling of single entries brings back.",
    )
    tokens: Count = Field(default=20_000, description="Tokens that the model writes, of whose loss gradients are taken.")
    seed: int = Field(default=0, ge=0, description="Seed of that text.")


class LocFT(Family):
    """Fine-tuning of one MLP output matrix on many requests, in epochs of minibatches."""

    family: Literal["locft"] = "locft"
    state_kind: Literal["refit", "dense"] = Field(
        description="`refit`: steps record requests, all of which are tuned on together, from the original weights. `dense`: every step "
        "tunes on its own batch, from the weights that the step before left."
    )
    layer: int = Field(ge=0, description="Block whose MLP output matrix is tuned.")
    epochs: Count = Field(default=25, description="Passes over the requests at most, each in an order of its own.")
    minibatch: Count = Field(default=100, description="Requests per step of Adam.")
    lr: Positive = Field(default=5e-4, description="Learning rate of Adam.")
    stop_loss: NotNegative = Field(
        default=1e-2, description="A minibatch whose loss is below this is passed over, and an epoch whose mean is below it is the last."
    )
    eos: bool = Field(default=True, description="Tune on the end-of-text token after every target, so that free answers end there.")
    batch: Count = Field(default=1, description="Requests per step: recorded together, or tuned on together.")
    protect: ProtectSettings | None = Field(
        default=None,
        description="Keep steps out of the directions in which the loss of text bends most; nothing where left out.",
        exclude_if=lambda protect: protect is None,
    )

    @property
    def layers(self) -> tuple[int, ...]:
        """The layer whose weights change."""
        return (self.layer,)

    @property
    def required_inputs(self) -> frozenset[InputKind]:
        """The curvature, where its directions are protected."""
        return frozenset({"prepare"} if self.protect else ())

    @property
    def moment_layers(self) -> tuple[int, ...]:
        """The layer, where curvature is computed."""
        return self.layers if self.protect else ()

    def prepare_settings(self) -> PrepareSettings | None:
        """The curvature, where its directions are protected."""
        if self.protect is None:
            return None
        return PrepareSettings(curvature=CurvatureSettings(layer=self.layer, tokens=self.protect.tokens, seed=self.protect.seed))

    def session_settings(self, edits: int) -> "LocFT | None":
        """Of a refit the settings of the session that tunes on all recorded requests."""
        return self.model_copy(update={"state_kind": "dense", "batch": max(1, edits)}) if self.state_kind == "refit" else None

    # --- memory and work ----------------------------------------------------------------------------------------------

    @property
    def is_deferred(self) -> bool:
        """Whether requests are tuned on when the edited model is asked for."""
        return self.state_kind == "refit"

    def requests_per_pass(self, edits: int) -> int:
        """All requests of a batch: what lies before the matrix is run for them once."""
        return 0 if self.is_deferred else self.batch

    def gradient_tokens(self, shape: "Shape", tokens: int) -> int:
        """The prompts of a minibatch."""
        return 0 if self.is_deferred else tokens * min(self.batch, self.minibatch)

    def edit_passes(self, shape: "Shape", edits: int, wordings: int, tokens: int) -> Sequence[ModelPasses]:
        """A gradient per minibatch in every epoch."""
        together = min(self.batch, self.minibatch, max(1, edits))
        return (ModelPasses(tokens * together, 1, (1.0 + BACKWARD) * self.epochs * edits / together),)

    def replay_passes(self, shape: "Shape", edits: int, wordings: int, tokens: int) -> Sequence[ModelPasses]:
        """Of a refit, all epochs."""
        session = self.session_settings(edits)
        return () if session is None else session.edit_passes(shape, edits, wordings, tokens)

    def held_bytes(self, shape: "Shape", item: int, edits: int) -> dict[str, float]:
        """Weight, gradient, moments of Adam and copies in float32, and the curvature; of a refit nothing until the model is asked for."""
        curvature = 0.0 if self.protect is None else (shape.mlp_width**2 + shape.width**2) * (DOUBLE + SINGLE) + shape.mlp_out * DOUBLE
        return {} if self.is_deferred else {"state": 8.0 * shape.mlp_out * SINGLE + curvature}

    def ledger_bytes(self, shape: "Shape", edits: int) -> float:
        """The token ids of requests, of some tens of tokens, or the weight as it is."""
        return float(edits * 40 * SINGLE if self.is_deferred else shape.mlp_out * SINGLE)


class GradientFamily(Family):
    """What families have in common that read keys and gradients of targets, and may have a trained network rewrite them."""

    layers: Layers = Field(description="Blocks whose MLP output matrices are edited, ascending.")
    batch: Count = Field(description="Requests per step.")

    @abstractmethod
    def hypernetwork(self) -> HypernetworkSettings | None:
        """The network with the change that it is trained for; None where there is none."""

    @property
    def required_inputs(self) -> frozenset[InputKind]:
        """What is prepared, if anything is."""
        return frozenset() if self.prepare_settings() is None else frozenset({"prepare"})

    def prepare_settings(self) -> PrepareSettings | None:
        """The network's training, if there is one."""
        network = self.hypernetwork()
        return None if network is None else PrepareSettings(hypernetwork=network)

    @model_validator(mode="after")
    def _ascends(self) -> "GradientFamily":
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers must ascend without repeats, found {list(self.layers)}")
        return self

    # --- memory and work ----------------------------------------------------------------------------------------------

    @property
    def raises_target(self) -> bool:
        """Not with a network: what an edit does is learnt, so that success says something about the training."""
        return self.hypernetwork() is None

    def gradient_tokens(self, shape: "Shape", tokens: int) -> int:
        """The prompts that run together."""
        return tokens * min(self.batch, GRADIENT_REQUESTS)

    def edit_passes(self, shape: "Shape", edits: int, wordings: int, tokens: int) -> Sequence[ModelPasses]:
        """A gradient per request, and its probability before and after."""
        together = min(self.batch, GRADIENT_REQUESTS)
        return (ModelPasses(tokens * together, 1, (3.0 + BACKWARD) * edits / together),)

    def network_bytes(self, shape: "Shape") -> float:
        """The network and the statistics of its training; nothing where there is none."""
        network = self.hypernetwork()
        if network is None:
            return 0.0
        return float(network.network.entries(shape.mlp_width, shape.width, len(self.layers)) * SINGLE)

    def network_operations(self, shape: "Shape", tokens: float) -> float:
        """Of the network, for tokens of every layer."""
        network = self.hypernetwork()
        if network is None:
            return 0.0
        return tokens * len(self.layers) * 4.0 * network.network.blocks * network.network.rank * (shape.mlp_width + shape.width)


class GradientRegression(GradientFamily):
    """A ridge regression per matrix from what enters it at the targets' tokens to normalised negative gradients of what leaves it."""

    family: Literal["gradient_regression"] = "gradient_regression"
    lr: Positive = Field(default=1e-6, description="Step size η; with a network where its training begins.")
    ridge: Positive = Field(
        default=1.0, description="Weight α of the squared norm of the change; with a network where its training begins."
    )
    coefficient: Coefficient = Field(
        default="normalised", description="What a normalised gradient is multiplied by: ‖x̂‖² (`normalised`), or x·x̂ (`mixed`)."
    )
    network: Network = Field(default=NoNetwork(), description="None, or a network that rewrites normalised keys and gradients.")
    whiten: bool = Field(
        default=False, description="Whiten gradients by their whole covariance once there are more tokens than it needs (StableEdit)."
    )
    warm_up: int = Field(
        default=0,
        ge=0,
        description="Requests of the draw for tuning (at most all there are) whose statistics are taken before any edit. They change no "
        "weight.",
    )
    batch: Count = Field(default=100, description="Requests per turn, which are edited together.")

    def hypernetwork(self) -> HypernetworkSettings | None:
        """The network, if there is one, trained for the regression."""
        if not isinstance(self.network, TrainedNetwork):
            return None
        return HypernetworkSettings(
            layers=self.layers, change="regression", coefficient=self.coefficient, lr=self.lr, ridge=self.ridge, network=self.network
        )

    def prepare_settings(self) -> PrepareSettings | None:
        """The warm-up, or the network's training, if there is one."""
        if not self.warm_up:
            return super().prepare_settings()
        return PrepareSettings(warm_up=WarmUpSettings(layers=self.layers, requests=self.warm_up, whiten=self.whiten))

    @model_validator(mode="after")
    def _has_one_source_of_statistics(self) -> "GradientRegression":
        if isinstance(self.network, TrainedNetwork) and (self.whiten or self.warm_up):
            raise ValueError("statistics are those of the facts that the network is trained on; leave whiten and warm_up out")
        return self

    # --- memory and work ----------------------------------------------------------------------------------------------

    def solver_operations(self, shape: "Shape", edits: int) -> float:
        """Per turn and layer a system as large as its tokens, the weight that is written, a whitening, and the network."""
        tokens, turns = float(self.batch * ANSWER_TOKENS), edits / self.batch
        solved = tokens**3 / 3 + 2 * tokens**2 * (shape.mlp_width + shape.width) + 2 * tokens * shape.mlp_out
        whitened = 9.0 * shape.width**3 if self.whiten else 0.0
        return turns * (len(self.layers) * (solved + 4 * shape.mlp_out) + whitened + self.network_operations(shape, tokens))

    def held_bytes(self, shape: "Shape", item: int, edits: int) -> dict[str, float]:
        """Per layer the change and the original weight twice, the statistics, and the network; what a turn computes."""
        squares = shape.width**2 * DOUBLE if self.whiten else 0
        state = len(self.layers) * shape.mlp_out * (DOUBLE + 2.0 * item) + 2 * (shape.mlp_width + shape.width) * DOUBLE + squares
        turn = self.batch * ANSWER_TOKENS * len(self.layers) * (shape.mlp_width + shape.width)
        return {"state": state + self.network_bytes(shape), "temporaries": float(3 * max(turn, shape.mlp_out) * DOUBLE + 3 * squares)}

    def ledger_bytes(self, shape: "Shape", edits: int) -> float:
        """Per token what enters a matrix, the regressed change of what leaves it, and without a network the gradient there."""
        rows = shape.mlp_width + shape.width * (2 if self.hypernetwork() is None else 1)
        return float(edits * ANSWER_TOKENS * len(self.layers) * rows * SINGLE)


class Mend(GradientFamily):
    """Outer products of keys and gradients at all tokens of prompt and target, rewritten by a trained network and added to the weights."""

    family: Literal["mend"] = "mend"
    lr: Positive = Field(default=1e-4, description="Step size η of every layer, where training begins.")
    network: TrainedNetwork = Field(default=TrainedNetwork(scaled="before"), description="The network, and how it is trained.")
    batch: Count = Field(default=1, description="Requests per step, whose outer products are added up.")

    def hypernetwork(self) -> HypernetworkSettings:
        """The network, trained for the sum of outer products."""
        return HypernetworkSettings(layers=self.layers, change="outer_product", lr=self.lr, network=self.network)

    # --- memory and work ----------------------------------------------------------------------------------------------

    def solver_operations(self, shape: "Shape", edits: int) -> float:
        """Per request the network and the products; per step and layer the weight that is written."""
        tokens = float(edits * TEXT_TOKENS)
        products = 2 * tokens * len(self.layers) * shape.mlp_out
        return products + self.network_operations(shape, tokens) + edits / self.batch * len(self.layers) * 4.0 * shape.mlp_out

    def held_bytes(self, shape: "Shape", item: int, edits: int) -> dict[str, float]:
        """Per layer the change and the original weight twice, the statistics, and the network; what a step computes."""
        state = len(self.layers) * shape.mlp_out * (DOUBLE + 2.0 * item) + 2 * (shape.mlp_width + shape.width) * DOUBLE
        turn = self.batch * TEXT_TOKENS * (shape.mlp_width + shape.width)
        return {"state": state + self.network_bytes(shape), "temporaries": float(3 * max(turn, shape.mlp_out) * DOUBLE)}

    def ledger_bytes(self, shape: "Shape", edits: int) -> float:
        """Per token both rewritten rows of every layer."""
        return float(edits * TEXT_TOKENS * len(self.layers) * (shape.mlp_width + shape.width) * SINGLE)

"""The settings of editors that train a memory beside one MLP output matrix, with the memory and work that their steps take."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from d4s.editors.constants import ANSWER_TOKENS, BACKWARD
from d4s.editors.family_settings import SINGLE, Family, ModelPasses
from d4s.editors.parts.input_settings import BackgroundSettings, LocalitySettings, PrepareSettings
from d4s.editors.parts.part import NotNegative, Positive
from d4s.editors.parts.part_families import InputKind
from d4s.settings_base import Count

if TYPE_CHECKING:
    from d4s.models.model_shape import Shape

WORDINGS = 11
"""Wordings of a request that memory is planned for: unprefixed, and behind each of ten prefixes."""


class BesideMatrix(Family):
    """A memory beside one MLP output matrix; no weight changes."""

    layer: int = Field(ge=0, description="Block beside whose MLP output matrix the memory stands.")

    @property
    def layers(self) -> tuple[int, ...]:
        """The layer that the memory stands beside."""
        return (self.layer,)

    @property
    def is_beside_model(self) -> bool:
        """Yes: no weight changes."""
        return True


class SideMemorySettings(BesideMatrix):
    """A memory that is trained on one request after another."""

    batch: Literal[1] = Field(default=1, description="Requests per step.")


class PrefixedDescent(SideMemorySettings):
    """A memory that is trained by gradient descent on the prompt of a request, unprefixed and behind every prefix."""

    steps: Count = Field(default=70, description="Largest number of steps of gradient descent per request.")
    lr: Positive = Field(default=1.0, description="Learning rate of plain gradient descent.")
    weight_decay: NotNegative = Field(default=0.0, description="Decay, per step and rate, of what the memory adds to the matrix.")
    stop_loss: NotNegative = Field(default=0.02, description="Stop at this loss or below,")
    stop_change: NotNegative = Field(default=1e-4, description="once a step changes the loss by this at most.")

    @property
    def required_inputs(self) -> frozenset[InputKind]:
        """Prefixes, and what is prepared."""
        return frozenset({"contexts", "prepare"})

    def gradient_tokens(self, shape: "Shape", tokens: int) -> int:
        """All wordings of a prompt."""
        return WORDINGS * tokens

    def edit_passes(self, shape: "Shape", edits: int, wordings: int, tokens: int) -> Sequence[ModelPasses]:
        """A gradient of all wordings in every step, and the request's probability before and after."""
        descent = ModelPasses(wordings * tokens, 1, (1.0 + BACKWARD) * edits * self.steps)
        return descent, ModelPasses(tokens, 1, 2.0 * edits)


class Wise(PrefixedDescent):
    """A side copy of one matrix that is trained on requests, and answers prompts that move its output far enough (WISE)."""

    family: Literal["wise"] = "wise"
    alpha: NotNegative = Field(default=0.25, description="Largest gap that a sentence beside the requests may have, in units of `margins`.")
    beta: NotNegative = Field(default=1.0, description="Smallest gap that a request must have.")
    gamma: NotNegative = Field(default=0.5, description="Smallest difference of the two.")
    margins: Literal["output_norm", "absolute"] = Field(
        default="output_norm",
        description="Margins are multiples of the median norm of the matrix's output over sentences that the model writes, or as they are.",
    )
    act_ratio: NotNegative = Field(default=0.88, description="The gate opens above this share of the smallest gap of any request so far.")
    masked_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.2, description="Share of the entries of a side copy that are trained, drawn for each copy."
    )
    bound: Positive = Field(default=1.0, description="Largest change of an entry.")
    shard: Count = Field(default=500, description="Requests after which a side copy is kept and another one begun.")
    merge_every: Count = Field(default=1000, description="Requests after which all kept copies are merged into one (TIES).")
    density: Annotated[float, Field(gt=0, le=1)] = Field(default=0.53, description="Share of a copy's largest changes that is merged.")
    sentences: Count = Field(default=100, description="Sentences that the unedited model writes, of which each request draws one to keep.")
    sentence_tokens: Count = Field(default=12, description="Tokens of each of these sentences.")
    seed: int = Field(default=0, ge=0, description="Seed of the entries that are trained, and of the sentences.")

    def prepare_settings(self) -> PrepareSettings:
        """The sentences."""
        return PrepareSettings(
            locality=LocalitySettings(layer=self.layer, count=self.sentences, tokens=self.sentence_tokens, seed=self.seed)
        )

    # --- memory and work ----------------------------------------------------------------------------------------------

    def _kept(self, edits: int) -> int:
        """Copies that a state of a sequence of edits holds at most, the present one included."""
        return 1 + min(edits, self.merge_every) // self.shard

    def held_bytes(self, shape: "Shape", item: int, edits: int) -> dict[str, float]:
        """The copies; gradient, mask and changes of a step."""
        return {"state": (self._kept(edits) + 5.0) * shape.mlp_out * SINGLE}

    def view_bytes(self, shape: "Shape", item: int) -> dict[str, float]:
        """The copies."""
        return {"state": float(self._kept(self.merge_every) * shape.mlp_out * SINGLE)}

    def ledger_bytes(self, shape: "Shape", edits: int) -> float:
        """The copies."""
        return float(self._kept(edits) * shape.mlp_out * SINGLE)


class Memoir(PrefixedDescent):
    """A residual matrix of which every edit has columns of its own, chosen by its prompt, which prompts like it read (MEMOIR)."""

    family: Literal["memoir"] = "memoir"
    state_kind: Literal["additive", "dense"] = Field(
        default="dense", description="`additive`: every edit's own columns are kept, so that it can be undone. `dense`: their sum is."
    )
    columns: Count = Field(
        description="Columns of an edit: as many entries of its prompt's mean key as are furthest from the mean of prompts."
    )
    overlap: NotNegative = Field(description="Smallest share of columns that a prompt must have in common with an edit.")
    clip: Positive = Field(default=1.0, description="Largest norm of a gradient.")
    background: Count = Field(default=100, description="Requests of the draw for tuning that the mean of prompts is taken from.")
    seed: int = Field(default=0, ge=0, description="Seed of the permutation from entries to columns.")

    def prepare_settings(self) -> PrepareSettings:
        """The mean of prompts."""
        return PrepareSettings(background=BackgroundSettings(layer=self.layer, requests=self.background))

    # --- memory and work ----------------------------------------------------------------------------------------------

    def held_bytes(self, shape: "Shape", item: int, edits: int) -> dict[str, float]:
        """The matrix, which columns each edit has, and the columns of a step; of an additive state those of every edit."""
        own = (self.ledger_bytes(shape, edits) if self.state_kind == "additive" else 0.0) + 4.0 * self.columns * shape.width * SINGLE
        return {"state": shape.mlp_out * SINGLE + edits * shape.mlp_width * SINGLE + own}

    def view_bytes(self, shape: "Shape", item: int) -> dict[str, float]:
        """The matrix."""
        return {"state": float(shape.mlp_out * SINGLE)}

    def ledger_bytes(self, shape: "Shape", edits: int) -> float:
        """The numbers of every edit's columns, with the columns or with the matrix."""
        changes = edits * self.columns * shape.width if self.state_kind == "additive" else shape.mlp_out
        return float((edits * self.columns + changes) * SINGLE)


class Defer(SideMemorySettings):
    """A linear gate and a linear stand-in for one matrix, both trained on every request (DEFER)."""

    family: Literal["defer"] = "defer"
    steps: Count = Field(default=100, description="Steps of Adam per request.")
    lr: Positive = Field(default=7e-5, description="Learning rate of Adam.")
    threshold: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.5, description="The stand-in answers where the gate is above this.")

    def gradient_tokens(self, shape: "Shape", tokens: int) -> int:
        """A prompt."""
        return tokens

    def edit_passes(self, shape: "Shape", edits: int, wordings: int, tokens: int) -> Sequence[ModelPasses]:
        """A gradient in every step of Adam, and the request's probability before and after."""
        return ModelPasses(tokens, 1, (1.0 + BACKWARD) * edits * self.steps), ModelPasses(tokens, 1, 2.0 * edits)

    def held_bytes(self, shape: "Shape", item: int, edits: int) -> dict[str, float]:
        """The stand-in's change, its gradient, moments of Adam and copies."""
        return {"state": 6.0 * shape.mlp_out * SINGLE}

    def view_bytes(self, shape: "Shape", item: int) -> dict[str, float]:
        """The stand-in's change."""
        return {"state": float(shape.mlp_out * SINGLE)}

    def ledger_bytes(self, shape: "Shape", edits: int) -> float:
        """The stand-in's change, and the gate."""
        return float((shape.mlp_out + shape.mlp_width) * SINGLE)


class TransformerPatcher(SideMemorySettings):
    """Neurons beside the MLP of one layer, one for each token of a target that is wrong (Transformer-Patcher)."""

    family: Literal["t_patcher"] = "t_patcher"
    layer: int = Field(ge=0, description="Block beside whose MLP the neurons stand; as released the last one.")
    neurons: Count = Field(default=5, description="Neurons of a request at most; of more wrong tokens the first ones have one.")
    steps: Count = Field(default=2000, description="Steps of Adam per request at most.")
    lr: Positive = Field(default=1e-2, description="Learning rate of Adam.")
    amplify: Positive = Field(default=10.0, description="A neuron's value is this times what Adam trains.")
    stop_loss: NotNegative = Field(default=0.1, description="Stop once the target's negative log-likelihood per token is below this.")
    activation_weight: NotNegative = Field(default=1.0, description="Weight of the loss that keeps neurons active at their own tokens.")
    memory_weight: NotNegative = Field(default=5.0, description="Weight of the loss that keeps neurons inactive at kept states.")
    gap: float = Field(default=3.0, description="How much more a neuron is to be reached at its own token than at any kept state.")
    ceiling: float = Field(default=-3.0, description="How far a neuron may be reached at a kept state, before the activation.")
    hardest: Count = Field(default=1000, description="Pairs of a neuron and a kept state that count, those reached furthest.")
    sentences: Count = Field(default=200, description="Sentences that the unedited model writes, at whose tokens states are kept.")
    sentence_tokens: Count = Field(default=20, description="Tokens of each of these sentences.")
    seed: int = Field(default=0, ge=0, description="Seed of the sentences.")

    @property
    def required_inputs(self) -> frozenset[InputKind]:
        """The sentences."""
        return frozenset({"prepare"})

    def prepare_settings(self) -> PrepareSettings:
        """The sentences."""
        return PrepareSettings(
            locality=LocalitySettings(layer=self.layer, count=self.sentences, tokens=self.sentence_tokens, seed=self.seed)
        )

    # --- memory and work ----------------------------------------------------------------------------------------------

    def gradient_tokens(self, shape: "Shape", tokens: int) -> int:
        """A prompt."""
        return tokens

    def edit_passes(self, shape: "Shape", edits: int, wordings: int, tokens: int) -> Sequence[ModelPasses]:
        """A gradient in every step of Adam, the request's probability before and after, and the sentences once."""
        descent = ModelPasses(tokens, 1, (1.0 + BACKWARD) * edits * self.steps)
        return descent, ModelPasses(tokens, 1, 2.0 * edits), ModelPasses(self.sentence_tokens, 1, float(self.sentences))

    def held_bytes(self, shape: "Shape", item: int, edits: int) -> dict[str, float]:
        """The states that are kept with how far each new neuron is reached there, and the neurons twice."""
        kept = self.sentences * self.sentence_tokens * (shape.width + 4.0 * self.neurons) * SINGLE
        return {"state": kept + 2.0 * self.ledger_bytes(shape, edits)}

    def ledger_bytes(self, shape: "Shape", edits: int) -> float:
        """Key, value and query of every neuron, and its bias."""
        return float(edits * min(self.neurons, ANSWER_TOKENS) * (3 * shape.width + 1) * SINGLE)


class Melo(BesideMatrix):
    """Low-rank factors for every batch of requests, picked by the cluster of keys that a prompt is near to (MELO)."""

    family: Literal["melo"] = "melo"
    layer: int = Field(ge=0, description="Block beside whose MLP output matrix the factors stand; the key is what enters it.")
    batch: Count = Field(default=1, description="Requests per step, which share factors.")
    radius: Positive = Field(default=0.5, description="Radius of a new cluster: Euclidean distance between keys.")
    rank: Count = Field(default=2, description="Rank of the factors of a batch.")
    alpha: Positive = Field(default=2.0, description="The product of factors is multiplied by this over their rank.")
    steps: Count = Field(default=50, description="Largest number of steps of Adam per batch.")
    lr: Positive = Field(default=1e-3, description="Learning rate of Adam.")
    halve_every: Count = Field(default=20, description="Steps after which the learning rate is halved.")
    stop_loss: NotNegative = Field(default=0.0, description="Stop once the targets' negative log-likelihood per token is below this.")

    # --- memory and work ----------------------------------------------------------------------------------------------

    def gradient_tokens(self, shape: "Shape", tokens: int) -> int:
        """The prompts of a batch."""
        return self.batch * tokens

    def edit_passes(self, shape: "Shape", edits: int, wordings: int, tokens: int) -> Sequence[ModelPasses]:
        """A gradient in every step of Adam, and each request's probability before and after."""
        descent = ModelPasses(self.batch * tokens, 1, (1.0 + BACKWARD) * edits / self.batch * self.steps)
        return descent, ModelPasses(tokens, 1, 2.0 * edits)

    def held_bytes(self, shape: "Shape", item: int, edits: int) -> dict[str, float]:
        """Keys and factors, in the record and beside the model, and the changes of a step."""
        return {"state": 2.0 * self.ledger_bytes(shape, edits) + 4.0 * shape.mlp_out * SINGLE}

    def ledger_bytes(self, shape: "Shape", edits: int) -> float:
        """A key per edit, and factors per batch."""
        return float(SINGLE * (edits * shape.mlp_width + edits / self.batch * self.rank * (shape.mlp_width + shape.width)))

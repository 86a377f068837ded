"""The settings of fine-tuning, with the memory and work that its steps take."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from d4s.config import NoiseSettings
from d4s.editors.constants import BACKWARD
from d4s.editors.family_settings import SINGLE, Family, ModelPasses
from d4s.editors.parts.input_settings import PrepareSettings
from d4s.editors.parts.part import DOUBLE, Choice, Layers, NotNegative, Part, Positive
from d4s.editors.parts.part_families import DeltaTransform, InputKind, Regularization
from d4s.settings_base import Count, Frozen

if TYPE_CHECKING:
    from d4s.models.model_shape import Shape


class WholeMatrix(Frozen):
    """Every weight of the matrix is tuned."""

    kind: Literal["matrix"] = "matrix"


class LowRank(Frozen):
    """Low-rank factors beside matrices are tuned and added to them (LoRA)."""

    kind: Literal["lora"] = "lora"
    rank: Count = Field(default=1, description="Rank of the change of each matrix by one step.")
    alpha: Positive = Field(default=8.0, description="The product of the factors is scaled by this over the rank.")
    layers: Literal["all"] | Layers = Field(default="all", description="Blocks whose MLP output matrices have factors.")
    weight_decay: NotNegative = Field(default=1e-4, description="Decoupled weight decay of the factors.")
    clip: Positive = Field(default=1.0, description="Largest norm of the gradient of all factors together.")


class Epochs(Frozen):
    """Passes over a whole batch, a step of Adam per minibatch (mass editing)."""

    minibatch: Count = Field(default=10, description="Requests per step of Adam.")
    epochs: Count = Field(default=8, description="Passes over the batch, each in an order of its own.")


class FineTune(Family):
    """Fine-tuning of MLP output matrices, or of low-rank factors beside them, on each request or on a batch of them."""

    family: Literal["fine_tune"] = "fine_tune"
    objective: Literal["prompt_last", "target", "erase"] = Field(
        description="Score every target token at the last prompt token (FT-L), or each at its own place (FT-M); `erase` lowers the "
        "probability of the target, and does not stop early."
    )
    noise_subject: NoiseSettings | None = Field(
        default=None, description="Tune on copies of the prompt whose subject's embeddings are noised (fact forcing)."
    )
    parameters: Annotated[WholeMatrix | LowRank, Field(discriminator="kind")] = Field(default=WholeMatrix(), description="What is tuned.")
    layer: int | None = Field(default=None, ge=0, description="Block whose MLP output matrix is tuned, where that is one.")
    more_layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), description="Further blocks whose matrices are tuned with it.")
    steps: Count = Field(default=25, description="Largest number of Adam steps per batch.")
    lr: Positive = Field(default=5e-4, description="Learning rate of Adam.")
    stop_loss: NotNegative = Field(default=1e-2, description="Stop once the loss of the targets is below this.")
    bound: Positive | None = Field(default=None, description="Largest change of any weight by one edit.")
    batch: Count = Field(default=1, description="Requests tuned together.")
    schedule: Literal["per_step"] | Epochs = Field(
        default="per_step", description="`steps` steps on the whole batch, or passes over it in minibatches."
    )
    regularize: Regularization | None = Field(default=None, description="True sentences that are learned beside the targets.")
    delta_transform: DeltaTransform | None = Field(
        default=None, description="What is done to the whole change whenever the edited model is asked for."
    )

    @model_validator(mode="after")
    def _goes_together(self) -> "FineTune":
        if isinstance(self.parameters, LowRank):
            default = {"layer": None, "more_layers": (), "bound": None, "objective": "target", "noise_subject": None}
            default |= {"schedule": "per_step", "regularize": None, "delta_transform": None}
            if found := [name for name, expected in default.items() if getattr(self, name) != expected]:
                raise ValueError(
                    f"`lora` has layers of its own, its steps are whole, plain and targets alone; leave out {', '.join(found)}"
                )
        elif self.layer is None:
            raise ValueError("fine-tuning of a matrix needs its layer")
        if self.regularize and (self.objective != "target" or self.noise_subject):
            raise ValueError("regularize continues the target, so objective must be `target` and noise_subject null")
        return self

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose weights change; none are named where all change."""
        if isinstance(self.parameters, LowRank):
            return () if self.parameters.layers == "all" else self.parameters.layers
        return () if self.layer is None else tuple(sorted({self.layer, *self.more_layers}))

    @property
    def required_inputs(self) -> frozenset[InputKind]:
        """Sentences to learn, where it is regularized."""
        return frozenset({"prepare"} if self.regularize else ())

    def prepare_settings(self) -> PrepareSettings | None:
        """The pool of sentences, where it is regularized."""
        return PrepareSettings(facts=self.regularize.pool) if self.regularize else None

    def parts(self) -> tuple[Part, ...]:
        """What it learns beside targets, and what is done to its change."""
        return tuple(part for part in (self.regularize, self.delta_transform) if part is not None)

    def choices(self) -> Iterator[Choice]:
        """Its parts, as choices."""
        for part in self.parts():
            yield from part.choices()

    # --- memory and work ----------------------------------------------------------------------------------------------

    @property
    def raises_target(self) -> bool:
        """Not if it erases, or tunes on noised prompts."""
        return self.objective != "erase" and self.noise_subject is None

    def _matrices(self, shape: "Shape") -> int:
        return len(self.layers) or shape.layers

    @property
    def _updates(self) -> int:
        """Steps of Adam that a request takes part in, at most."""
        return self.steps if self.schedule == "per_step" else self.schedule.epochs

    def _row_tokens(self, tokens: int) -> int:
        """Tokens that a request runs in one step: its prompt, its noised copies, or with sentences, which are about as long."""
        rows = self.noise_subject.copies if self.noise_subject else 1
        return tokens * (2 * self.regularize.facts if self.regularize else rows)

    def gradient_tokens(self, shape: "Shape", tokens: int) -> int:
        """The texts of the requests of a step."""
        return self._row_tokens(tokens) * (self.batch if self.schedule == "per_step" else min(self.batch, self.schedule.minibatch))

    def edit_passes(self, shape: "Shape", edits: int, wordings: int, tokens: int) -> Sequence[ModelPasses]:
        """A gradient in every step of Adam, forward and backward."""
        return (ModelPasses(self._row_tokens(tokens), 1, (1.0 + BACKWARD) * edits * self._updates),)

    def held_bytes(self, shape: "Shape", item: int, edits: int) -> dict[str, float]:
        """Weight, gradient, moments of Adam and copies in float32, or of factors the original weights twice; sums in float64."""
        of_matrix = 2.0 * item if isinstance(self.parameters, LowRank) else 8.0 * SINGLE
        return {"state": self._matrices(shape) * shape.mlp_out * of_matrix, "temporaries": 3.0 * shape.mlp_out * DOUBLE}

    def view_bytes(self, shape: "Shape", item: int) -> dict[str, float]:
        """Per matrix the change and the original weight twice."""
        state = self._matrices(shape) * shape.mlp_out * (DOUBLE + 2.0 * item)
        return {"state": state, "temporaries": 3.0 * shape.mlp_out * DOUBLE}

    def ledger_bytes(self, shape: "Shape", edits: int) -> float:
        """The weights as they are, or the factors of all edits."""
        if isinstance(self.parameters, LowRank):
            return float(edits * self._matrices(shape) * self.parameters.rank * (shape.width + shape.mlp_width) * SINGLE)
        return float(self._matrices(shape) * shape.mlp_out * SINGLE)

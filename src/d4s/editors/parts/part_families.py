"""The families of parts: history, step transform, delta transform, residual schedule, preservation, and regularization.

Regularization belongs to fine-tuning; the others are what the loop (`locate_then_edit.py`) and the layers (`edited_layers.py`)
ask of a part. What a part holds while it edits stands in an object per layer that it makes, `LayerHistory` and `LayerTransform`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from d4s.editors.parts.input_settings import FactPoolSettings
from d4s.editors.parts.part import DOUBLE, Basis, Context, Keys, Original, Part, Residuals, Square, Tensor, Weight
from d4s.editors.training_texts import PoolSentence, TrainingText
from d4s.settings_base import Count

if TYPE_CHECKING:
    from d4s.editors.edited_layers import EditedLayer
    from d4s.editors.least_squares import PreservedMatrix, RecursiveSolver
    from d4s.editors.least_squares_settings import LeastSquaresSettings, LocateThenEdit
    from d4s.editors.parts.interpolate import Validation
    from d4s.editors.protocol import Prepared, State, StepRecord
    from d4s.models.language_model import LanguageModel
    from d4s.models.model_shape import Shape

InputKind = Literal["contexts", "moments", "targets", "prepare"]
Recursive = tuple["RecursiveSolver", Square, Basis | None]
"""A recursive solver, what it holds before any keys, and the basis that it sees keys in."""


# --- what is preserved --------------------------------------------------------------------------------------------------


class Preservation(Part):
    """What a change of weights must leave alone: the matrix A₀ of every solve."""

    name: ClassVar[str] = "preservation"
    inputs: ClassVar[frozenset[InputKind]] = frozenset()
    """Artefacts that an edit reads for it."""
    uses_moments: ClassVar[bool] = True
    """Whether second moments are taken, for the edits or for what is prepared from them."""

    @abstractmethod
    def matrix(self, layer: int, prepared: "Prepared", model: "LanguageModel") -> "PreservedMatrix":
        """The matrix of a layer.

        Raises:
            SolveError: if it has no factor.
        """

    @property
    def basis_threshold(self) -> float | None:
        """Eigenvalues of the second moment below this span the free directions; None where all directions are free."""
        return None

    @property
    def is_confined(self) -> bool:
        """Whether weights change in some directions only."""
        return self.basis_threshold is not None

    def bytes(self, shape: "Shape") -> int:
        """The matrix, d² in float64."""
        return DOUBLE * shape.mlp_width**2


# --- how the residual is shared -----------------------------------------------------------------------------------------


class ResidualSchedule(Part):
    """How the residual is shared among the edited layers."""

    name: ClassVar[str] = "residual_schedule"
    is_remeasured: ClassVar[bool] = False
    """Whether each layer's residual is measured after the change of the one before."""
    has_own_targets: ClassVar[bool] = False
    """Whether each layer has a target of its own."""
    optimises_before_writing: ClassVar[bool] = False
    """Whether all layers' own targets are optimised before any layer is changed."""

    def conflicts(self, editor: "LeastSquaresSettings") -> Iterator[str]:
        """Reasons why the part does not go with the others of an editor."""
        yield from ()

    @abstractmethod
    def weight(self, index: int, count: int) -> float:
        """The part of the residual that the layer with an index (from 0) among `count` edited layers takes over."""


# --- what earlier edits leave -------------------------------------------------------------------------------------------


class History(Part):
    """What a solve knows of earlier edits."""

    name: ClassVar[str] = "history"
    remembers: ClassVar[bool] = True
    """Whether solves hold the keys of earlier edits."""
    refits: ClassVar[bool] = False
    """Whether each step solves for all edits so far rather than for the new ones."""
    starts_at_original: ClassVar[bool] = False
    """Whether edits count from the original weights, so that their residuals do too."""
    replays: ClassVar[bool] = False
    """Whether the change follows only from taking every step again, in order."""
    factors_each_step: ClassVar[bool] = False
    """Whether every step factors a matrix; elsewhere a recursive solver is updated."""

    def conflicts(self, editor: "LocateThenEdit") -> Iterator[str]:
        """Reasons why the part does not go with the others of an editor."""
        yield from ()

    @abstractmethod
    def at(self, layer: "EditedLayer") -> "LayerHistory":
        """The history of one layer, empty."""

    def fold(self, settings: "LocateThenEdit", index: int, model: "LanguageModel", prepared: "Prepared", state: "State") -> Weight:
        """The change of the weight of an edited layer, from a state: the sum of its factors on what a dense state holds."""
        import torch

        layer = settings.layers[index]
        total = torch.zeros_like(model.weight(layer), dtype=torch.float64)
        if f"{layer}.delta" in state.dense:
            total += state.dense[f"{layer}.delta"].to(total.device)
        for record in state.records:
            if f"{layer}.left" in record:
                total.addmm_(record[f"{layer}.left"].to(total.device).mT, record[f"{layer}.right"].to(total.device))
        return total

    def bytes(self, shape: "Shape") -> int:
        """The solver, or the Gram matrix of all keys: d² in float64."""
        return DOUBLE * shape.mlp_width**2


class LayerHistory(ABC):
    """What a history holds at one layer of a session."""

    @abstractmethod
    def fit(
        self, layer: "EditedLayer", keys: Keys, unprefixed: Keys, residuals: Residuals, *, preserve_keys: bool, context: Context | None
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Change the layer for keys and what they should add to the output; the record's tensors, and numbers to be logged.

        `context` are keys at which this step adds nothing.
        """

    @abstractmethod
    def replay(self, layer: "EditedLayer", record: "StepRecord") -> None:
        """Take a recorded step over, with the very operations that made it."""

    @abstractmethod
    def preserve_keys(self, keys: Keys) -> None:
        """Hold keys fast from now on, where the history remembers keys."""

    def recursive(self, layer: "EditedLayer") -> Iterator[Recursive]:
        """Solvers whose inverse is recomputed from time to time."""
        yield from ()

    def tensors(self) -> dict[str, Tensor]:
        """The history's part of a dense state, by name, as the tensors that it works with."""
        return {}


# --- what is done to a step ---------------------------------------------------------------------------------------------


class StepTransform(Part):
    """What is done to each step before it is written. Given a step Rᵀ G, most change its right factor, the gain G."""

    name: ClassVar[str] = "step_transform"
    is_dense: ClassVar[bool] = False
    """Whether what is written is no product of few factors, so that states hold the whole change."""
    refactors: ClassVar[bool] = False
    """Whether it holds a recursive solver, recomputed from time to time."""

    @abstractmethod
    def at(self, layer: "EditedLayer") -> "LayerTransform":
        """The transform at one layer, before any step."""

    def conflicts(self, editor: "LocateThenEdit") -> Iterator[str]:
        """Histories that refit solve for the whole change and leave no step to transform."""
        if editor.history.refits:
            yield "step_transform changes a step, and histories `refit` and `adaptive_refit` solve for the whole change"


class LayerTransform:
    """What a step transform does and holds at one layer of a session. This one leaves every step as it is."""

    needs_keys: ClassVar[bool] = False
    """Whether records must say which keys a step had."""

    def right(self, keys: Keys, gain: Keys) -> Keys:
        """The right factor that is written, from the step's keys and its gain."""
        return gain

    def add(self, layer: "EditedLayer", keys: Keys, left: Residuals, gain: Keys) -> tuple[dict[str, Tensor], float]:
        """Add a step to the layer's change; what a record holds of it, and its norm."""
        return layer.add_factors(left, self.right(keys, gain))

    def replay_keys(self, keys: Keys) -> None:
        """Take the keys of a recorded step over."""

    def recursive(self) -> Iterator[Recursive]:
        """Solvers whose inverse is recomputed from time to time."""
        yield from ()

    def tensors(self) -> dict[str, Tensor]:
        """The transform's part of a dense state, by name, as the tensors that it works with."""
        return {}


# --- what is done to the whole change -----------------------------------------------------------------------------------


class DeltaTransform(Part):
    """What is done to the whole change of weights whenever the edited model is asked for."""

    name: ClassVar[str] = "delta_transform"
    is_dense: ClassVar[bool] = False
    """Whether states hold the whole change, since it is asked for as a whole."""
    is_control: ClassVar[bool] = False
    """Whether it changes what an editor has found, so that norm and direction of a change can be told apart."""

    def conflicts(self, editor: "LocateThenEdit") -> Iterator[str]:
        """Reasons why the part does not go with the others of an editor."""
        yield from ()

    @abstractmethod
    def of(self, delta: Weight, original: Original, layer: int) -> Weight:
        """The change of a layer's weight that the edited model has."""

    def finish(self, model: "LanguageModel", deltas: Mapping[int, Weight], validation: "Validation | None") -> Mapping[int, Weight]:
        """The changes of all layers that the edited model has."""
        return {layer: self.of(delta, model.weight(layer), layer) for layer, delta in deltas.items()}

    def validation(self, dense: Mapping[str, Tensor]) -> "Validation | None":
        """Requests that are kept on the way, from a dense state; None where the transform needs none."""
        return None


# --- what fine-tuning learns beside its targets -------------------------------------------------------------------------


class Regularization(Part):
    """True sentences that fine-tuning learns beside its targets, drawn again in every step from a pool prepared once."""

    name: ClassVar[str] = "regularize"
    facts: Count = Field(default=4, description="Sentences per request and step.")
    count: Count = Field(default=200, description="Sentences in the pool, at most.")
    known: bool = Field(default=True, description="Only sentences whose object the unedited model says.")

    @property
    def pool(self) -> FactPoolSettings:
        """The pool that is prepared."""
        return FactPoolSettings(count=self.count, known=self.known, least=self.facts)

    @abstractmethod
    def texts(self, prompt: Sequence[int], target: Sequence[int], sentences: Sequence[PoolSentence], start: int) -> Iterator[TrainingText]:
        """What a request learns from in a step: its prompt and target, the sentences drawn for it; `start` is what a text begins with."""

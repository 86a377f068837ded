"""The contract of an editor: what it needs, its state as a value, a session that edits, and the edited model.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.editors.edit_requests import EditRequest
from d4s.editors.least_squares import SolveError
from d4s.editors.moments import SecondMoment
from d4s.models.edited_model import EditedModel
from d4s.models.language_model import LanguageModel

StateKind = Literal["refit", "additive", "dense", "codebook", "memory"]
StepRecord = Mapping[str, Tensor]


class Diverged(ArithmeticError):
    """A step whose numbers stopped being finite; the session cannot go on."""


class NotRemovable(ValueError):
    """A selection of edits that a state cannot be reduced or brought back to; says why."""


@dataclass(frozen=True, slots=True)
class EditStatus:
    """An edit, and whether it counts before and after a selection. `fact` is what edits of the same fact have in common."""

    number: int
    fact: str
    was_active: bool
    is_active: bool

    @property
    def is_removed(self) -> bool:
        """Whether the selection takes it out."""
        return self.was_active and not self.is_active

    @property
    def is_restored(self) -> bool:
        """Whether the selection brings it back."""
        return self.is_active and not self.was_active


@dataclass(frozen=True, slots=True)
class EditSelection:
    """Which edits of a sequence are to count: its records in order (none are read of a dense state), and the edits of each."""

    records: Iterable[StepRecord]
    edits: Sequence[Sequence[EditStatus]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` and the stages before it bring: prefixes, second moments by layer, and an editor's own tensors.

    `solvers` caches each layer's factorised preserved matrix between sessions of one editor that all start unedited; None: no cache.
    """

    contexts: tuple[str, ...] = ()
    moments: Mapping[int, SecondMoment] = field(default_factory=dict)
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    solvers: MutableMapping[int, tuple[Any, Any]] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets of requests, one row each, optimised at the weights that the settings say.

    `hidden_shift` is the optimised vector, `hidden` the vector at the unprefixed prompt before it is added; their sum is the
    target hidden state. `mlp_output` is what the MLP of that layer gave there, before any norm; where there is one, the shift is
    of this vector, and the target hidden state is what comes of it (`weight_side.target_change`). Probabilities are means over the edit
    prompts of exp(mean token log-probability).
    """

    hidden_shift: Float[Tensor, "n d_out"]
    hidden: Float[Tensor, "n d_out"]
    mlp_output: Float[Tensor, "n d_out"]
    probability_before: Float[Tensor, " n"]
    probability_after: Float[Tensor, " n"]
    steps: Float[Tensor, " n"]

    def __getitem__(self, selection: slice | Tensor) -> "Targets":
        """The targets of some of the requests."""
        return Targets(**{name: getattr(self, name)[selection] for name in TARGET_FIELDS})

    @classmethod
    def concatenate(cls, parts: Sequence["Targets"]) -> "Targets":
        """Targets of one group of requests after another."""
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in TARGET_FIELDS})

    def mean(self) -> "Targets":
        """One target, the mean of all."""
        return Targets(**{name: getattr(self, name).mean(0, keepdim=True) for name in TARGET_FIELDS})

    def to_tensors(self) -> dict[str, Tensor]:
        """The same by name, on the CPU, as files hold them."""
        return {name: getattr(self, name).cpu() for name in TARGET_FIELDS}


TARGET_FIELDS = ("hidden_shift", "hidden", "mlp_output", "probability_before", "probability_after", "steps")


@dataclass(frozen=True, slots=True)
class StepLog:
    """Numbers of one step: (quantity, layer or None, value), written to EDIT_LOG once per request of the batch."""

    values: tuple[tuple[str, int | None, float], ...]

    @property
    def is_finite(self) -> bool:
        """Whether every number of the step is finite."""
        return all(abs(value) < float("inf") for _, _, value in self.values)


@runtime_checkable
class State(Protocol):
    """The editing state after some steps: a value; weights are a view of it.

    Refit, additive, codebook and memory states are `records`, one per step, and only ever grow at the end. Dense states are one set
    of tensors, `dense`, that every step replaces; it is empty for states made of rows.
    """

    @property
    def kind(self) -> StateKind:
        """Which of the kinds, hence what undo means."""
        ...

    @property
    def records(self) -> Sequence[StepRecord]:
        """Tensors of each step, in order."""
        ...

    @property
    def dense(self) -> Mapping[str, Tensor]:
        """Tensors of the present state where it is no sequence of rows."""
        ...


@runtime_checkable
class Session(Protocol):
    """Editing in progress; weights of the model may be changed until it is closed."""

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Edit a batch of requests. `targets` are those at the original weights, where the editor needs them.

        Raises:
            Diverged: if numbers stop being finite on the way; the session is then at an end.
        """
        ...

    def state(self) -> State:
        """The state so far, as a value that later steps do not change."""
        ...

    def live(self) -> EditedModel | None:
        """The model as edited so far, valid until the next step; None where single steps change no weights yet."""
        ...


def run_step(session: Session, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
    """Edit a batch of requests with a session.

    Raises:
        Diverged: if its numbers are not finite, or too far apart to be solved for; the session is then at an end.
    """
    try:
        found = session.step(batch, targets)
    except SolveError as reason:
        raise Diverged(str(reason)) from reason
    if not found.is_finite:
        raise Diverged("numbers that are not finite")
    return found


@runtime_checkable
class Editor(Protocol):
    """A method of editing. Made from its settings by `d4s.editors.families.build`."""

    @property
    def kind(self) -> StateKind:
        """The kind of its states."""
        ...

    def restore(self, records: Sequence[StepRecord], dense: Mapping[str, Tensor]) -> State:
        """The state that consists of saved rows or of saved dense tensors."""
        ...

    def check_removable(self, selection: EditSelection, preceding: EditSelection | None = None) -> None:
        """Refuse a selection that takes out or brings back what the state cannot lose or regain.

        Args:
            selection: the edits of a state.
            preceding: the edits whose records a merge puts before those.

        Raises:
            NotRemovable: naming the edits and the reason.
        """
        ...

    def start(self, model: LanguageModel, prepared: Prepared) -> State:
        """The state before any edit."""
        ...

    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> AbstractContextManager[Session]:
        """A session that continues from a state; the model's original bits are back at its end, also on error."""
        ...

    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> AbstractContextManager[EditedModel]:
        """The model as a state describes it; the model's original bits are back at the end, also on error."""
        ...

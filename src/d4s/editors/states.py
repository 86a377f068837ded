"""The two shapes of state as values: records that grow at the end, and dense tensors that every step replaces.

What can be removed from them follows from the shape: records as a whole, and nothing of dense tensors.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from d4s.editors.protocol import EditSelection, NotRemovable, Prepared, StateKind, StepRecord
from d4s.models.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class RecordState:
    """A state made of records, one per step. Undo and merge are record operations; what they mean depends on the kind.

    For `refit` they are exact on the record: the change of weights is solved from the records that are left. For `additive`
    a record's own factors go, though later records were computed in their presence. For `codebook` and `memory` an entry goes.
    """

    kind: StateKind
    records: Sequence[StepRecord] = ()

    @property
    def dense(self) -> Mapping[str, Tensor]:
        """Nothing: the records say it all."""
        return {}

    def without(self, steps: Collection[int]) -> "RecordState":
        """The state with the records of some steps (counted from 0) taken out.

        Raises:
            ValueError: if there is no such step.
        """
        unknown = sorted(step for step in steps if not 0 <= step < len(self.records))
        if unknown:
            raise ValueError(f"steps {unknown} cannot be undone: the state has steps 0 to {len(self.records) - 1}")
        return RecordState(self.kind, tuple(record for step, record in enumerate(self.records) if step not in steps))


class RecordEditor:
    """What editors have in common whose states are records and nothing else; `kind` says what the records are."""

    kind: StateKind

    def restore(self, records: Sequence[StepRecord], dense: Mapping[str, Tensor]) -> RecordState:
        """The state that consists of saved records."""
        return RecordState(self.kind, tuple(records))

    def check_removable(self, selection: EditSelection, preceding: EditSelection | None = None) -> None:
        """Refuse to take out or bring back a part of a record.

        Raises:
            NotRemovable: naming the edits of the record.
        """
        check_whole_records(selection)

    def start(self, model: LanguageModel, prepared: Prepared) -> RecordState:
        """No records."""
        return RecordState(self.kind)


@dataclass(frozen=True, slots=True)
class DenseState:
    """A state that is one set of tensors; it cannot be undone or merged."""

    dense: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def kind(self) -> StateKind:
        """Dense."""
        return "dense"

    @property
    def records(self) -> Sequence[StepRecord]:
        """None: every step replaced the tensors."""
        return ()


@runtime_checkable
class HasStateKind(Protocol):
    """Settings that say of what kind an editor's states are."""

    @property
    def state_kind(self) -> StateKind:
        """Records of some kind, or dense."""
        ...


S = TypeVar("S", bound=HasStateKind)


class RecordOrDenseEditor(Generic[S]):
    """What editors have in common whose states are records or one set of tensors, as their settings say."""

    def __init__(self, settings: S) -> None:
        self.settings = settings

    @property
    def kind(self) -> StateKind:
        """That of the settings."""
        return self.settings.state_kind

    def restore(self, records: Sequence[StepRecord], dense: Mapping[str, Tensor]) -> "RecordState | DenseState":
        """The state that consists of saved records, or of saved tensors."""
        return DenseState(dict(dense)) if self.kind == "dense" else RecordState(self.kind, tuple(records))

    def check_removable(self, selection: EditSelection, preceding: EditSelection | None = None) -> None:
        """Refuse to take out or bring back a part of a record, or any edit of a dense state.

        Raises:
            NotRemovable: naming the edits of the record, or if there is such an edit.
        """
        (check_dense if self.kind == "dense" else check_whole_records)(selection)

    def start(self, model: LanguageModel, prepared: Prepared) -> "RecordState | DenseState":
        """No records, and no tensors."""
        return self.restore((), {})


def check_whole_records(selection: EditSelection) -> None:
    """Refuse a selection that takes out or brings back some edits of a record without the others.

    Raises:
        NotRemovable: naming the edits of the record.
    """
    for edits in selection.edits:
        active = [edit for edit in edits if edit.was_active]
        if any(edit.is_removed for edit in active) and not all(edit.is_removed for edit in active):
            raise NotRemovable(f"edits {[edit.number for edit in active]} were made as one batch and can only be taken out together")
    for edits in selection.edits:
        if any(edit.is_restored for edit in edits) and not all(edit.is_active for edit in edits):
            raise NotRemovable(
                f"edits {[edit.number for edit in edits]} were made as one batch and can only come back together; "
                "undo all that replaced them"
            )


def check_dense(selection: EditSelection) -> None:
    """Refuse a selection that takes out or brings back any edit.

    Raises:
        NotRemovable: if there is such an edit.
    """
    if any(edit.is_removed or edit.is_restored for edits in selection.edits for edit in edits):
        raise NotRemovable(
            "every step replaced its state as a whole, so no edit can be told from the others; edit the unedited model again "
            "without these facts, or use an editor that keeps a record, such as d4s"
        )

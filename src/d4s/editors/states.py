"""The two shapes of state as values: records that grow at the end, and dense tensors that every step replaces.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from d4s.editors.protocol import Prepared, StateKind, StepRecord
from d4s.models.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class RecordState:
    """A state made of records, one per step. Undo and merge are record operations; what they mean depends on the kind.

    For `refit` they are exact on the record: the change of weights is solved from the records that are left. For `additive`
    a record's own factors go, though later records were computed in their presence. For `codebook` an entry goes.
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

    def shared_entry(self, record: StepRecord) -> Hashable | None:
        """None: every record stands for itself."""
        return None

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

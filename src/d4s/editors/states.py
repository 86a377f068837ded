"""The two shapes of state as values: rows that grow at the end, and dense tensors that every step replaces."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from d4s.editors.protocol import Prepared, Row, StateKind
from d4s.models.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class RowState:
    """A state made of rows, one per step. Undo and merge are row operations; what they mean depends on the kind.

    For `refit` they are exact on the record: the change of weights is solved from the rows that are left. For `additive`
    a row's own factors go, though later rows were computed in their presence. For `memory` an entry goes.
    """

    kind: StateKind
    rows: Sequence[Row] = ()

    @property
    def dense(self) -> Mapping[str, Tensor]:
        """Nothing: the rows say it all."""
        return {}

    def without(self, steps: Collection[int]) -> "RowState":
        """The state with the rows of some steps (counted from 0) taken out.

        Raises:
            ValueError: if there is no such step.
        """
        unknown = sorted(step for step in steps if not 0 <= step < len(self.rows))
        if unknown:
            raise ValueError(f"steps {unknown} cannot be undone: the state has steps 0 to {len(self.rows) - 1}")
        return RowState(self.kind, tuple(row for step, row in enumerate(self.rows) if step not in steps))


class RowEditor:
    """What editors have in common whose states are rows and nothing else; `kind` says what the rows are."""

    kind: StateKind

    def restore(self, rows: Sequence[Row], dense: Mapping[str, Tensor]) -> RowState:
        """The state that consists of saved rows."""
        return RowState(self.kind, tuple(rows))

    def start(self, model: LanguageModel, prepared: Prepared) -> RowState:
        """No rows."""
        return RowState(self.kind)


@dataclass(frozen=True, slots=True)
class DenseState:
    """A state that is one set of tensors; it cannot be undone or merged."""

    dense: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def kind(self) -> StateKind:
        """Dense."""
        return "dense"

    @property
    def rows(self) -> Sequence[Row]:
        """None: every step replaced the tensors."""
        return ()

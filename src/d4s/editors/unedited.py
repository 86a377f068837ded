"""No editing at all: the reference that every method is held against, run through the very same stages.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from d4s.editors.edit_requests import EditRequest
from d4s.editors.editor_settings import Unedited
from d4s.editors.protocol import Prepared, State, StateKind, StepLog, Targets
from d4s.editors.states import RecordEditor, RecordState
from d4s.models.language_model import LanguageModel
from d4s.models.views import LiveModel


class UneditedSession:
    """Counts requests."""

    def __init__(self, model: LanguageModel, state: State) -> None:
        self._model = model
        self._steps = len(state.records)

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Leave the model alone."""
        self._steps += 1
        return StepLog(())

    def state(self) -> State:
        """As many empty records as steps."""
        return RecordState("additive", ({},) * self._steps)

    def live(self) -> LiveModel:
        """The model."""
        return LiveModel(self._model, {})


class UneditedEditor(RecordEditor):
    """The editor that does nothing."""

    kind: StateKind = "additive"

    def __init__(self, settings: Unedited) -> None:
        self.settings = settings

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[UneditedSession]:
        """A session that counts requests."""
        yield UneditedSession(model, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[LiveModel]:
        """The model."""
        yield LiveModel(model, {})

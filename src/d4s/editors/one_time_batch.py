"""All requests so far as one MEMIT batch from the original weights: the solution that a sequence of edits should reach.

Steps only record requests, as token ids with their targets; the batch is solved when the edited model is asked for.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from d4s.editors.locate_then_edit import LocateThenEditEditor
from d4s.editors.prompts import rewriting
from d4s.editors.protocol import Prepared, State, StateKind, StepLog, Targets
from d4s.editors.records import recorded, unrecorded
from d4s.editors.settings import LeastSquaresSettings, LocateThenEdit, OneTimeBatch
from d4s.editors.states import RowEditor, RowState
from d4s.models.language_model import LanguageModel
from d4s.models.views import LiveModel
from d4s.requests.draw import EditRequest


class OneTimeBatchSession:
    """Records requests."""

    def __init__(self, model: LanguageModel, prepared: Prepared, state: State) -> None:
        self._model, self._contexts = model, prepared.contexts
        self._rows = list(state.rows)

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Record a request with its target.

        Raises:
            ValueError: if no targets are given.
        """
        if targets is None:
            raise ValueError("this editor works with targets at the original weights, and none were given")
        self._rows.append(recorded([rewriting(self._model, request, self._contexts) for request in batch], targets))
        numbers = {"before": targets.probability_before, "after": targets.probability_after}
        return StepLog(tuple((f"target_probability_{name}", None, float(value.mean())) for name, value in numbers.items()))

    def state(self) -> State:
        """The requests so far."""
        return RowState("refit", tuple(self._rows))

    def live(self) -> None:
        """Nothing is edited before the end."""


class OneTimeBatchEditor(RowEditor):
    """The batch as an editor; any request can be taken out again, since all are solved anew."""

    kind: StateKind = "refit"

    def __init__(self, settings: OneTimeBatch) -> None:
        self.settings = settings

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[OneTimeBatchSession]:
        """A session that records requests."""
        yield OneTimeBatchSession(model, prepared, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[LiveModel]:
        """The model with all requests edited in at once."""
        editor = LocateThenEditEditor(self.as_one_batch(max(1, len(state.rows))))
        with editor.editing(model, prepared, editor.start(model, prepared)) as session:
            if state.rows:
                session.apply(*unrecorded(state.rows))
            yield session.view()

    def as_one_batch(self, size: int) -> LocateThenEdit:
        """The settings of the sequential family that edit so many requests together."""
        shared = {name: getattr(self.settings, name) for name in LeastSquaresSettings.model_fields}
        return LocateThenEdit(**shared, batch=size)

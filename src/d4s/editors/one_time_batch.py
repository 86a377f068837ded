"""All requests so far as one MEMIT batch from the original weights: the solution that a sequence of edits should reach.

Steps only record requests, as token ids with their targets; the batch is solved when the edited model is asked for.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from d4s.editors.edit_requests import EditRequest
from d4s.editors.least_squares_settings import OneTimeBatch
from d4s.editors.locate_then_edit import LocateThenEditEditor
from d4s.editors.prompts import prompts_to_edit
from d4s.editors.protocol import Prepared, State, StateKind, StepLog, Targets
from d4s.editors.request_tensors import requests_from_tensors, requests_to_tensors
from d4s.editors.states import RecordEditor, RecordState
from d4s.models.language_model import LanguageModel
from d4s.models.views import LiveModel


class OneTimeBatchSession:
    """Records requests."""

    def __init__(self, settings: OneTimeBatch, model: LanguageModel, prepared: Prepared, state: State) -> None:
        self._target, self._model, self._contexts = settings.target, model, prepared.contexts
        self._records = list(state.records)

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Record a request with its target.

        Raises:
            ValueError: if no targets are given.
        """
        if targets is None:
            raise ValueError("this editor works with targets at the original weights, and none were given")
        prompt_sets = [one for request in batch for one in prompts_to_edit(self._model, request, self._contexts, self._target)]
        self._records.append(requests_to_tensors(prompt_sets, targets))
        numbers = {"before": targets.probability_before, "after": targets.probability_after}
        return StepLog(tuple((f"target_probability_{name}", None, float(value.mean())) for name, value in numbers.items()))

    def state(self) -> State:
        """The requests so far."""
        return RecordState("refit", tuple(self._records))

    def live(self) -> None:
        """Nothing is edited before the end."""


class OneTimeBatchEditor(RecordEditor):
    """The batch as an editor; any request can be removed, since all are solved again."""

    kind: StateKind = "refit"

    def __init__(self, settings: OneTimeBatch) -> None:
        self.settings = settings

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[OneTimeBatchSession]:
        """A session that records requests."""
        yield OneTimeBatchSession(self.settings, model, prepared, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[LiveModel]:
        """The model with all requests edited in at once."""
        editor = LocateThenEditEditor(self.settings.session_settings(len(state.records)))
        with editor.editing(model, prepared, editor.start(model, prepared)) as session:
            if state.records:
                session.apply(*requests_from_tensors(state.records))
            yield session.view()

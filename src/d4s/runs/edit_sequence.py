"""A sequence of edits in a folder: the one loop over batches, under the stage `edit` of a study and under `d4s apply`.

For each batch: its targets, a step, and its record in the ledger before the next. A kill loses at most the batch in flight. A step whose
numbers stop being finite ends the loop at the last finite state.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from d4s.editors.edit_requests import EditRequest
from d4s.editors.editor_settings import FamilySettings
from d4s.editors.families import build
from d4s.editors.ledger import Ledger
from d4s.editors.protocol import Diverged, Editor, Prepared, Session, State, StepLog, Targets, run_step
from d4s.log import progress
from d4s.models.language_model import LanguageModel
from d4s.runs.target_cache import TargetCache

log = logging.getLogger(__name__)
TARGETS = "targets"


@dataclass(frozen=True, slots=True)
class PendingEdits:
    """Requests in the order in which they are edited, with their targets at the original weights if the editor takes them from there."""

    requests: Sequence[EditRequest]
    targets: Targets | None

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, selection: slice) -> "PendingEdits":
        """Some of them."""
        return PendingEdits(self.requests[selection], None if self.targets is None else self.targets[selection])

    def batches(self, size: int) -> list["PendingEdits"]:
        """All of them, batch after batch."""
        return [self[first : first + size] for first in range(0, len(self), size)]


LogBatch = Callable[[Session, PendingEdits, StepLog], Mapping[str, Any]]
"""What the ledger logs of a batch; the session's model is as the batch left it."""
EditsBetween = Callable[[int, int], PendingEdits]
"""Edits `start` + 1 to `stop` of a sequence, for a `start` and a `stop`."""


class EditSequence(ABC):
    """Edits one after another: their editor and ledger, the model and the parts that steps need, and the loop that extends them.

    The model and the parts are read when a step first needs them. Subclasses say where from.
    """

    def __init__(self, ledger_folder: Path, settings: FamilySettings) -> None:
        self.settings, self._folder = settings, ledger_folder
        self.editor: Editor = build(settings)
        self.ledger = Ledger.open(ledger_folder, self.editor.kind)
        self._target_cache = TargetCache(ledger_folder / TARGETS)

    @property
    @abstractmethod
    def model(self) -> LanguageModel:
        """The unedited model."""

    @cached_property
    def prepared(self) -> Prepared:
        """Prefixes, second moments and the editor's own tensors."""
        return self._read_prepared()

    @abstractmethod
    def _read_prepared(self) -> Prepared:
        """Prefixes, second moments and the editor's own tensors, from where they are stored."""

    def optimise_targets(self, requests: Sequence[EditRequest]) -> Targets | None:
        """Targets at the original weights, one row per request; None if the editor takes none from there.

        They stay on disk until `extend` has returned, and those on disk are not optimised again.
        """
        shared = self.settings.shared_targets()
        if shared is None or not requests:
            return None
        return self._target_cache.load_or_optimise(self.model, requests, self.prepared.contexts, shared)

    def extend(self, pending: PendingEdits, log_batch: LogBatch, *, start: State | None = None, save_at: Collection[int] = ()) -> str:
        """Edit batch after batch, each in the ledger before the next; returns why a batch diverged, or an empty text.

        Batches from that one on are not edited. The state after the last batch in the ledger is on disk when this returns.

        Args:
            pending: the edits that follow those in the ledger.
            log_batch: what the ledger logs of each batch.
            start: the state before the first batch; that at the end of the ledger if omitted.
            save_at: lengths at which a copy of a dense state is kept.
        """
        first = self.ledger.length
        try:
            reason = self._edit_batches(pending, log_batch, start, save_at) if len(pending) else ""
            if reason:
                last = self.ledger.length
                log.warning("%s: edit %d diverged (%s); the last finite state is kept", self._folder, last + 1, reason)
                if (saved := self.ledger.nearest_state(last)) < last:
                    with self._repeat_edits(saved, last, lambda start, stop: pending[start - first : stop - first]) as session:
                        self.ledger.save_latest(session)
        except BaseException:
            self.ledger.drop_unsaved()
            raise
        self._target_cache.clear()
        return reason

    def _edit_batches(self, pending: PendingEdits, log_batch: LogBatch, start: State | None, save_at: Collection[int]) -> str:
        """The loop; returns why a batch diverged, or an empty text."""
        first = self.ledger.length
        begin = self.ledger.state_at(self.editor, first) if start is None else start
        with self.editor.editing(self.model, self.prepared, begin) as session:
            for batch in progress(pending.batches(self.settings.batch), "edits", first + len(pending), done=first, weigh=len):
                try:
                    step_log = run_step(session, batch.requests, batch.targets)
                except Diverged as reason:
                    return str(reason)
                self.ledger.record(session, len(batch), log_batch(session, batch, step_log))
                if self.editor.kind == "dense" and self.ledger.length in save_at:
                    self.ledger.save_dense(self.ledger.length, session.state().dense)
            if not self.ledger.has_state(self.ledger.length):
                self.ledger.save_latest(session)
        return ""

    def save_state(self, length: int, between: EditsBetween) -> None:
        """Save a copy of the dense state after the first `length` edits, of which those after the nearest state on disk are repeated."""
        saved = self.ledger.nearest_state(length)
        if saved == length:
            self.ledger.save_dense(length, self.ledger.state_at(self.editor, length).dense)
            return
        with self._repeat_edits(saved, length, between) as session:
            self.ledger.save_dense(length, session.state().dense)

    @contextmanager
    def _repeat_edits(self, start: int, stop: int, between: EditsBetween) -> Iterator[Session]:
        """A session after the first `stop` edits, from the state on disk after the first `start`; repeated edits are not recorded again."""
        with self.editor.editing(self.model, self.prepared, self.ledger.state_at(self.editor, start)) as session:
            for batch in between(start, stop).batches(self.settings.batch):
                session.step(batch.requests, batch.targets)
            yield session

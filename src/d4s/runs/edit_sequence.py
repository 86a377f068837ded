"""The stage `edit`: one sequence of requests, edited batch by batch into a ledger that any later length continues.

Every batch is in the ledger, with what it logged and how the model answered right after it, before the next begins. A length is
a view of the ledger: its edit log and a manifest that says which prefix of the ledger it stands for. A step whose numbers
stop being finite ends the run at the last finite state; longer lengths then stand for that state and say so.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from d4s.artifacts import StageJob, write_table
from d4s.editors.edit_requests import EditRequest, draw_requests
from d4s.editors.editor_inputs import load as load_prepared
from d4s.editors.families import build
from d4s.editors.ledger import Ledger
from d4s.editors.protocol import Diverged, Prepared, Session, StepLog, Targets, run_step
from d4s.editors.target_optimisation import read_targets
from d4s.errors import SettingsError
from d4s.facts.record import Fact, from_frame
from d4s.log import progress
from d4s.metrics.scoring import FactEvaluation
from d4s.models.edited_model import EditedModel
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.runs.baseline_reader import read_evaluation
from d4s.runs.lengths import length_of
from d4s.runs.run_settings import RunSettings
from d4s.schemas import EDIT_LOG, FACTS, IMMEDIATE

log = logging.getLogger(__name__)
Drawn = Sequence[tuple[EditRequest, Fact]]


def edit(job: StageJob[RunSettings]) -> None:
    """Bring the ledger to every wanted length, and write that length's edit log and manifest.

    Raises:
        SettingsError: if a length does not end with a batch, or there are too few facts.
    """
    run = EditRun(job)
    if run.editor.kind == "dense":
        run.store_passed_states()
    run.extend()
    for length in run.lengths:
        run.write_manifest(length)


class EditRun:
    """One job's sequence. The model and what steps need are read only if there is a step to be done."""

    def __init__(self, job: StageJob[RunSettings]) -> None:
        self.job, self.batch = job, job.settings.editor.batch
        self.lengths = sorted(length_of(name) for name in job.outputs)
        not_multiples = [length for length in self.lengths if length % self.batch]
        if not_multiples:
            raise SettingsError(f"lengths {not_multiples} do not end with a batch of {self.batch}; make them multiples of it")
        self.editor = build(job.settings.editor)
        self.ledger = Ledger.open(job.folder, self.editor.kind)

    def extend(self) -> None:
        """Edit on from the end of the ledger to the longest length, or to the step that diverges."""
        start, stop = self.ledger.length, max(self.lengths)
        if start >= stop or self.ledger.diverged_at is not None:
            return
        log.info("%s: edits %d to %d", self.job.folder.name, start + 1, stop)
        with self.editor.editing(self.model, self.prepared, self.ledger.state_at(self.editor, start)) as session:
            for batch in progress(self._batches(start, stop), "edits", stop, done=start, weigh=len):
                step_log = self._attempt(session, batch)
                if step_log is None:
                    break
                self._record(session, batch, step_log)
        if self.ledger.length < stop:
            self._note_divergence()

    def store_passed_states(self) -> None:
        """Copies of dense states at wanted lengths that the ledger has reached without keeping them."""
        for length in (length for length in self.lengths if length <= self.ledger.length and not self.ledger.has_state(length)):
            self._store_state(length)

    def _store_state(self, length: int) -> None:
        """Keep a copy of the dense state after a number of edits, edited again from the nearest copy."""
        start = self.ledger.nearest_state(length)
        if start == length:
            self.ledger.save_dense(length, self.ledger.state_at(self.editor, length).dense)
            return
        with self.editor.editing(self.model, self.prepared, self.ledger.state_at(self.editor, start)) as session:
            for batch in self._batches(start, length):
                session.step([request for request, _ in batch], self._targets_of(batch))
            self.ledger.save_dense(length, session.state().dense)

    def write_manifest(self, length: int) -> None:
        """Write the edit log and the manifest of a length."""
        edits, name = min(length, self.ledger.length), f"n{length}.edit_log.parquet"
        cells = [cells for frame in self.ledger.logs(edits) for cells in frame["rows"]]
        write_table(self.job.path(name), [dict(zip(EDIT_LOG.names, row, strict=True)) for row in cells], EDIT_LOG)
        dense = [f"n{edits}.state.safetensors"] if self.editor.kind == "dense" and edits else []
        diverged = {"diverged_at": self.ledger.diverged_at} if edits < length else {}
        self.job.write_manifest([name, *dense], manifest=f"n{length}.json", ledger=self.ledger.prefix(edits), **diverged)

    # --- what steps need ------------------------------------------------------------------------------------------

    @cached_property
    def model(self) -> LanguageModel:
        """The unedited model."""
        return self.job.read_once("model", load)

    @cached_property
    def prepared(self) -> Prepared:
        """Prefixes, moments and prepared tensors."""
        return load_prepared(self.job.inputs, self.job.settings.editor)

    @cached_property
    def drawn(self) -> Drawn:
        """All requests of the seed with their facts."""
        facts = from_frame(self.job.artifact("facts", "facts").table("facts.parquet", FACTS))
        return draw_requests(facts, self.job.settings.seed)

    @cached_property
    def targets(self) -> Targets | None:
        """Targets of the requests up to the longest length, for editors that take them from the original weights."""
        if self.job.settings.editor.shared_targets() is None:
            return None
        return read_targets(self.job.inputs["targets"], [request for request, _ in self.drawn[: max(self.lengths)]])

    @cached_property
    def evaluation(self) -> FactEvaluation:
        """Questions about the facts up to the longest length, with the unedited model's replies."""
        return read_evaluation(self.job.inputs["baseline"], [fact for _, fact in self.drawn[: max(self.lengths)]])

    def _batches(self, start: int, stop: int) -> Iterator[Drawn]:
        """Requests start + 1 to stop, batch by batch.

        Raises:
            SettingsError: if there are fewer.
        """
        if stop > len(self.drawn):
            raise SettingsError(f"{stop} edits asked for, but only {len(self.drawn)} facts can be edited in one sequence; lower the length")
        return (self.drawn[first : first + self.batch] for first in range(start, stop, self.batch))

    def _targets_of(self, batch: Drawn) -> Targets | None:
        first = batch[0][0].step - 1
        return None if self.targets is None else self.targets[first : first + len(batch)]

    # --- one step -------------------------------------------------------------------------------------------------

    def _attempt(self, session: Session, batch: Drawn) -> StepLog | None:
        """Edit a batch; None if it diverged."""
        try:
            return run_step(session, [request for request, _ in batch], self._targets_of(batch))
        except Diverged as reason:
            log.warning("%s: %s", self.job.folder.name, reason)
            return None

    def _record(self, session: Session, batch: Drawn, step_log: StepLog) -> None:
        """Put a batch into the ledger, with what it logged and how the model answers right now."""
        live = session.live()
        rows: list[list[Any]] = []
        for request, fact in batch:
            cells = [request.step, request.request_id, fact.fact_id]
            rows += [[*cells, quantity, layer, value] for quantity, layer, value in step_log.values]
            if live is not None:
                rows += [[*cells, metric, None, value] for metric, value in immediate_scores(self.evaluation, live, fact).items()]
        self.ledger.record(session, len(batch), {"rows": rows})
        if self.editor.kind == "dense" and self.ledger.length in self.lengths:
            self.ledger.save_dense(self.ledger.length, session.state().dense)

    def _note_divergence(self) -> None:
        last = self.ledger.length
        log.warning("%s: edit %d diverged; the run ends at its last finite state", self.job.folder.name, last + 1)
        if not self.ledger.has_state(last):
            self._store_state(last)
        self.ledger.append({}, 0, {"diverged_at": last + 1})


def immediate_scores(evaluation: FactEvaluation, live: EditedModel, fact: Fact) -> dict[str, float]:
    """Scores of a model right after the edit of a fact, by name, where the fact has questions for them."""
    means = evaluation.means(live, [fact.fact_id], IMMEDIATE)[fact.fact_id]
    return {metric: means[metric] for metric in IMMEDIATE if metric in means}

"""The stage `edit`: one sequence of requests, edited batch by batch into a ledger that any later length continues.

A length is a view of the ledger: its edit log, with how the model answered right after each edit, and a manifest that says which prefix
of the ledger it stands for. Where a step diverged, longer lengths stand for the last finite state and say so.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from d4s.artifacts import StageJob, write_table
from d4s.editors.edit_requests import EditRequest, draw_requests
from d4s.editors.protocol import Prepared, Session, StepLog, Targets
from d4s.editors.target_optimisation import read_targets
from d4s.errors import SettingsError
from d4s.facts.record import Fact, from_frame
from d4s.metrics.scoring import FactEvaluation
from d4s.models.edited_model import EditedModel
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.runs.baseline_reader import read_evaluation
from d4s.runs.edit_sequence import EditSequence, PendingEdits
from d4s.runs.lengths import length_of
from d4s.runs.prepared_parts import load_prepared
from d4s.runs.run_settings import RunSettings
from d4s.schemas import EDIT_LOG, FACTS, IMMEDIATE

log = logging.getLogger(__name__)


def edit(job: StageJob[RunSettings]) -> None:
    """Bring the ledger to every wanted length, and write that length's edit log and manifest.

    Raises:
        SettingsError: if a length does not end with a batch, or there are too few facts.
    """
    run = EditRun(job)
    run.save_passed_states()
    run.reach_longest()
    for length in run.lengths:
        run.write_manifest(length)


class EditRun(EditSequence):
    """One job's sequence, with model, parts, targets and baseline from the artefacts that the job reads."""

    def __init__(self, job: StageJob[RunSettings]) -> None:
        self.job, self.lengths = job, sorted(length_of(name) for name in job.outputs)
        batch = job.settings.editor.batch
        not_multiples = [length for length in self.lengths if length % batch]
        if not_multiples:
            raise SettingsError(f"lengths {not_multiples} do not end with a batch of {batch}; make them multiples of it")
        super().__init__(job.folder, job.settings.editor)

    def save_passed_states(self) -> None:
        """Keep copies of dense states at wanted lengths that the ledger has passed without a copy."""
        for length in (length for length in self.lengths if length <= self.ledger.length and not self.ledger.has_state(length)):
            self.save_state(length, self.pending)

    def reach_longest(self) -> None:
        """Edit on from the end of the ledger to the longest length, or to the step that diverges."""
        start, stop = self.ledger.length, max(self.lengths)
        if start >= stop or self.ledger.diverged_at is not None:
            return
        log.info("%s: edits %d to %d", self.job.folder.name, start + 1, stop)
        if self.extend(self.pending(start, stop), self._log_batch, save_at=self.lengths):
            self._note_divergence()

    def write_manifest(self, length: int) -> None:
        """Write the edit log and the manifest of a length."""
        edits, name = min(length, self.ledger.length), f"n{length}.edit_log.parquet"
        cells = [cells for frame in self.ledger.logs(edits) for cells in frame["rows"]]
        write_table(self.job.path(name), [dict(zip(EDIT_LOG.names, row, strict=True)) for row in cells], EDIT_LOG)
        dense = [f"n{edits}.state.safetensors"] if self.editor.kind == "dense" and edits else []
        diverged = {"diverged_at": self.ledger.diverged_at} if edits < length else {}
        self.job.write_manifest([name, *dense], manifest=f"n{length}.json", ledger=self.ledger.prefix(edits), **diverged)

    # --- what steps need ------------------------------------------------------------------------------------------

    @property
    def model(self) -> LanguageModel:
        """The unedited model, read once for all stages of the process."""
        return self.job.read_once("model", load)

    def _read_prepared(self) -> Prepared:
        return load_prepared(self.job.inputs, self.settings)

    @cached_property
    def drawn(self) -> Sequence[tuple[EditRequest, Fact]]:
        """All requests of the seed with their facts."""
        facts = from_frame(self.job.artifact("facts", "facts").table("facts.parquet", FACTS))
        return draw_requests(facts, self.job.settings.seed)

    @cached_property
    def targets(self) -> Targets | None:
        """Targets of the requests up to the longest length, for editors that take them from the original weights."""
        if self.settings.shared_targets() is None:
            return None
        return read_targets(self.job.inputs["targets"], [request for request, _ in self.drawn[: max(self.lengths)]])

    @cached_property
    def evaluation(self) -> FactEvaluation:
        """Questions about the facts up to the longest length, with the unedited model's replies."""
        return read_evaluation(self.job.inputs["baseline"], [fact for _, fact in self.drawn[: max(self.lengths)]])

    def pending(self, start: int, stop: int) -> PendingEdits:
        """Edits start + 1 to stop.

        Raises:
            SettingsError: if there are fewer.
        """
        if stop > len(self.drawn):
            raise SettingsError(f"{stop} edits asked for, but only {len(self.drawn)} facts can be edited in one sequence; lower the length")
        requests = [request for request, _ in self.drawn[start:stop]]
        return PendingEdits(requests, None if self.targets is None else self.targets[start:stop])

    # --- what is logged -------------------------------------------------------------------------------------------

    def _log_batch(self, session: Session, batch: PendingEdits, step_log: StepLog) -> Mapping[str, Any]:
        """Rows of the edit log: the numbers of the step, and how the model answers right now."""
        live = session.live()
        rows: list[list[Any]] = []
        for request in batch.requests:
            _, fact = self.drawn[request.step - 1]
            cells = [request.step, request.request_id, fact.fact_id]
            rows += [[*cells, quantity, layer, value] for quantity, layer, value in step_log.values]
            if live is not None:
                rows += [[*cells, metric, None, value] for metric, value in immediate_scores(self.evaluation, live, fact).items()]
        return {"rows": rows}

    def _note_divergence(self) -> None:
        last = self.ledger.length
        if not self.ledger.has_state(last):
            self.save_state(last, self.pending)
        self.ledger.append({}, 0, {"diverged_at": last + 1})


def immediate_scores(evaluation: FactEvaluation, live: EditedModel, fact: Fact) -> dict[str, float]:
    """Scores of a model right after the edit of a fact, by name, where the fact has questions for them."""
    means = evaluation.means(live, [fact.fact_id], IMMEDIATE)[fact.fact_id]
    return {metric: means[metric] for metric in IMMEDIATE if metric in means}

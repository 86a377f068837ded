"""The stage `edit_single`: requests edited alone, each from the original weights, and asked about right away.

No result depends on which other requests a job edits: they come in blocks that any number of jobs share, `bBLOCK.json`, and within a
block every request is in a ledger before the next, so that a kill loses at most the one at work. A request that diverges, or that the
model's tokens cannot express, is a row like any other. The editor `unedited` gives what the others are held against.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from d4s.artifacts import StageJob, write_table
from d4s.editors.edit_requests import EditRequest, draw_requests
from d4s.editors.editor_settings import Unedited
from d4s.editors.families import build
from d4s.editors.least_squares import SolveError
from d4s.editors.ledger import Ledger
from d4s.editors.prompts import build_prompts
from d4s.editors.protocol import Diverged, StepLog, Targets, run_step
from d4s.editors.single_blocks import EDITED, SINGLES_PER_BLOCK, table_of_block
from d4s.editors.target_optimisation import read_targets
from d4s.errors import SettingsError
from d4s.facts.record import Fact, from_frame
from d4s.log import progress
from d4s.metrics.belief_probes import BeliefQuestion, belief_questions, belief_values
from d4s.metrics.sentence_rows import sentence_rows
from d4s.metrics.single_probes import Value, question_values, text_values
from d4s.models.edited_model import EditedModel
from d4s.models.loading import load
from d4s.models.views import LiveModel
from d4s.runs.baseline_reader import read_evaluation
from d4s.runs.prepared_parts import load_prepared
from d4s.runs.run_settings import SingleSettings
from d4s.schemas import BELIEFS, FACTS, SINGLES

log = logging.getLogger(__name__)
Cells = tuple[str, int | None, int | None, float]
"""A quantity, the number of its prompt, its layer, and its value."""


def edit_single(job: StageJob[SingleSettings]) -> None:
    """Write bBLOCK.singles.parquet for every manifest bBLOCK.json asked for that is not there yet, whole blocks at a time.

    Raises:
        SettingsError: if there are no requests for a block.
    """
    blocks = sorted(int(Path(name).stem.removeprefix("b")) for name in job.missing_parts())
    if not blocks:
        return
    run = SingleEditsJob(job, last=blocks[-1])
    numbers = [(block, number) for block in blocks for number in run.requests_of(block)]
    for block, number in progress(numbers, "single edits", len(numbers)):
        run.edit(block, number)
        if number + 1 == run.requests_of(block).stop:
            run.write(block)


class SingleEditsJob:
    """The requests of a job with the editor, model, parts, targets and baseline that they are edited and asked with."""

    def __init__(self, job: StageJob[SingleSettings], last: int) -> None:
        self.job, self.settings = job, job.settings
        facts = from_frame(job.artifact("facts", "facts").table("facts.parquet", FACTS))
        self.drawn: Sequence[tuple[EditRequest, Fact]] = draw_requests(facts, job.settings.seed)
        if last * SINGLES_PER_BLOCK >= len(self.drawn):
            raise SettingsError(f"block {last} of requests asked for, but only {len(self.drawn)} facts can be edited; lower the length")
        first = self.drawn[: (last + 1) * SINGLES_PER_BLOCK]
        self.editor, self.model = build(job.settings.editor), job.read_once("model", load)
        self.prepared = replace(load_prepared(job.inputs, job.settings.editor), solvers={})
        self.evaluation = read_evaluation(job.inputs["baseline"], [fact for _, fact in first])
        shared = job.settings.editor.shared_targets()
        self.targets: Targets | None = None
        if shared is not None:
            self.targets = read_targets(job.inputs["targets"], [request for request, _ in first])

    def requests_of(self, block: int) -> range:
        """The requests of a block by number, from 0."""
        return range(block * SINGLES_PER_BLOCK, min((block + 1) * SINGLES_PER_BLOCK, len(self.drawn)))

    # --- one request --------------------------------------------------------------------------------------------------

    def edit(self, block: int, number: int) -> None:
        """Edit a request and ask about it, unless the ledger of its block has it already."""
        ledger = self._ledger(block)
        if ledger.length <= number - self.requests_of(block).start:
            status, cells = self._outcome(number)
            ledger.append({}, 1, {"status": status, "rows": [(EDITED, None, None, float(status == "done")), *cells]})

    def _outcome(self, number: int) -> tuple[str, list[Cells]]:
        """How a single edit ended, and its numbers if it was done."""
        request, _ = self.drawn[number]
        try:
            build_prompts(self.model, request, self.prepared.contexts)
        except ValueError as reason:
            log.warning("the single edit %s is refused: %s", request.request_id, reason)
            return "refused", []
        try:
            return "done", self._edit_and_ask(number)
        except (Diverged, SolveError) as reason:
            log.warning("the single edit %s diverged: %s", request.request_id, reason)
            return "diverged", []

    def _edit_and_ask(self, number: int) -> list[Cells]:
        request, fact = self.drawn[number]
        targets = None if self.targets is None else self.targets[number : number + 1]
        with self.editor.editing(self.model, self.prepared, self.editor.start(self.model, self.prepared)) as session:
            step_log = run_step(session, [request], targets)
            if (live := session.live()) is not None:
                return [*_step_cells(step_log), *_probe_cells(self._ask(live, fact))]
            state = session.state()
        with self.editor.edited(self.model, self.prepared, state) as view:
            return [*_step_cells(step_log), *_probe_cells(self._ask(view, fact))]

    def _ask(self, model: EditedModel, fact: Fact) -> Iterator[Value]:
        """Every probe of the job."""
        yield from question_values(model, self.evaluation, fact.fact_id, self.settings.probes)
        if "beliefs" in self.settings.probes:
            yield from belief_values(model, self._beliefs[fact.fact_id])
        if "text" in self.settings.probes:
            yield from self._unedited_text if isinstance(self.settings.editor, Unedited) else text_values(model, self._rows)

    @cached_property
    def _beliefs(self) -> Mapping[str, Sequence[BeliefQuestion]]:
        """The questions of a Bayesian reader, by fact."""
        return belief_questions(self.job.artifact("posterior", "posteriors").table("beliefs.parquet", BELIEFS))

    @cached_property
    def _rows(self) -> list[list[int]]:
        """Held-out text, or sentences where a file of them is given."""
        if "sentences" in self.job.inputs:
            return sentence_rows(self.model, self.job.inputs["sentences"], self.settings.perplexity_rows)
        rows = self.job.artifact("text", "corpora").tensors("heldout.safetensors")["rows"]
        return rows[: self.settings.perplexity_rows].tolist()

    @cached_property
    def _unedited_text(self) -> Sequence[Value]:
        """Numbers of the text under the unedited model, which are the same for every request."""
        return [*text_values(LiveModel(self.model), self._rows)]

    # --- files --------------------------------------------------------------------------------------------------------

    def _ledger_folder(self, block: int) -> Path:
        return self.job.path(f"b{block}.part")

    def _ledger(self, block: int) -> Ledger:
        return Ledger.open(self._ledger_folder(block), "additive")

    def write(self, block: int) -> None:
        """Write the table and the manifest of a block from its ledger, which then goes."""
        ledger, numbers = self._ledger(block), self.requests_of(block)
        rows = [row for number, frame in zip(numbers, ledger.logs(len(numbers)), strict=True) for row in self._table_rows(number, frame)]
        write_table(self.job.path(table_of_block(block)), rows, SINGLES)
        self.job.write_manifest([table_of_block(block)], f"b{block}.json")
        shutil.rmtree(self._ledger_folder(block))

    def _table_rows(self, number: int, frame: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        request, fact = self.drawn[number]
        names = {"request_id": request.request_id, "fact_id": fact.fact_id, "order": request.step, "status": frame["status"]}
        for quantity, prompt_id, layer, value in frame["rows"]:
            yield {**names, "quantity": quantity, "prompt_id": prompt_id, "layer": layer, "value": value}


def _step_cells(step_log: StepLog) -> Iterator[Cells]:
    return ((quantity, None, layer, value) for quantity, layer, value in step_log.values)


def _probe_cells(values: Iterator[Value]) -> Iterator[Cells]:
    return ((quantity, prompt_id, None, value) for quantity, prompt_id, value in values)

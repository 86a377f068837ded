"""The stage `measure`: what a run's states score at the lengths asked for, one job per run.

All edits so far are asked about at every length, of a run that diverged at its last finite state. What the unedited model
answers is read from its baseline, which is all that a run of the unedited editor has. A length whose data are there already is not measured
again.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import numpy as np

from d4s.artifacts import StageJob, write_table
from d4s.editors.edit_requests import draw_requests
from d4s.editors.editor_settings import Unedited
from d4s.editors.families import build
from d4s.editors.ledger import read_state
from d4s.facts.record import from_frame
from d4s.log import progress
from d4s.metrics.fluency import Continuation
from d4s.metrics.perplexity import perplexities, perplexity_rows
from d4s.metrics.scoring import FactEvaluation, Row
from d4s.metrics.weight_norms import norm_rows, unedited_norm_rows
from d4s.models.edited_model import EditedModel
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.models.views import LiveModel
from d4s.runs.baseline_reader import BaselineNumbers, read_baseline_numbers, read_evaluation
from d4s.runs.lengths import length_of
from d4s.runs.memory_probes import MemoryProbes
from d4s.runs.prepared_parts import load_prepared
from d4s.runs.run_settings import MeasureJobSettings
from d4s.runs.writing import Writing
from d4s.schemas import ANSWERS, CONTINUATIONS, FACTS, MEMORY, NORMS, PERPLEXITY, ROUTES, SCORES

log = logging.getLogger(__name__)
TEXT = "heldout"
T = TypeVar("T")


def measure(job: StageJob[MeasureJobSettings]) -> None:
    """Measure a run at every wanted length that is not there already."""
    lengths = sorted(map(length_of, job.missing_parts()))
    if not lengths:
        return
    evaluator, title = RunEvaluator.of(job, lengths), f"measures of {job.folder.name}"
    if isinstance(job.settings.editor, Unedited):
        for length in progress(lengths, title):
            evaluator.write(job, length, evaluator.measure_unedited(length))
        return
    model = job.read_once("model", load)
    editor = build(job.settings.editor)
    prepared = load_prepared(job.inputs, job.settings.editor)
    if evaluator.near is not None:
        evaluator = replace(evaluator, near=evaluator.near.asked_of(LiveModel(model)))
    for length in progress(lengths, title, sum(lengths), weigh=float):
        state = read_state(job.inputs["run"], length, editor)
        with editor.edited(model, prepared, state) as edited:
            found = evaluator.measure(model, edited, length)
        evaluator.write(job, length, found)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is measured at one length: rows of SCORES, ANSWERS and NORMS, perplexities by name, and texts where some are written.

    `routes` and `memory` are rows of ROUTES and MEMORY, of memories alone.
    """

    scores: Sequence[Row]
    answers: Sequence[Row]
    norms: Sequence[Row]
    perplexities: Mapping[str, float]
    texts: Sequence[Continuation]
    routes: Sequence[Row] = ()
    memory: Sequence[Row] = ()


@dataclass(frozen=True, slots=True)
class RunEvaluator:
    """What every length is held against: questions with the unedited model's replies, text, and its numbers before any edit."""

    evaluation: FactEvaluation
    edited_at: Mapping[int, Mapping[str, int]]
    rows: Sequence[Sequence[int]]
    baseline: BaselineNumbers
    writing: Writing | None
    near: MemoryProbes | None

    @classmethod
    def of(cls, job: StageJob[MeasureJobSettings], lengths: Sequence[int]) -> "RunEvaluator":
        """The gauge of a job."""
        settings, folder = job.settings.measure, job.inputs["baseline"]
        facts = from_frame(job.artifact("facts", "facts").table("facts.parquet", FACTS))
        drawn = draw_requests(facts, job.settings.seed, max(lengths))
        edited_at = {
            length: {fact.fact_id: request.step for request, fact in sample_evenly(drawn[:length], settings.sample)} for length in lengths
        }
        needed = [fact for _, fact in drawn if any(fact.fact_id in of for of in edited_at.values())]
        rows = job.artifact("text", "corpora").tensors("heldout.safetensors")["rows"][: settings.perplexity_rows].tolist()
        questioned = [fact for _, fact in drawn]
        writing = None if settings.fluency is None else Writing.of(settings.fluency, questioned, folder)
        near = None if settings.memory is None else MemoryProbes.of(settings.memory, facts, drawn)
        return cls(read_evaluation(folder, questioned, needed), edited_at, rows, read_baseline_numbers(folder), writing, near)

    def measure(self, model: LanguageModel, edited: EditedModel, length: int) -> Measurement:
        """What an edited model scores."""
        scores, answers = self.evaluation.scores(edited, length, self.edited_at[length])
        texts = [] if self.writing is None else self.writing.by(edited, length)
        norms = norm_rows(model, edited, length, self.baseline.norms)
        found = Measurement(scores, answers, norms, perplexities(edited, self.rows), texts)
        if self.near is None:
            return found
        routes, memory = self.near.routes(edited, length), self.near.growth(edited, length)
        return replace(found, scores=[*scores, *self.near.scores(edited, length)], routes=routes, memory=memory)

    def measure_unedited(self, length: int) -> Measurement:
        """What the unedited model scores, from what it was asked before."""
        scores, answers = self.evaluation.rows(self.evaluation.before, length, self.edited_at[length])
        texts = [] if self.writing is None else self.writing.by_unedited(length)
        return Measurement(scores, answers, unedited_norm_rows(length, self.baseline.norms), self.baseline.perplexities, texts)

    def write(self, job: StageJob[MeasureJobSettings], length: int, found: Measurement) -> None:
        """Write the tables and the manifest of one length."""
        of_texts = [] if self.writing is None else [*self.writing.rows(found.texts, length)]
        tables = {
            "scores": ([*found.scores, *of_texts], SCORES),
            "answers": (found.answers, ANSWERS),
            "norms": (found.norms, NORMS),
            "perplexity": (perplexity_rows(length, TEXT, found.perplexities, self.baseline.perplexities), PERPLEXITY),
        }
        if self.writing is not None:
            tables["continuations"] = ([asdict(text) for text in found.texts], CONTINUATIONS)
        if found.routes:
            tables |= {"routes": (found.routes, ROUTES), "memory": (found.memory, MEMORY)}
        for name, (rows, schema) in tables.items():
            write_table(job.path(f"n{length}.{name}.parquet"), rows, schema)
        job.write_manifest([f"n{length}.{name}.parquet" for name in tables], f"n{length}.json")
        log.info("%s at %d edits: %s", job.folder.name, length, summary_line(found.scores, found.perplexities))


def sample_evenly(drawn: Sequence[T], sample: int | str) -> Sequence[T]:
    """At most `sample` requests, evenly spaced and including the first and the last."""
    if sample == "all" or len(drawn) <= int(sample):
        return drawn
    return [drawn[int(place)] for place in np.linspace(0, len(drawn) - 1, int(sample)).round()]


def summary_line(scores: Sequence[Row], perplexity: Mapping[str, float]) -> str:
    """The numbers that a log line shows."""
    names = ("efficacy_accuracy", "paraphrase_accuracy", "locality_accuracy")
    values = {name: [row["value"] for row in scores if row["metric"] == name] for name in names}
    shown = [f"{name} {np.mean(found):.3f}" for name, found in values.items() if found]
    return ", ".join([*shown, f"perplexity {perplexity['perplexity']:.2f}"])

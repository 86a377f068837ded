"""The verb `measure`: what a run's states score at the lengths asked for, one job per run.

All edits so far are asked about at every length, of a run that diverged at its last finite state. What the unedited model
answers is read from its baseline, and is all there is to an `unedited` run. A length whose data are there already is not measured again.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from d4s.artifacts import Job, write_table
from d4s.editors.families import build
from d4s.editors.ledger import recorded_state
from d4s.editors.prepared import load as load_prepared
from d4s.editors.settings import Unedited
from d4s.facts.record import from_frame
from d4s.log import progress
from d4s.metrics.norms import norm_rows, untouched_rows
from d4s.metrics.perplexity import perplexities, perplexity_rows
from d4s.metrics.scoring import Exam, Row
from d4s.models.edited import EditedModel
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.requests.draw import draw
from d4s.runs.lengths import length_of
from d4s.runs.references import Whole, read_exam, read_whole
from d4s.runs.settings import MeasureJobSettings
from d4s.schemas import ANSWERS, FACTS, NORMS, PERPLEXITY, SCORES

log = logging.getLogger(__name__)
TEXT = "heldout"
T = TypeVar("T")


def measure(job: Job[MeasureJobSettings]) -> None:
    """Measure a run at every wanted length that is not there already."""
    lengths = sorted(map(length_of, job.pending()))
    if not lengths:
        return
    gauge, title = Gauge.of(job, lengths), f"measures of {job.folder.name}"
    if isinstance(job.settings.editor, Unedited):
        for length in progress(lengths, title):
            gauge.write(job, length, gauge.unedited(length))
        return
    model = job.once("model", load)
    editor = build(job.settings.editor)
    prepared = load_prepared(job.inputs, job.settings.editor)
    for length in progress(lengths, title, sum(lengths), weigh=float):
        state = recorded_state(job.inputs["run"], length, editor)
        with editor.edited(model, prepared, state) as edited:
            found = gauge.measured(model, edited, length)
        gauge.write(job, length, found)


@dataclass(frozen=True, slots=True)
class Found:
    """What is measured at one length: rows of SCORES, ANSWERS and NORMS, and perplexities by name."""

    scores: Sequence[Row]
    answers: Sequence[Row]
    norms: Sequence[Row]
    perplexities: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Gauge:
    """What every length is held against: questions with the unedited model's replies, text, and its numbers before any edit."""

    exam: Exam
    asked: Mapping[int, Mapping[str, int]]
    rows: Sequence[Sequence[int]]
    before: Whole

    @classmethod
    def of(cls, job: Job[MeasureJobSettings], lengths: Sequence[int]) -> "Gauge":
        """The gauge of a job."""
        settings, folder = job.settings.measure, job.inputs["baseline"]
        facts = from_frame(job.artifact("facts", "facts").table("facts.parquet", FACTS))
        drawn = draw(facts, job.settings.seed, max(lengths))
        asked = {length: {fact.fact_id: request.step for request, fact in sampled(drawn[:length], settings.sample)} for length in lengths}
        needed = [fact for _, fact in drawn if any(fact.fact_id in of for of in asked.values())]
        rows = job.artifact("text", "corpora").tensors("heldout.safetensors")["rows"][: settings.perplexity_rows].tolist()
        return cls(read_exam(folder, [fact for _, fact in drawn], needed), asked, rows, read_whole(folder))

    def measured(self, model: LanguageModel, edited: EditedModel, length: int) -> Found:
        """What an edited model scores."""
        scores, answers = self.exam.scores(edited, length, self.asked[length])
        return Found(scores, answers, norm_rows(model, edited, length, self.before.norms), perplexities(edited, self.rows))

    def unedited(self, length: int) -> Found:
        """What the unedited model scores, from what it was asked before."""
        scores, answers = self.exam.rows(self.exam.before, length, self.asked[length])
        return Found(scores, answers, untouched_rows(length, self.before.norms), self.before.perplexities)

    def write(self, job: Job[MeasureJobSettings], length: int, found: Found) -> None:
        """Write the tables and the manifest of one length."""
        tables = {
            "scores": (found.scores, SCORES),
            "answers": (found.answers, ANSWERS),
            "norms": (found.norms, NORMS),
            "perplexity": (perplexity_rows(length, TEXT, found.perplexities, self.before.perplexities), PERPLEXITY),
        }
        for name, (rows, schema) in tables.items():
            write_table(job.path(f"n{length}.{name}.parquet"), rows, schema)
        job.finish_part([f"n{length}.{name}.parquet" for name in tables], f"n{length}.json")
        log.info("%s at %d edits: %s", job.folder.name, length, headline(found.scores, found.perplexities))


def sampled(drawn: Sequence[T], sample: int | str) -> Sequence[T]:
    """At most so many requests, evenly spread over the sequence, its first and its last among them."""
    if sample == "all" or len(drawn) <= int(sample):
        return drawn
    return [drawn[int(place)] for place in np.linspace(0, len(drawn) - 1, int(sample)).round()]


def headline(scores: Sequence[Row], perplexity: Mapping[str, float]) -> str:
    """The numbers that a log line shows."""
    names = ("efficacy_accuracy", "paraphrase_accuracy", "locality_accuracy")
    values = {name: [row["value"] for row in scores if row["metric"] == name] for name in names}
    shown = [f"{name} {np.mean(found):.3f}" for name, found in values.items() if found]
    return ", ".join([*shown, f"perplexity {perplexity['perplexity']:.2f}"])

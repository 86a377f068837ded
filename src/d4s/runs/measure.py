"""The verb `measure`: what a run's states score at the lengths asked for, one job per run.

All edits so far are asked about at every length, of a run that diverged at its last finite state. The unedited model is
asked once. A length whose data are there already is not measured again.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from d4s.artifacts import Job, write_table
from d4s.editors.families import build
from d4s.editors.ledger import recorded_state
from d4s.editors.prepared import load as load_prepared
from d4s.facts.record import Fact, from_frame
from d4s.log import progress
from d4s.metrics.norms import norm_rows, originals
from d4s.metrics.perplexity import perplexities, perplexity_rows
from d4s.metrics.scoring import Exam
from d4s.models.edited import EditedModel
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.models.views import LiveModel
from d4s.requests.draw import draw
from d4s.runs.lengths import length_of
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
    model = load(job.inputs["model"])
    editor = build(job.settings.editor)
    prepared = load_prepared(job.inputs, job.settings.editor)
    gauge = Gauge.of(job, model, lengths)
    for length in progress(lengths, f"measures of {job.folder.name}", sum(lengths), weigh=float):
        state = recorded_state(job.inputs["run"], length, editor)
        with editor.edited(model, prepared, state) as edited:
            files = gauge.write(job, model, edited, length)
        job.finish_part(files, f"n{length}.json")


@dataclass(frozen=True, slots=True)
class Gauge:
    """What every length is held against: questions with the unedited model's replies, text, norms before any edit."""

    exam: Exam
    asked: Mapping[int, Mapping[str, int]]
    rows: Sequence[Sequence[int]]
    perplexities: Mapping[str, float]
    norms: Mapping[int, float]

    @classmethod
    def of(cls, job: Job[MeasureJobSettings], model: LanguageModel, lengths: Sequence[int]) -> "Gauge":
        """The gauge of a job; the model is unedited."""
        settings, unedited = job.settings.measure, LiveModel(model)
        facts = from_frame(job.artifact("facts", "facts").table("facts.parquet", FACTS))
        drawn = draw(facts, job.settings.seed, max(lengths))
        asked = {length: {fact.fact_id: request.step for request, fact in sampled(drawn[:length], settings.sample)} for length in lengths}
        needed = [fact for _, fact in drawn if any(fact.fact_id in of for of in asked.values())]
        exam = Exam(
            unedited,
            needed,
            probes_per_fact=settings.probes_per_fact,
            max_new_tokens=max(settings.max_new_tokens, _longest(model, facts) + 2) if settings.generate else 0,
        )
        rows = job.artifact("text", "corpora").tensors("heldout.safetensors")["rows"][: settings.perplexity_rows].tolist()
        return cls(exam, asked, rows, perplexities(unedited, rows), originals(model))

    def write(self, job: Job[MeasureJobSettings], model: LanguageModel, edited: EditedModel, length: int) -> list[str]:
        """Write the tables of one length; returns their names."""
        scores, answers = self.exam.scores(edited, length, self.asked[length])
        perplexity = perplexities(edited, self.rows)
        tables = {
            "scores": (scores, SCORES),
            "answers": (answers, ANSWERS),
            "norms": (norm_rows(model, edited, length, self.norms), NORMS),
            "perplexity": (perplexity_rows(length, TEXT, perplexity, self.perplexities), PERPLEXITY),
        }
        for name, (rows, schema) in tables.items():
            write_table(job.path(f"n{length}.{name}.parquet"), rows, schema)
        log.info("%s at %d edits: %s", job.folder.name, length, headline(scores, perplexity))
        return [f"n{length}.{name}.parquet" for name in tables]


def _longest(model: LanguageModel, facts: Sequence[Fact]) -> int:
    """Tokens of the longest target of all: a free answer that ends before it could never be right."""
    return max(map(len, model.tokenizer([f" {fact.target_new}" for fact in facts], add_special_tokens=False)["input_ids"]))


def sampled(drawn: Sequence[T], sample: int | str) -> Sequence[T]:
    """At most so many requests, evenly spread over the sequence, its first and its last among them."""
    if sample == "all" or len(drawn) <= int(sample):
        return drawn
    return [drawn[int(place)] for place in np.linspace(0, len(drawn) - 1, int(sample)).round()]


def headline(scores: Sequence[Mapping[str, Any]], perplexity: Mapping[str, float]) -> str:
    """The numbers that a log line shows."""
    names = ("efficacy_accuracy", "paraphrase_accuracy", "locality_accuracy")
    values = {name: [row["value"] for row in scores if row["metric"] == name] for name in names}
    shown = [f"{name} {np.mean(found):.3f}" for name, found in values.items() if found]
    return ", ".join([*shown, f"perplexity {perplexity['perplexity']:.2f}"])

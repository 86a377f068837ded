"""The stage `answer`: what a run's states answer freely at the lengths asked for, beside the unedited model.

The answers of the unedited editor are an artefact of this stage too, which every other cell of the same draw reads.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from d4s.artifacts import Artifact, StageJob, write_table
from d4s.editors.edit_requests import draw_requests
from d4s.editors.editor_settings import Unedited
from d4s.editors.families import build
from d4s.editors.ledger import read_state
from d4s.facts.record import Fact, from_frame
from d4s.log import progress
from d4s.metrics.free_answers import answer_row, questions_about, whole_answers
from d4s.metrics.probes import Question
from d4s.metrics.scoring import Row
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.models.views import LiveModel
from d4s.runs.lengths import length_of
from d4s.runs.prepared_parts import load_prepared
from d4s.runs.run_settings import AnswerJobSettings
from d4s.schemas import FACTS, FREE_ANSWERS

log = logging.getLogger(__name__)
ANSWERS_KIND = "free_answers"
Key = tuple[str, str, int]


def answer(job: StageJob[AnswerJobSettings]) -> None:
    """Ask about one in every `every` of the first requests, at every wanted length that is not there already."""
    lengths = sorted(map(length_of, job.missing_parts()))
    if not lengths:
        return
    model = job.read_once("model", load)
    facts = from_frame(job.artifact("facts", "facts").table("facts.parquet", FACTS))
    drawn = [fact for _, fact in draw_requests(facts, job.settings.seed, max(lengths))]
    if isinstance(job.settings.editor, Unedited):
        questions = _questions(job, drawn, max(lengths))
        texts = dict(zip(questions, whole_answers(LiveModel(model), questions, job.settings.free_answers), strict=True))
        for length in lengths:
            asked = _questions(job, drawn, length)
            _write(job, length, [*_rows(model, asked, [texts[item] for item in asked], {_key(item): text for item, text in texts.items()})])
        return
    editor, prepared = build(job.settings.editor), load_prepared(job.inputs, job.settings.editor)
    for length in progress(lengths, f"free answers of {job.folder.name}", sum(lengths), weigh=float):
        asked, before = _questions(job, drawn, length), read_unedited(job.inputs["unedited"], length)
        state = read_state(job.inputs["run"], length, editor)
        with editor.edited(model, prepared, state) as edited:
            after = whole_answers(edited, asked, job.settings.free_answers)
        _write(job, length, [*_rows(model, asked, after, before)])


def read_unedited(folder: Path, length: int) -> dict[Key, str]:
    """What the unedited model answered to the questions about the first `length` requests, by fact, kind and number, checked."""
    frame = Artifact.open(folder, ANSWERS_KIND, f"n{length}.json").table(answers_file(length), FREE_ANSWERS)
    return {(row["fact_id"], row["kind"], row["prompt_id"]): row["after"] for row in frame.to_dict(orient="records")}


def answers_file(length: int) -> str:
    """The file with the answers after `length` edits."""
    return f"n{length}.free_answers.parquet"


def _questions(job: StageJob[AnswerJobSettings], drawn: Sequence[Fact], length: int) -> list[Question]:
    return questions_about(drawn[: length : job.settings.free_answers.every], job.settings.probes_per_fact)


def _key(question: Question) -> Key:
    return question.fact_id, question.kind, question.prompt_id


def _rows(model: LanguageModel, asked: Sequence[Question], after: Sequence[str], before: Mapping[Key, str]) -> Iterator[Row]:
    def encode(text: str) -> list[int]:
        return model.tokenizer.encode(text, add_special_tokens=False)

    return (answer_row(item, before[_key(item)], text, encode) for item, text in zip(asked, after, strict=True))


def _write(job: StageJob[AnswerJobSettings], length: int, rows: Sequence[Row]) -> None:
    write_table(job.path(answers_file(length)), [{"step": length, **row} for row in rows], FREE_ANSWERS)
    job.write_manifest([answers_file(length)], f"n{length}.json")
    exact = [row["wild_exact"] for row in rows if row["kind"] == "efficacy"]
    log.info("%s at %d edits: %d of %d answers are exact", job.folder.name, length, sum(exact), len(exact))

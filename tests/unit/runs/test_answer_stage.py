"""The stage `answer` on finished runs of a tiny model: what it writes, beside whom, and what it does not do twice."""

from pathlib import Path

import pandas as pd
import pytest

from d4s.artifacts import Artifact, StageJob
from d4s.config import FreeAnswersSettings
from d4s.editors.edit_requests import draw_requests
from d4s.editors.editor_settings import Unedited
from d4s.metrics.free_answers import questions_about, whole_answers
from d4s.models.views import LiveModel
from d4s.runs import answer_stage
from d4s.runs.answer_stage import answer
from d4s.runs.run_settings import AnswerJobSettings
from d4s.schemas import FREE_ANSWERS
from tests.runs import FACT_COUNT, SEED, prepare_inputs, run, settings_for
from tests.tiny import tiny_facts, tiny_model

ASKED = FreeAnswersSettings(every=2, max_new_tokens=4)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What is read, with a run of fine-tuning and the answers of the unedited model."""
    root = tmp_path_factory.mktemp("inputs")
    found = prepare_inputs(root)
    run(found, root / "run", "ft_m", 2, 4)
    answer(job(found, root / "unedited", "unedited", 2, 4))
    return found | {"run": root / "run", "unedited": root / "unedited"}


def job(inputs: dict[str, Path], folder: Path, editor: str, *lengths: int) -> StageJob[AnswerJobSettings]:
    chosen = Unedited() if editor == "unedited" else settings_for(editor).editor
    settings = AnswerJobSettings(editor=chosen, seed=SEED, free_answers=ASKED, probes_per_fact=1)
    return StageJob("free_answers", settings, inputs, folder, tuple(f"n{length}.json" for length in lengths), digest="0123456789")


def rows_of(folder: Path, length: int) -> pd.DataFrame:
    return Artifact.open(folder, "free_answers", f"n{length}.json").table(f"n{length}.free_answers.parquet", FREE_ANSWERS)


def test_the_unedited_model_is_asked_about_every_other_request(inputs: dict[str, Path]) -> None:
    order = [fact for _, fact in draw_requests(tiny_facts(FACT_COUNT), SEED, 4)]
    for length in (2, 4):
        rows, asked = rows_of(inputs["unedited"], length), questions_about(order[:length:2], 1)
        assert rows["fact_id"].drop_duplicates().tolist() == [fact.fact_id for fact in order[:length:2]]
        assert rows["after"].tolist() == whole_answers(LiveModel(tiny_model()), asked, ASKED) == rows["before"].tolist()
        assert (rows["same_tokens"].dropna() == 1.0).all() and set(rows["step"]) == {length}


def test_an_edited_model_answers_as_its_state_does_beside_the_unedited_one(inputs: dict[str, Path], tmp_path: Path) -> None:
    answer(job(inputs, tmp_path / "made", "ft_m", 2, 4))
    rows, before = rows_of(tmp_path / "made", 4), rows_of(inputs["unedited"], 4)
    assert rows["before"].tolist() == before["after"].tolist()
    assert set(rows["kind"]) == {"efficacy", "paraphrase", "locality"}
    against_target = rows["kind"] != "locality"
    assert rows["wild_exact"].notna().eq(against_target).all() and rows["same_tokens"].isna().eq(against_target).all()
    assert rows["length"].between(0, 4).all()


def test_a_length_that_is_there_is_not_asked_again(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(job(inputs, tmp_path / "made", "ft_m", 2))
    first = (tmp_path / "made" / "n2.free_answers.parquet").stat().st_mtime_ns
    answer(job(inputs, tmp_path / "made", "ft_m", 2, 4))
    assert (tmp_path / "made" / "n2.free_answers.parquet").stat().st_mtime_ns == first
    monkeypatch.setattr(answer_stage, "load", None)  # nothing is missing, so no model is loaded
    answer(job(inputs, tmp_path / "made", "ft_m", 2, 4))

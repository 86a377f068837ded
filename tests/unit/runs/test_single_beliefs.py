"""Single edits asked what a Bayesian reader believes: probabilities and exact answers of every question about the request."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from d4s.artifacts import StageJob, read_table, write_table
from d4s.config import PosteriorSettings
from d4s.editors.edit_requests import draw_requests
from d4s.metrics.belief_probes import BeliefQuestion, belief_values, exact_quantity, joint_quantity
from d4s.models.loading import load
from d4s.models.views import LiveModel
from d4s.runs.run_settings import SingleSettings
from d4s.runs.single_stage import edit_single
from d4s.schemas import BELIEFS, SINGLES
from tests.runs import SEED, prepare_inputs, settings_for
from tests.tiny import CITIES, bpe_tokenizer, tiny_facts, tiny_model

QUESTIONS = {"same_same.after": "{} lives in the city of", "truth": '"{} lives in the city of Rome" is'}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    rows = [
        {"fact_id": fact.fact_id, "question": question, "prompt": prompt.replace("{}", fact.subject),
         "answer": fact.target_new if "." in question else "true", "prior": 0.1, "posterior": 0.9, "weight": 1, "reinforcing": False,
         "dependent": False, "changes": False, "strength": None}
        for fact in tiny_facts(12) for question, prompt in QUESTIONS.items()
    ]  # fmt: skip
    write_table(folder / "posterior" / "beliefs.parquet", rows, BELIEFS)
    StageJob("posteriors", PosteriorSettings(), {}, folder / "posterior").write_manifest(["beliefs.parquet"])
    return prepare_inputs(folder) | {"posterior": folder / "posterior"}


def singles(inputs: dict[str, Path], folder: Path, name: str) -> pd.DataFrame:
    settings = SingleSettings(editor=settings_for(name).editor, seed=SEED, probes=("beliefs",))
    edit_single(StageJob("singles", settings, inputs, folder, ("b0.json",), digest="0123456789"))
    rows = read_table(folder / "b0.singles.parquet", SINGLES)
    return rows[rows["prompt_id"].notna()].pivot(index="fact_id", columns="quantity", values="value")


def test_the_unedited_model_says_what_it_believes_and_an_edited_one_something_else(inputs: dict[str, Path], tmp_path: Path) -> None:
    before, after = (singles(inputs, tmp_path / name, name) for name in ("unedited", "ft_m"))
    assert {*before} == {quantity(question) for question in QUESTIONS for quantity in (joint_quantity, exact_quantity)}
    facts = {fact.fact_id: fact for _, fact in draw_requests(tiny_facts(12), SEED, 10)}
    assert {*before.index} == {*facts} == {*after.index}
    view = LiveModel(load(inputs["model"]))
    for fact_id, fact in facts.items():
        expected = (-view.score([fact.prompt], [fact.target_new]).joint_nll()).exp()
        assert before.loc[fact_id, "belief_same_same.after_joint"] == pytest.approx(float(expected), rel=1e-5)
    assert (after["belief_same_same.after_joint"] > before["belief_same_same.after_joint"]).mean() > 0.7


def test_probabilities_are_joint_and_answers_exact_in_all_tokens() -> None:
    view = LiveModel(tiny_model(tokenizer=bpe_tokenizer(), positions=96))
    asked = [BeliefQuestion(city, "Ada Moss lives in the city of", city) for city in CITIES]
    found = {quantity: value for quantity, _, value in belief_values(view, asked)}
    scores = view.score([one.prompt for one in asked], [one.answer for one in asked])
    assert int(scores.mask.sum(1).max()) > 1
    for row, one in enumerate(asked):
        joint = torch.where(scores.mask[row], -scores.nll[row], 0.0).sum().exp()
        assert found[joint_quantity(one.question)] == pytest.approx(float(joint), rel=1e-5)
        assert found[exact_quantity(one.question)] == float(scores.correct[row][scores.mask[row]].all())

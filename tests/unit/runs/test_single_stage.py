"""Single edits: each from the original weights, independent of the others, resumed request by request, with exact probes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from d4s.artifacts import StageJob, read_table, write_tensors
from d4s.config import CorpusSettings
from d4s.editors.edit_requests import draw_requests
from d4s.editors.families import build
from d4s.editors.protocol import Diverged
from d4s.editors.target_optimisation import read_targets
from d4s.errors import SettingsError
from d4s.metrics.perplexity import perplexities
from d4s.metrics.perplexity_aggregates import TEXT_NLL, TEXT_TOKENS, aggregate_perplexities
from d4s.metrics.scoring import FactEvaluation
from d4s.metrics.single_probes import question_values, text_values
from d4s.models.loading import load
from d4s.models.tokens import encode_pair
from d4s.models.views import LiveModel
from d4s.runs import single_stage as stage
from d4s.runs.prepared_parts import load_prepared
from d4s.runs.run_settings import SingleSettings
from d4s.schemas import EDIT_LOG, IMMEDIATE, SINGLES
from tests.runs import FACT_COUNT, SEED, prepare_inputs, run, settings_for
from tests.tiny import tiny_facts, tiny_model

ROWS = torch.randint(2, 60, (5, 12), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
PROBES = ("efficacy", "paraphrase", "neighborhood", "locality", "text")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    found = prepare_inputs(folder)
    write_tensors(folder / "heldout" / "heldout.safetensors", {"rows": ROWS})
    StageJob("corpora", CorpusSettings(), {}, folder / "heldout").write_manifest(["heldout.safetensors"])
    return found | {"text": folder / "heldout"}


def job_of(inputs: dict[str, Path], folder: Path, name: str, *blocks: int, **changes: Any) -> StageJob[SingleSettings]:
    settings = SingleSettings(editor=settings_for(name, **changes).editor, seed=SEED, probes=PROBES, perplexity_rows=4)
    return StageJob("singles", settings, inputs, folder, tuple(f"b{block}.json" for block in blocks), digest="0123456789")


def singles(inputs: dict[str, Path], folder: Path, name: str, *blocks: int, **changes: Any) -> pd.DataFrame:
    stage.edit_single(job_of(inputs, folder, name, *blocks, **changes))
    return pd.concat([read_table(folder / f"b{block}.singles.parquet", SINGLES) for block in blocks], ignore_index=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.parametrize("name", ["d4s", "memit", "rome", "ft_m", "unedited"])
def test_a_single_edit_gives_the_numbers_of_a_sequence_of_one(inputs: dict[str, Path], tmp_path: Path, name: str) -> None:
    alone = singles(inputs, tmp_path / "a", name, 0)
    run(inputs, tmp_path / "run", name, 1)
    log = read_table(tmp_path / "run" / "n1.edit_log.parquet", EDIT_LOG)
    first = alone[(alone["order"] == 1) & (alone["request_id"] == log["request_id"][0])]
    columns = ["quantity", "layer", "value"]
    steps = log.loc[~log["quantity"].isin(IMMEDIATE), columns].reset_index(drop=True)
    of_step = first.loc[first["prompt_id"].isna() & (first["quantity"] != "edited"), columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(of_step, steps, check_exact=True)
    scores = log[log["quantity"].isin(IMMEDIATE)].set_index("quantity")["value"]
    assert first.groupby("quantity")["value"].mean()[scores.index].to_dict() == scores.to_dict()


def test_no_result_depends_on_which_others_a_job_edits(inputs: dict[str, Path], tmp_path: Path) -> None:
    singles(inputs, tmp_path / "a" / "run", "d4s", 0, 1)
    singles(inputs, tmp_path / "b" / "run", "d4s", 1)
    singles(inputs, tmp_path / "b" / "run", "d4s", 0)
    assert contents(tmp_path / "a" / "run") == contents(tmp_path / "b" / "run")
    assert not [path for path in (tmp_path / "a" / "run").iterdir() if path.is_dir()]


def test_every_request_of_the_draw_is_there_once_and_no_block_beyond_it(inputs: dict[str, Path], tmp_path: Path) -> None:
    rows = singles(inputs, tmp_path / "run", "unedited", 0, 1)
    edited = rows[rows["quantity"] == "edited"]
    assert edited["request_id"].tolist() == [request.request_id for request, _ in draw_requests(tiny_facts(FACT_COUNT), SEED)]
    assert set(edited["status"]) == {"done"} and set(edited["value"]) == {1.0}
    with pytest.raises(SettingsError, match="only 12 facts"):
        singles(inputs, tmp_path / "run", "unedited", 2)


def test_the_original_bits_are_back_after_every_edit(inputs: dict[str, Path], tmp_path: Path) -> None:
    for name in ("d4s", "ft_m", "one_time_batch"):
        job = job_of(inputs, tmp_path / name, name, 0)
        model = job.read_once("model", load)
        before = {key: value.clone() for key, value in model.network.state_dict().items()}
        stage.edit_single(job)
        assert all(torch.equal(value, before[key]) for key, value in model.network.state_dict().items())


def test_a_killed_job_repeats_the_request_at_work_alone(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    singles(inputs, tmp_path / "a" / "run", "d4s", 0)
    outcome, asked = stage.SingleEditsJob._outcome, []

    def count(self: stage.SingleEditsJob, number: int) -> Any:
        asked.append(number)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return outcome(self, number)

    monkeypatch.setattr(stage.SingleEditsJob, "_outcome", count)
    with pytest.raises(KeyboardInterrupt):
        singles(inputs, tmp_path / "b" / "run", "d4s", 0)
    singles(inputs, tmp_path / "b" / "run", "d4s", 0)
    assert asked == [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9]
    assert contents(tmp_path / "a" / "run") == contents(tmp_path / "b" / "run")
    monkeypatch.setattr(stage, "load", lambda folder: pytest.fail("the model was loaded"))
    singles(inputs, tmp_path / "b" / "run", "d4s", 0)


def test_editors_whose_steps_write_nothing_are_asked_as_their_state_says(inputs: dict[str, Path], tmp_path: Path) -> None:
    batch, scaled, unedited = (
        singles(inputs, tmp_path / name, preset, 0, **changes)
        for name, preset, changes in (
            ("batch", "one_time_batch", {}),
            ("scaled", "d4s", {"delta_transform": {"kind": "rescale", "factor": 0.0}}),
            ("unedited", "unedited", {}),
        )
    )
    probes, same = (frame[frame["prompt_id"].notna()]["value"].to_numpy() for frame in (scaled, unedited))
    assert np.allclose(probes, same, rtol=1e-5)
    job = job_of(inputs, tmp_path / "batch", "one_time_batch", 0)
    (request, _), *_ = draw_requests(tiny_facts(FACT_COUNT), SEED, 1)
    editor, model = build(job.settings.editor), job.read_once("model", load)
    prepared = load_prepared(inputs, job.settings.editor)
    with editor.editing(model, prepared, editor.start(model, prepared)) as session:
        session.step([request], read_targets(inputs["targets"], [request]))
        state = session.state()
    with editor.edited(model, prepared, state) as view:
        wanted = float((-view.score([request.prompt], [request.target]).joint_nll().double()).exp())
    found = batch[(batch["order"] == 1) & (batch["quantity"] == "efficacy_p_new_joint")]["value"].item()
    assert found == pytest.approx(wanted, rel=1e-5)
    assert found != unedited[unedited["quantity"] == "efficacy_p_new_joint"]["value"].iloc[0]


def test_what_diverges_or_is_refused_is_a_row(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = singles(inputs, tmp_path / "a", "d4s", 0)
    step, prompts = stage.run_step, stage.build_prompts

    def diverge(session: Any, batch: Any, targets: Any) -> Any:
        if batch[0].step == 2:
            raise Diverged("numbers that are not finite")
        return step(session, batch, targets)

    def refuse(model: Any, request: Any, contexts: Any) -> Any:
        if request.step == 3:
            raise ValueError("the subject is lost")
        return prompts(model, request, contexts)

    monkeypatch.setattr(stage, "run_step", diverge)
    monkeypatch.setattr(stage, "build_prompts", refuse)
    rows = singles(inputs, tmp_path / "b", "d4s", 0)
    assert rows.groupby("order")["status"].first().tolist() == ["done", "diverged", "refused", *["done"] * 7]
    for order in (2, 3):
        of_request = rows[rows["order"] == order]
        assert of_request["quantity"].tolist() == ["edited"] and of_request["value"].tolist() == [0.0]
    kept = [frame[~frame["order"].isin([2, 3])].reset_index(drop=True) for frame in (rows, straight)]
    pd.testing.assert_frame_equal(*kept)


# --- probes -----------------------------------------------------------------------------------------------------------


def test_probabilities_are_those_of_a_plain_forward_pass_and_both_forms_are_apart() -> None:
    model = tiny_model()
    fact = replace(tiny_facts(1)[0], target_new="Paris town", target_true="Oslo")
    evaluation = FactEvaluation.of(LiveModel(model), [fact], probes_per_fact=1, max_new_tokens=0)
    found = {(name, prompt): value for name, prompt, value in question_values(LiveModel(model), evaluation, fact.fact_id, PROBES)}

    def log_probabilities(prompt: str, target: str) -> torch.Tensor:
        ids, tail = encode_pair(model, prompt, target)
        logits = model.network(torch.tensor([[*ids, *tail]])).logits[0].double().log_softmax(1)
        return torch.stack([logits[len(ids) - 1 + place, token] for place, token in enumerate(tail)])

    wordings = {("efficacy", 0): fact.prompt} | {("paraphrase", number): prompt for number, prompt in enumerate(fact.paraphrases)}
    wordings[("neighborhood", 0)] = fact.neighborhood[0].prompt
    for (kind, number), prompt in wordings.items():
        true = fact.neighborhood[0].answer if kind == "neighborhood" else fact.target_true
        for name, target in (("p_new", fact.target_new), ("p_true", true)):
            logs = log_probabilities(prompt, target)
            assert found[f"{kind}_{name}_joint", number] == pytest.approx(float(logs.sum().exp()), rel=1e-5)
            assert found[f"{kind}_{name}_mean", number] == pytest.approx(float(logs.mean().exp()), rel=1e-5)
        hit = found[f"{kind}_p_new_mean", number] > found[f"{kind}_p_true_mean", number]
        assert found[f"{kind}_score", number] == (not hit if kind == "neighborhood" else hit)
    assert found["efficacy_p_new_joint", 0] < found["efficacy_p_new_mean", 0]
    assert not [name for name, _ in found if name.startswith("portability")]


def test_text_gives_the_three_perplexities_from_what_is_stored() -> None:
    model = LiveModel(tiny_model())
    rows = [*ROWS[:3].tolist(), [5, 6, 7]]
    stored = [*text_values(model, rows)]
    nll, tokens = (np.array([value for name, _, value in stored if name == wanted]) for wanted in (TEXT_NLL, TEXT_TOKENS))
    assert tokens.tolist() == [11, 11, 11, 2]
    assert aggregate_perplexities(nll, tokens) == perplexities(model, rows)
    by_hand = np.exp(nll / tokens)
    expected = {"perplexity": np.exp(nll.sum() / 35), "perplexity_row_mean": by_hand.mean(), "perplexity_row_median": np.median(by_hand)}
    assert aggregate_perplexities(nll, tokens) == pytest.approx(expected)

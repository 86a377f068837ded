"""The stages `trace` and `problem`: what they write, what a killed job keeps, and which facts are requests of which problem."""

import math
from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from d4s.artifacts import Artifact, StageJob, read_table
from d4s.config import NoiseSettings, ProblemSettings, TraceJobSettings
from d4s.editors.edit_requests import draw_requests, eligible_facts
from d4s.errors import SettingsError
from d4s.facts.record import Fact, from_frame
from d4s.metrics.probes import questions_of
from d4s.models.views import LiveModel
from d4s.runs import trace_stage
from d4s.runs.problem_stage import amplified, problem
from d4s.runs.reversal import reversed_facts
from d4s.runs.trace_stage import trace
from d4s.schemas import FACTS, TRACES
from tests.runs import FACT_COUNT, SEED, prepare_inputs
from tests.tiny import tiny_facts, tiny_model

NOISE = {"scale": 8.0, "copies": 2}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return prepare_inputs(tmp_path_factory.mktemp("inputs"))


def job_of(inputs: dict[str, Path], folder: Path, *counts: int, **changes: object) -> StageJob[TraceJobSettings]:
    settings = TraceJobSettings.model_validate({"seed": SEED, "windows": [1, 3], "noise": NOISE, **changes})
    needed = {role: inputs[role] for role in ("model", "facts")}
    return StageJob("traces", settings, needed, folder, tuple(f"n{count}.json" for count in counts), digest="0" * 10)


def traces_of(folder: Path, count: int) -> pd.DataFrame:
    return Artifact.open(folder, "traces", f"n{count}.json").table(f"n{count}.traces.parquet", TRACES)


def test_every_token_from_the_subject_on_is_restored_in_every_window(inputs: dict[str, Path], tmp_path: Path) -> None:
    trace(job_of(inputs, tmp_path / "traces", 3))
    rows = traces_of(tmp_path / "traces", 3)
    requests = [request for request, _ in draw_requests(tiny_facts(FACT_COUNT), SEED, 3)]
    assert rows["fact_id"].drop_duplicates().tolist() == [request.fact_id for request in requests]
    expected = LiveModel(tiny_model()).score([one.prompt for one in requests], [one.target_true for one in requests]).joint_nll()
    for request, nll in zip(requests, expected.tolist(), strict=True):
        own = rows[rows["request_id"] == request.request_id]
        tokens = len(request.prompt.split())  # the template begins with the subject, after BOS
        assert len(own) == tokens * 2 * 3 and set(own["layer"]) == {0, 1, 2} and set(own["window"]) == {1, 3}
        assert set(own["position"]) == set(range(1, 1 + tokens))
        assert own.groupby("token_role")["position"].nunique().to_dict() == {
            "first_subject": 1,
            "last_subject": 1,
            "after": tokens - 3,
            "last": 1,
        }
        assert own["p_clean"].nunique() == own["p_corrupt"].nunique() == 1
        assert -nll == pytest.approx(float(math.log(own["p_clean"].iloc[0])), rel=1e-4)


def test_more_facts_continue_where_fewer_ended_and_a_kill_loses_one(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, whole, traced = tmp_path / "traces", tmp_path / "whole", []
    trace(job_of(inputs, whole, 4))
    rows = trace_stage.trace_rows

    def counted(model, request, settings):
        traced.append(request.step)
        if len(traced) == 2:
            raise KeyboardInterrupt
        return rows(model, request, settings)

    monkeypatch.setattr(trace_stage, "trace_rows", counted)
    with pytest.raises(KeyboardInterrupt):
        trace(job_of(inputs, folder, 2))
    trace(job_of(inputs, folder, 2))
    trace(job_of(inputs, folder, 2, 4))
    assert traced == [1, 2, 2, 3, 4]
    pd.testing.assert_frame_equal(traces_of(folder, 4), traces_of(whole, 4))
    pd.testing.assert_frame_equal(
        traces_of(folder, 2), traces_of(whole, 4)[lambda frame: frame["request_id"].isin(traces_of(folder, 2)["request_id"])]
    )


def test_wanted_tokens_and_layers_alone_are_restored(inputs: dict[str, Path], tmp_path: Path) -> None:
    trace(job_of(inputs, tmp_path / "all", 2))
    trace(job_of(inputs, tmp_path / "some", 2, windows=[3], layers=[0, 2], tokens=["last_subject", "last"]))
    every, some = traces_of(tmp_path / "all", 2), traces_of(tmp_path / "some", 2)
    wanted = every[(every["window"] == 3) & every["layer"].isin([0, 2]) & every["token_role"].isin(["last_subject", "last"])]
    pd.testing.assert_frame_equal(some, wanted.reset_index(drop=True), rtol=1e-6)


def test_more_facts_than_there_are_cannot_be_traced(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="only 12 facts"):
        trace(job_of(inputs, tmp_path / "traces", FACT_COUNT + 1))


# --- problems ---------------------------------------------------------------------------------------------------------


def changed(inputs: dict[str, Path], folder: Path, **settings: object) -> list[Fact]:
    problem(StageJob("facts", ProblemSettings.model_validate(settings), {role: inputs[role] for role in ("facts", "model")}, folder))
    return from_frame(Artifact.open(folder, "facts").table("facts.parquet", FACTS))


def test_amplification_asks_for_the_present_answer_in_the_same_order(inputs: dict[str, Path], tmp_path: Path) -> None:
    facts = changed(inputs, tmp_path / "facts", problem="amplification")
    drawn, plain = draw_requests(facts, SEED), draw_requests(tiny_facts(FACT_COUNT), SEED)
    assert [request.request_id for request, _ in drawn] == [request.request_id for request, _ in plain]
    assert all(request.target == request.target_true == fact.target_true for request, fact in drawn)


def test_amplification_leaves_the_probes_of_other_facts_as_they_are() -> None:
    fact = tiny_facts(1)[0]
    before, after = questions_of(fact, 3), questions_of(amplified(fact), 3)
    kept = [("neighborhood", "unrelated", "locality", "same_subject", "portability")]
    for one, other in zip(before, after, strict=True):
        assert (one.kind, one.prompt_id, one.prompt) == (other.kind, other.prompt_id, other.prompt)
        assert one.answer == other.answer or one.kind not in kept[0]
    assert {item.alternative for item in after if item.kind in ("efficacy", "paraphrase")} == {None}


def test_a_request_for_the_present_answer_is_refused_for_injection_only() -> None:
    fact = tiny_facts(1)[0]
    same = Fact(**{**{name: getattr(fact, name) for name in fact.__slots__}, "target_new": fact.target_true})
    assert eligible_facts([same]) == []
    assert eligible_facts([amplified(same)]) == [amplified(fact)]


def test_reversal_asks_for_the_answer_to_the_noised_prompt_and_refuses_the_clean_one() -> None:
    model, facts = tiny_model("gptj"), tiny_facts(8)
    still = [*reversed_facts(model, facts, NoiseSettings(scale=0.0))]
    assert not any(fact.editable for fact in still)
    noised = [*reversed_facts(model, facts, NoiseSettings(scale=30.0))]
    clean = LiveModel(model).generate([fact.prompt for fact in facts], 1)
    assert any(fact.editable for fact in noised)
    for fact, old, answer in zip(noised, facts, clean, strict=True):
        assert fact.problem == "reversal" and fact.target_true == old.target_true
        if fact.editable:
            assert fact.target_new not in ("", answer.strip(), old.target_true)
        else:
            assert fact.target_new == old.target_new


def test_a_problem_without_any_request_says_so(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no fact can be a request of reversal"):
        changed(inputs, tmp_path / "facts", problem="reversal", noise={"scale": 0.0})


def test_reversal_needs_noise_and_amplification_has_none() -> None:
    for settings in ({"problem": "reversal"}, {"problem": "amplification", "noise": {}}):
        with pytest.raises(ValidationError, match="noise is for reversal"):
            ProblemSettings.model_validate(settings)


def test_a_truncated_fact_is_traced_again(inputs: dict[str, Path], tmp_path: Path) -> None:
    trace(job_of(inputs, tmp_path / "traces", 2))
    before = traces_of(tmp_path / "traces", 2)
    (tmp_path / "traces" / "facts" / "000001.parquet").write_bytes(b"PAR1")
    (tmp_path / "traces" / "n2.json").unlink()
    trace(job_of(inputs, tmp_path / "traces", 2))
    pd.testing.assert_frame_equal(traces_of(tmp_path / "traces", 2), before)
    assert len(read_table(tmp_path / "traces" / "facts" / "000001.parquet", TRACES))

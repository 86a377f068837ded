import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from d4s.artifacts import Artifact, read_table
from d4s.editors.edit_requests import draw_requests
from d4s.editors.families import build
from d4s.editors.least_squares import SolveError
from d4s.editors.ledger import FILE, Ledger, read_state
from d4s.editors.protocol import Diverged
from d4s.errors import ArtifactError, SettingsError
from d4s.metrics.scoring import FactEvaluation
from d4s.models.loading import load
from d4s.models.views import LiveModel
from d4s.runs import edit_stage as stage
from d4s.runs.prepared_parts import load_prepared
from d4s.schemas import EDIT_LOG, IMMEDIATE
from tests.runs import FACT_COUNT, SEED, prepare_inputs, run, settings_for
from tests.tiny import tiny_facts, tiny_model

EDITORS = ("d4s", "memit", "rome", "ft_m", "unedited", "one_time_batch")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return prepare_inputs(tmp_path_factory.mktemp("inputs"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.parametrize("name", EDITORS)
def test_longer_and_inserted_lengths_give_the_bytes_of_a_straight_run(inputs: dict[str, Path], tmp_path: Path, name: str) -> None:
    straight, pieces = tmp_path / "a" / "run", tmp_path / "b" / "run"
    run(inputs, straight, name, 2, 4, 6)
    run(inputs, pieces, name, 4)
    run(inputs, pieces, name, 4, 6)
    run(inputs, pieces, name, 2)
    assert contents(pieces) == contents(straight)


def test_a_length_that_is_there_costs_no_model(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(inputs, tmp_path / "run", "d4s", 5)
    before = contents(tmp_path / "run")
    (tmp_path / "run" / "n5.json").unlink()
    monkeypatch.setattr(stage, "load", lambda folder: pytest.fail("the model was loaded"))
    run(inputs, tmp_path / "run", "d4s", 5, 3)
    after = contents(tmp_path / "run")
    assert after["n5.json"] == before["n5.json"] and "n3.json" in after


def test_the_log_tells_every_edit(inputs: dict[str, Path], tmp_path: Path) -> None:
    run(inputs, tmp_path / "run", "d4s", 4)
    log = read_table(tmp_path / "run" / "n4.edit_log.parquet", EDIT_LOG)
    drawn = draw_requests(tiny_facts(FACT_COUNT), SEED, 4)
    assert log.drop_duplicates("step")["request_id"].tolist() == [request.request_id for request, _ in drawn]
    assert log.drop_duplicates("step")["fact_id"].tolist() == [fact.fact_id for _, fact in drawn]
    of_step = log[log["step"] == 3]
    without_layer = set(of_step[of_step["layer"].isna()]["quantity"])
    assert {"target_probability_before", "target_probability_after", "residual_norm", *IMMEDIATE} <= without_layer
    by_layer = of_step[of_step["layer"].notna()]
    assert set(by_layer["layer"]) == {0, 1} and {"delta_norm", "l1", "key_gain"} <= set(by_layer["quantity"])
    assert log["value"].map(pd.notna).all()


def test_immediate_scores_are_those_of_the_model_right_after_the_edit(inputs: dict[str, Path], tmp_path: Path) -> None:
    job = run(inputs, tmp_path / "run", "memit", 3)
    log = read_table(tmp_path / "run" / "n3.edit_log.parquet", EDIT_LOG)
    model, editor = load(inputs["model"]), build(job.settings.editor)
    drawn = draw_requests(tiny_facts(FACT_COUNT), SEED, 3)
    evaluation = FactEvaluation.of(LiveModel(model), [fact for _, fact in drawn], probes_per_fact=1, max_new_tokens=0)
    for request, fact in drawn:
        state = Ledger.open(tmp_path / "run", "additive").state_at(editor, request.step)
        with editor.edited(model, stage.load_prepared(inputs, job.settings.editor), state) as view:
            expected = evaluation.means(view, [fact.fact_id])[fact.fact_id]
        found = log[(log["step"] == request.step) & log["quantity"].isin(IMMEDIATE)].set_index("quantity")["value"]
        assert found.to_dict() == pytest.approx({name: expected[name] for name in IMMEDIATE})


def test_the_unedited_model_is_not_asked_where_its_baseline_is(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    score_and_generate = LiveModel.score_and_generate
    monkeypatch.setattr(
        LiveModel, "score_and_generate", lambda view, prompts, *more: asked.append(len(prompts)) or score_and_generate(view, prompts, *more)
    )
    run(inputs, tmp_path / "run", "memit", 3)
    assert len(asked) == 3, "once after each edit, never before"
    with pytest.raises(ArtifactError, match=r"none holds no b0\.json"):
        run({**inputs, "baseline": tmp_path / "none"}, tmp_path / "again", "memit", 3)


def test_manifests_name_their_part_of_the_ledger(inputs: dict[str, Path], tmp_path: Path) -> None:
    run(inputs, tmp_path / "run", "d4s", 2, 5)
    notes = {n: Artifact.open(tmp_path / "run", "runs", f"n{n}.json").manifest.notes for n in (2, 5)}
    ledger = Ledger.open(tmp_path / "run", "refit")
    assert {n: note["ledger"] for n, note in notes.items()} == {n: ledger.prefix(n) for n in (2, 5)}
    assert all("diverged_at" not in note for note in notes.values())
    assert len(read_state(tmp_path / "run", 2, build(settings_for("d4s").editor)).records) == 2


def test_the_one_time_batch_has_no_score_right_after_an_edit(inputs: dict[str, Path], tmp_path: Path) -> None:
    run(inputs, tmp_path / "run", "one_time_batch", 3)
    log = read_table(tmp_path / "run" / "n3.edit_log.parquet", EDIT_LOG)
    assert set(log["quantity"]) == {"target_probability_before", "target_probability_after"}


# --- what can go wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [(3,), ()])
@pytest.mark.parametrize(("name", "reason"), [("d4s", Diverged), ("d4s", SolveError), ("ft_m", Diverged)])
def test_a_run_that_diverges_stands_at_its_last_finite_state(
    inputs: dict[str, Path],
    tmp_path: Path,
    name: str,
    reason: type[Exception],
    kept: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    editor = type(build(settings_for(name).editor))
    original = editor.editing

    def breaking(self, model, prepared, state):
        context = original(self, model, prepared, state)
        session = context.__enter__()
        step, seen = session.step, len(state.records)

        def diverging(batch, given):
            if batch[0].step == 4:
                raise reason("broken on purpose")
            return step(batch, given)

        assert seen <= 4
        session.step = diverging
        context.__enter__ = lambda: session
        return _Entered(session, context)

    run(inputs, tmp_path / "straight", name, 3)
    monkeypatch.setattr("d4s.editors.ledger.PAUSE", 1e9)
    monkeypatch.setattr(editor, "editing", breaking)
    run(inputs, tmp_path / "run", name, 2, *kept, 5, 6)
    assert "edit 4 diverged" in caplog.text
    manifests = {n: Artifact.open(tmp_path / "run", "runs", f"n{n}.json") for n in (2, *kept, 5, 6)}
    assert [manifest.manifest.notes.get("diverged_at") for manifest in manifests.values()] == [*[None for _ in (2, *kept)], 4, 4]
    assert manifests[6].manifest.notes["ledger"]["edits"] == 3
    log = read_table(tmp_path / "run" / "n6.edit_log.parquet", EDIT_LOG)
    assert sorted(set(log["step"])) == [1, 2, 3]
    monkeypatch.setattr(stage, "load", lambda folder: pytest.fail("a diverged run goes on"))
    run(inputs, tmp_path / "run", name, 6, 8)
    state, expected = (read_state(tmp_path / run, at, build(settings_for(name).editor)) for run, at in (("run", 8), ("straight", 3)))
    assert len(state.records) == len(expected.records) and state.dense.keys() == expected.dense.keys()
    assert all(torch.equal(state.dense[key], tensor) for key, tensor in expected.dense.items())


class _Entered:
    """A context that was entered already."""

    def __init__(self, session: Any, context: Any) -> None:
        self._session, self._context = session, context

    def __enter__(self) -> Any:
        return self._session

    def __exit__(self, *error: object) -> Any:
        return self._context.__exit__(*error)


@pytest.mark.parametrize("name", ["memit", "rome", "ft_m"])
def test_numbers_that_are_not_finite_diverge_by_themselves(inputs: dict[str, Path], tmp_path: Path, name: str) -> None:
    model = tiny_model()
    model.network.transformer.h[0].mlp.c_fc.weight.data.fill_(torch.nan)
    model.network.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    run({**inputs, "model": tmp_path / "model"}, tmp_path / "run", name, 3)
    notes = Artifact.open(tmp_path / "run", "runs", "n3.json").manifest.notes
    assert notes["diverged_at"] == 1 and notes["ledger"]["edits"] == 0
    assert len(read_table(tmp_path / "run" / "n3.edit_log.parquet", EDIT_LOG)) == 0


def test_lengths_within_a_batch_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"lengths \[3, 5\] do not end with a batch of 2"):
        run(inputs, tmp_path / "run", "memit", 3, 4, 5, batch=2)
    run(inputs, tmp_path / "run", "memit", 4, batch=2)
    assert Ledger.open(tmp_path / "run", "additive").prefix(4)["frames"] == 2


def test_more_edits_than_facts_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="13 edits asked for, but only 12 facts"):
        run(inputs, tmp_path / "run", "memit", 13)


def test_missing_targets_are_refused_by_name(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no b0\.json"):
        run({**inputs, "targets": tmp_path / "none"}, tmp_path / "run", "d4s", 2)


def test_a_lost_dense_checkpoint_only_costs_steps(inputs: dict[str, Path], tmp_path: Path) -> None:
    run(inputs, tmp_path / "a" / "run", "ft_m", 2, 5)
    run(inputs, tmp_path / "b" / "run", "ft_m", 2, 4)
    (tmp_path / "b" / "run" / "n4.state.safetensors").unlink()
    run(inputs, tmp_path / "b" / "run", "ft_m", 2, 5)
    found, expected = contents(tmp_path / "b" / "run"), contents(tmp_path / "a" / "run")
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("longer", [(), (6,)])
def test_a_kill_before_a_length_is_kept_loses_nothing(inputs: dict[str, Path], tmp_path: Path, longer: tuple[int, ...]) -> None:
    run(inputs, tmp_path / "a" / "run", "ft_m", 4, *longer)
    folder = tmp_path / "b" / "run"
    run(inputs, folder, "ft_m", 4)
    for name in ("n4.json", "n4.state.safetensors"):
        (folder / name).unlink()
    run(inputs, folder, "ft_m", 4, *longer)
    assert contents(folder) == contents(tmp_path / "a" / "run")


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.runs import run
folder = Path(sys.argv[2])
names = ("model", "facts", "contexts", "moments", "targets", "baseline")
run({name: folder / name for name in names}, Path(sys.argv[3]), sys.argv[4], 10)
"""


def test_a_killed_process_goes_on_to_the_same_bytes(inputs: dict[str, Path], tmp_path: Path) -> None:
    run(inputs, tmp_path / "straight" / "run", "ft_m", 10)
    killed = tmp_path / "killed" / "run"
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", KILLED, str(root), str(inputs["model"].parent), str(killed), "ft_m"]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"})
    ledger = killed / FILE
    while process.poll() is None and not (ledger.is_file() and ledger.stat().st_size > 4000):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    run(inputs, killed, "ft_m", 10)
    assert {name: value for name, value in contents(killed).items() if not name.endswith(".part")} == contents(
        tmp_path / "straight" / "run"
    )


@pytest.mark.parametrize("name", ["memit", "d4s", "one_time_batch"])
@pytest.mark.parametrize("cut", [1, 300, 2000])
def test_a_ledger_cut_anywhere_goes_on_to_the_same_bytes(inputs: dict[str, Path], tmp_path: Path, name: str, cut: int) -> None:
    run(inputs, tmp_path / "run", name, 4)
    straight = contents(tmp_path / "run")
    for file in ("n4.json", "n4.edit_log.parquet"):
        (tmp_path / "run" / file).unlink()
    (tmp_path / "run" / FILE).write_bytes(straight[FILE][:-cut])
    run(inputs, tmp_path / "run", name, 4)
    assert contents(tmp_path / "run") == straight


def test_scores_right_after_one_batch_of_all_requests_are_those_of_the_whole_state(inputs: dict[str, Path], tmp_path: Path) -> None:
    job = run(inputs, tmp_path / "run", "memit", 4, batch=4)
    log = read_table(tmp_path / "run" / "n4.edit_log.parquet", EDIT_LOG)
    model, editor = load(inputs["model"]), build(job.settings.editor)
    facts = [fact for _, fact in draw_requests(tiny_facts(FACT_COUNT), SEED, 4)]
    evaluation = FactEvaluation.of(LiveModel(model), facts, probes_per_fact=3, max_new_tokens=0)
    with editor.edited(model, load_prepared(inputs, job.settings.editor), read_state(tmp_path / "run", 4, editor)) as edited:
        retained = evaluation.means(edited, [fact.fact_id for fact in facts], IMMEDIATE)
    scores = log[log["quantity"].isin(IMMEDIATE)]
    assert {fact: part.set_index("quantity")["value"].to_dict() for fact, part in scores.groupby("fact_id")} == retained

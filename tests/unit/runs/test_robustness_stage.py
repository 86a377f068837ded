"""The stages `ordinary` and `robustness`: views on the way to the edited weights, and models kept during training."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from d4s.artifacts import Artifact, StageJob, write_table, write_tensors
from d4s.config import CorpusSettings, FactsSettings, OrdinaryJobSettings, PretrainSettings, RobustnessSettings
from d4s.editors.families import build
from d4s.editors.ledger import read_state
from d4s.editors.protocol import Prepared
from d4s.editors.weights import apply_deltas
from d4s.facts.record import to_rows
from d4s.models.loading import load
from d4s.models.tokens import encode
from d4s.pretraining.kept_models import kept_name
from d4s.runs import robustness_stage
from d4s.runs.prepared_parts import load_prepared
from d4s.runs.robustness_stage import ordinary, robustness, views
from d4s.runs.run_settings import RobustnessJobSettings
from d4s.schemas import FACTS, ROBUSTNESS
from tests import cases
from tests.baselines import make_baseline
from tests.runs import SEED, run, settings_for
from tests.tiny import tiny_facts, tiny_model

FACT_COUNT, ASKED = 12, RobustnessSettings(facts=5)
SHARES = (0.0, 0.4, 1.0)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model with two others kept on its way, facts, text, and a finished run of fine-tuning."""
    root = tmp_path_factory.mktemp("store")
    model = tiny_model()
    model.network.save_pretrained(root / "model")
    model.tokenizer.save_pretrained(root / "model")
    own = {name: parameter.detach() for name, parameter in model.network.named_parameters()}
    for step, share in ((10, 0.5), (20, 1.0)):
        write_tensors(root / "model" / kept_name(step), {name: share * tensor for name, tensor in own.items()})
    StageJob("models", PretrainSettings(), {}, root / "model").write_manifest([kept_name(10), kept_name(20)])
    write_table(root / "facts" / "facts.parquet", to_rows(tiny_facts(FACT_COUNT)), FACTS)
    StageJob("facts", FactsSettings(source="tiny"), {}, root / "facts").write_manifest(["facts.parquet"])
    rows = [encode(model, "Ada Moss lives in the city of Paris ."), encode(model, "Ben Reed works as a pilot , is yes")]
    write_tensors(root / "text" / "heldout.safetensors", {"rows": torch.tensor(rows, dtype=torch.int32)})
    StageJob("corpora", CorpusSettings(), {}, root / "text").write_manifest(["heldout.safetensors"])
    found = {name: root / name for name in ("model", "facts", "text")}
    found["baseline"] = make_baseline(found, root / "baseline", FACT_COUNT, seed=SEED)
    run(found, root / "run", "ft_m", 2, 4)
    return found | {"run": root / "run"}


def job(inputs: dict[str, Path], folder: Path, *lengths: int, **changes: Any) -> StageJob[RobustnessJobSettings]:
    folder.mkdir(exist_ok=True)
    chosen: dict[str, Any] = {"robustness": ASKED, "shares": SHARES} | changes
    settings = RobustnessJobSettings(editor=settings_for("ft_m").editor, seed=SEED, **chosen)
    return StageJob("robustness", settings, inputs, folder, tuple(f"n{length}.json" for length in lengths), digest="0123456789")


def answers(folder: Path, length: int) -> pd.DataFrame:
    return Artifact.open(folder, "robustness", f"n{length}.json").table(f"n{length}.robustness.parquet", ROBUSTNESS)


def test_every_share_is_asked_about_general_and_edited_facts(inputs: dict[str, Path], tmp_path: Path) -> None:
    robustness(job(inputs, tmp_path / "r", 2, 4))
    for length in (2, 4):
        found = answers(tmp_path / "r", length)
        assert set(found["share"]) == set(SHARES) and set(found["step"]) == {length} and found["training_steps"].isna().all()
        counts = found[found["shift"] == "clean"].groupby(["share", "group"])["fact_id"].nunique().unstack()
        assert (counts["general"] == ASKED.facts).all() and (counts["edited"] == length).all() and (counts["text"] == 2).all()
    losses = found[(found["group"] == "edited") & (found["shift"] == "clean")].groupby("share")["nll"].mean()
    assert losses[1.0] < losses[0.4] < losses[0.0]


def test_what_is_there_is_not_asked_again(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    robustness(job(inputs, tmp_path / "r", 2))
    before = (tmp_path / "r" / "n2.robustness.parquet").read_bytes()
    monkeypatch.setattr(robustness_stage, "load", None)
    robustness(job(inputs, tmp_path / "r", 2))
    assert (tmp_path / "r" / "n2.robustness.parquet").read_bytes() == before


def test_the_ends_of_the_way_are_the_original_bits_and_the_states_own(inputs: dict[str, Path]) -> None:
    model, settings = load(inputs["model"]), settings_for("ft_m").editor
    editor, before = build(settings), model.weight(1).clone()
    state, prepared = read_state(inputs["run"], 4, editor), load_prepared(inputs, settings)
    found = {share: model.weight(1).clone() for share, _ in views(model, editor, prepared, state, (0.0, 0.25, 1.0))}
    tuned = state.dense["1.weight"]
    assert torch.equal(found[0.0], before) and torch.equal(found[1.0], tuned) and not torch.equal(before, tuned)
    torch.testing.assert_close(found[0.25], 0.75 * before + 0.25 * tuned, rtol=1e-6, atol=1e-7)
    assert torch.equal(model.weight(1), before)


def test_editors_that_change_no_weights_have_both_ends_alone(inputs: dict[str, Path]) -> None:
    model, editor, prepared = load(inputs["model"]), build(cases.settings_for("grace")), Prepared()
    assert [share for share, _ in views(model, editor, prepared, editor.start(model, prepared), (0.0, 0.25, 1.0))] == [1.0, 0.0]


def test_ordinary_models_are_the_unedited_one_and_those_kept(inputs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    work = StageJob("ordinary", OrdinaryJobSettings(seed=SEED, **ASKED.model_dump()), inputs, tmp_path / "o")
    model = work.read_once("model", load)
    before = {name: parameter.clone() for name, parameter in model.network.named_parameters()}
    ordinary(work)
    found = Artifact.open(tmp_path / "o", "ordinary").table("ordinary.parquet", ROBUSTNESS)
    assert set(found["group"]) == {"general", "text"} and set(found["step"]) == {0}
    unedited, last = found[found["share"] == 0.0], found[found["training_steps"] == 20]
    assert len(unedited) == len(last) == len(found) / 3
    assert (unedited["nll"].to_numpy() == last["nll"].to_numpy()).all()
    assert (unedited["nll"].to_numpy() != found[found["training_steps"] == 10]["nll"].to_numpy()).any()
    assert all(torch.equal(before[name], parameter) for name, parameter in model.network.named_parameters())


def test_the_original_end_answers_as_the_ordinary_model(inputs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    ordinary(StageJob("ordinary", OrdinaryJobSettings(seed=SEED, **ASKED.model_dump()), inputs, tmp_path / "o"))
    robustness(job(inputs, tmp_path / "r", 2))
    unedited = Artifact.open(tmp_path / "o", "ordinary").table("ordinary.parquet", ROBUSTNESS).query("share == 0")
    original = answers(tmp_path / "r", 2).query("share == 0 and group != 'edited'")
    keys = ["group", "shift", "fact_id", "nll"]
    pd.testing.assert_frame_equal(original[keys].reset_index(drop=True), unedited[keys].reset_index(drop=True))


def test_a_fixed_share_of_interpolation_is_the_view_at_that_share(inputs: dict[str, Path]) -> None:
    model = load(inputs["model"])
    plain, fixed = (
        settings_for("ft_m", **changes).editor
        for changes in ({}, {"delta_transform": {"kind": "interpolate", "by": "fixed", "share": 0.3}})
    )
    state, prepared = read_state(inputs["run"], 4, build(plain)), load_prepared(inputs, plain)
    with build(fixed).edited(model, prepared, state):
        interpolated = model.weight(1).clone()
    change = state.dense["1.weight"].double() - model.weight(1).double()
    with apply_deltas(model, {1: 0.3 * change}):
        assert torch.equal(model.weight(1), interpolated)

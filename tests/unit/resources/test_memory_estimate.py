"""Terms of memory that only some methods and studies have, each by its formula."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from transformers import GPT2Config

from d4s.apply.apply_memory import estimate_editing
from d4s.apply.apply_pipeline import build_manifest, resolve_preset
from d4s.apply.base_model import BaseModelSource
from d4s.apply.edited_folder import EditedFolder
from d4s.apply.hparams_match import model_shape
from d4s.apply.prompt_builder import PromptBuilder
from d4s.config import MeasureSettings
from d4s.editors.editor_settings import Unedited, resolve
from d4s.editors.family_settings import ModelPasses
from d4s.editors.least_squares_settings import LocateThenEdit
from d4s.editors.parts.input_settings import BasisSettings, PrepareSettings
from d4s.editors.parts.preservations import NullSpacePreservation
from d4s.editors.parts.sphere import main_directions
from d4s.models.loading import load
from d4s.models.model_shape import Shape
from d4s.resources import memory_estimate, work_estimate
from d4s.resources.capacity import DoesNotFit, Machine, check_capacity, this_machine
from d4s.resources.job_estimates import JobEstimate, ResourceEstimates
from d4s.resources.machine_speed import Speed
from d4s.resources.memory_estimate import ModelPlacement, PromptSizes
from d4s.resources.requirements import GIB, MOVABLE_PARTS, STUDY_REMEDIES, Requirements, Work
from d4s.resources.rule_resources import RuleResourceTable
from d4s.study.resolve import resolve as resolve_study
from d4s.study.rule_lookups import RuleLookups
from d4s.study_settings import Study
from tests.applying import fact_file, options, saved_model

ROOT = Path(__file__).resolve().parents[3]
SMALL = Shape("gpt2", 12, 768, 3072, 12, 12, 64, 50_257, 1024, is_gated=False, is_tied=True)
HOST, DEVICE, AWAY = (
    ModelPlacement(SMALL),
    ModelPlacement(SMALL, on_device=True),
    ModelPlacement(SMALL, on_device=True, has_state_on_host=True),
)
WIDE = ModelPlacement(
    Shape("gpt2", 12, 768, 30_720, 12, 12, 64, 1000, 1024, is_gated=False, is_tied=True)
)  # its temporaries outweigh all passes
SQUARE, MATRIX = 8 * SMALL.mlp_width**2, 8 * SMALL.mlp_out
PROMPTS = PromptSizes()
MEASURE = MeasureSettings()


def _settings(editor: str, **changes: Any) -> LocateThenEdit:
    found = resolve(editor, {}, "gpt2-xl").model_copy(update=changes)
    assert isinstance(found, LocateThenEdit)
    return found


def _read(requests: int) -> float:
    return HOST.activations(requests * PROMPTS.per_request * PROMPTS.tokens)


# --- methods that are measured through a session, and passes over many requests ---------------------------------------


@pytest.mark.parametrize("asked", [MEASURE, None], ids=["measure", "benchmark"])
@pytest.mark.parametrize("editor", ["lyaplock", "d4s_refreshed"])
def test_a_session_that_is_opened_to_measure_holds_all_that_it_edits_with(editor: str, asked: MeasureSettings | None) -> None:
    settings = _settings(editor)
    host, _ = memory_estimate.measure(HOST, settings, 1200, PROMPTS, asked)
    held = settings.held_bytes(SMALL, 4, 1200)
    assert host["state"] == held["state"] > 2 * len(settings.layers) * SQUARE
    assert host["moments"] == len(settings.layers) * SQUARE
    _, device = memory_estimate.measure(DEVICE, settings, 1200, PROMPTS, asked)
    assert device["state"] == held["state"]


def test_the_temporaries_of_such_a_session_are_its_own() -> None:
    host, _ = memory_estimate.measure(WIDE, _settings("lyaplock"), 10, PROMPTS, None)
    assert host["temporaries"] == 8 * (2 * WIDE.shape.mlp_width**2 + 3 * WIDE.shape.mlp_out)


def test_other_methods_are_measured_by_their_change_alone() -> None:
    for editor in ("memit", "memit_seq", "d4s", "alphaedit"):
        settings = _settings(editor)
        assert memory_estimate.measure(HOST, settings, 1200, PROMPTS, MEASURE)[0]["state"] == len(settings.layers) * 2 * MATRIX


@pytest.mark.parametrize(("edits", "refreshed"), [(1000, 1000), (1049, 1000), (1050, 1050)])
def test_a_refresh_reads_all_requests_up_to_it_in_one_pass(edits: int, refreshed: int) -> None:
    settings = _settings("d4s_refreshed")
    for host, _ in (memory_estimate.edit(HOST, settings, edits, PROMPTS), memory_estimate.measure(HOST, settings, edits, PROMPTS, MEASURE)):
        assert host["whole batch"] == _read(refreshed)
        assert "activations" not in host
    assert "whole batch" not in memory_estimate.edit(HOST, settings, settings.keys.every - 1, PROMPTS)[0]
    assert "whole batch" not in memory_estimate.edit(HOST, _settings("d4s"), edits, PROMPTS)[0]


def test_a_refresh_is_due_after_so_many_steps_of_a_batch() -> None:
    settings = _settings("d4s_refreshed", batch=10)
    assert memory_estimate.edit(HOST, settings, 990, PROMPTS)[0]["whole batch"] == _read(500)


def test_a_batch_is_read_in_one_pass() -> None:
    assert memory_estimate.edit(HOST, _settings("d4s", batch=500), 1000, PROMPTS)[0]["whole batch"] == _read(500)
    once = resolve("one_time_batch", {}, "gpt2-xl")
    assert memory_estimate.measure(HOST, once, 1000, PROMPTS, MEASURE)[0]["whole batch"] == _read(1000)
    assert "whole batch" not in memory_estimate.edit(HOST, once, 1000, PROMPTS)[0]


# --- free directions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("editor", ["alphaedit", "nas", "sphere"])
def test_a_basis_is_held_where_it_is_read_and_where_solvers_are(editor: str) -> None:
    settings = _settings(editor)
    bases = len(settings.layers) * SQUARE
    assert memory_estimate.edit(HOST, settings, 100, PROMPTS)[0]["basis"] == bases
    host, device = memory_estimate.edit(DEVICE, settings, 100, PROMPTS)
    assert host["basis"] == device["basis"] == bases
    host, device = memory_estimate.edit(AWAY, settings, 100, PROMPTS)
    assert host["basis"] == bases and "basis" not in device


@pytest.mark.parametrize("editor", ["memit", "memit_seq", "d4s", "rome", "rome_identity"])
def test_there_is_no_basis_without_a_null_space(editor: str) -> None:
    assert "basis" not in memory_estimate.edit(DEVICE, _settings(editor), 100, PROMPTS)[0]
    assert "basis" not in memory_estimate.measure(HOST, _settings(editor), 100, PROMPTS, None)[0]


def test_a_refit_within_a_null_space_reads_bases_to_be_measured() -> None:
    free = NullSpacePreservation(threshold=0.02)
    settings = _settings("d4s", preservation=free)
    host, device = memory_estimate.measure(DEVICE, settings, 100, PROMPTS, None)
    assert host["basis"] == len(settings.layers) * SQUARE and "basis" not in device
    plain, within = (memory_estimate.measure(WIDE, one, 100, PROMPTS, None)[0]["temporaries"] for one in (_settings("d4s"), settings))
    assert within - plain == 8 * WIDE.shape.mlp_width**2
    _, device = memory_estimate.measure(DEVICE, _settings("d4s_refreshed", preservation=free), 100, PROMPTS, None)
    assert device["basis"] == len(settings.layers) * SQUARE


def test_directions_of_sphere_are_no_more_than_rows_of_the_weight() -> None:
    settings = _settings("sphere")
    more = settings.held_bytes(SMALL, 4, 0)["state"] - _settings("alphaedit").held_bytes(SMALL, 4, 0)["state"]
    assert more == len(settings.layers) * MATRIX
    assert main_directions(torch.eye(4, 16), 0.999).shape == (16, 4)


def test_what_a_plan_can_move_it_can_lower() -> None:
    assert set(STUDY_REMEDIES.settings) >= MOVABLE_PARTS


# --- solvers and targets ----------------------------------------------------------------------------------------------


def _squares(editor: str, edits: int, **changes: Any) -> float:
    return (_settings(editor, **changes).held_bytes(SMALL, 4, edits)["temporaries"] - 3 * MATRIX) / SQUARE


@pytest.mark.parametrize("editor", ["memit_seq", "alphaedit", "d4s", "simie"])
def test_a_solver_that_is_factored_afresh_takes_three_squares(editor: str) -> None:
    assert _squares(editor, 1000) == 3 and _squares(editor, 999) == 1
    assert _squares(editor, 9990, batch=10) < 3 and _squares(editor, 10_000, batch=10) == 3


@pytest.mark.parametrize(
    ("editor", "changes", "squares"),
    [
        ("memit", {}, 1),
        ("rome", {}, 1),
        ("d4s_refreshed", {}, 1),
        ("lyaplock", {}, 2),
        ("ote_se", {}, 2),
        ("nse", {"neurons": 0.8}, 2),
        ("memit_seq", {"batch": SMALL.mlp_width // 4}, 1),
    ],
)
def test_what_holds_no_recursive_solver_is_never_factored_afresh(editor: str, changes: Mapping[str, Any], squares: int) -> None:
    assert _squares(editor, 10**7, **changes) == squares


def test_a_long_sequence_takes_them_while_it_is_edited() -> None:
    short, long = (memory_estimate.edit(HOST, _settings("memit_seq"), edits, PROMPTS)[0]["temporaries"] for edits in (999, 1000))
    assert long - short == 2 * SQUARE


def test_joint_targets_of_the_edited_model_start_a_block_earlier() -> None:
    pmet = resolve("pmet", {}, "gpt-j-6b").model_copy(update={"batch": 40})
    assert isinstance(pmet, LocateThenEdit) and pmet.target.at == "current"
    found = memory_estimate.edit(HOST, pmet, 40, PROMPTS)[0]
    wanted = memory_estimate.targets(HOST, pmet.target.layer, PROMPTS, 40, parts=2)[0]
    assert (found["activations"], found["cache"]) == (wanted["activations"], wanted["cache"])
    assert found["activations"] > memory_estimate.targets(HOST, pmet.target.layer, PROMPTS, 40)[0]["activations"]


def test_only_requests_that_are_alike_share_a_pass() -> None:
    some = PromptSizes(alike=0.3)
    assert [memory_estimate.at_once(HOST, sizes, 50) for sizes in (PROMPTS, some)] == [50, 15]
    assert memory_estimate.at_once(HOST, some, 1) == 1
    few, all_ = (memory_estimate.targets(HOST, 4, sizes)[0] for sizes in (some, PROMPTS))
    assert few["activations"] == pytest.approx(0.3 * all_["activations"])


def test_every_head_keeps_the_keys_and_values_that_it_attends_to() -> None:
    shared = ModelPlacement(replace(SMALL, kv_heads=2))
    kept, of_shared = (memory_estimate.targets(one, 4, PROMPTS)[0] for one in (HOST, shared))
    assert kept["activations"] == of_shared["activations"] and kept["cache"] == 6 * of_shared["cache"]


# --- families ---------------------------------------------------------------------------------------------------------


class Searching(Unedited):
    """A family that plans do not know: it searches a layer with gradients, and holds an index."""

    @property
    def layers(self) -> tuple[int, ...]:
        return (3,)

    @property
    def is_measured(self) -> bool:
        return True

    def held_bytes(self, shape: Shape, item: int, edits: int) -> dict[str, float]:
        return {"index": 1e6 * edits}

    def gradient_tokens(self, shape: Shape, tokens: int) -> int:
        return 100 * tokens

    def edit_passes(self, shape: Shape, edits: int, wordings: int, tokens: int) -> list[ModelPasses]:
        return [ModelPasses(tokens, 1, 7 * edits)]


def test_a_family_says_what_its_steps_take() -> None:
    searching, plain = Searching(), Unedited()
    host, _ = memory_estimate.edit(HOST, searching, 10, PROMPTS)
    assert host["index"] == 1e7
    assert host["activations"] == HOST.activations(100 * PROMPTS.tokens) * SMALL.layers
    assert memory_estimate.measure(HOST, searching, 10, PROMPTS, MEASURE)[0]["state"] == 2 * MATRIX
    passes = work_estimate.edit(HOST, searching, 10, PROMPTS).single - work_estimate.edit(HOST, plain, 10, PROMPTS).single
    assert passes == pytest.approx(work_estimate.forward(HOST, PROMPTS.tokens).single * 70)
    assert work_estimate.edit(HOST, searching, 10, PROMPTS).double == 10 * 4 * SMALL.mlp_out
    assert work_estimate.measure(HOST, searching, [10], PROMPTS, MEASURE).single > 0
    assert work_estimate.measure(HOST, plain, [10], PROMPTS, MEASURE) == Work()


# --- studies ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with a configuration, and the data that a study of it asks for."""
    text = tmp_path / "data" / "wikitext2_raw_test" / "wikitext2_raw_test.jsonl"
    text.parent.mkdir(parents=True)
    text.touch()
    monkeypatch.setenv("D4S_DATA", str(tmp_path / "data"))
    GPT2Config(n_layer=48, n_embd=1600, n_head=25, n_positions=1024, vocab_size=50257).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def _estimates(model: str, editor: str, device_map: str | None) -> ResourceEstimates:
    row = {"models": ["real"], "datasets": ["world_qa"], "editors": [editor], "lengths": [10]}
    real = {"source": "hf", "hparams_for": "gpt2-xl", "path": model, "device_map": device_map}
    settings = yaml.safe_load((ROOT / "params.yaml").read_text()) | {
        "models": {"real": real}, "grid": [row], "editors": {"anchored": {"preset": "memit", "anchor": {"requests": 200}}}
    }  # fmt: skip
    return ResourceEstimates(resolve_study(Study.model_validate(settings)), has_device=device_map is not None)


def _preparing(estimates: ResourceEstimates) -> JobEstimate:
    (found,) = (job for job in estimates.jobs if job.node.stage == "prepare")
    return found


def _gpu(estimates: ResourceEstimates, job: JobEstimate) -> int:
    return RuleResourceTable(RuleLookups(estimates.plan)).of(job.node.name).gpu


def test_an_anchor_is_prepared_with_the_model(model: str) -> None:
    estimates = _estimates(model, "nas", "auto")
    job = _preparing(estimates)
    settings, placed = (
        resolve("nas", {}, "gpt2-xl"),
        ModelPlacement(Shape("gpt2", 48, 1600, 6400, 25, 25, 64, 50_257, 1024, False, True), on_device=True),
    )
    alone = PromptSizes(1, *(getattr(estimates.prompt_sizes(job.node), name) for name in ("tokens", "after_subject")))
    optimised = memory_estimate.targets(placed, settings.layers[-1], alone, 1000)[1]
    assert job.on_device and _gpu(estimates, job) == 1
    assert job.requirements.device == optimised and {"weights", "cache", "activations"} == set(optimised)
    assert job.requirements.host["moments"] == 2 * len(settings.layers) * 8 * 6400**2
    assert job.requirements.host["temporaries"] == 4 * 8 * 6400**2


def test_an_anchor_on_the_host_holds_either_a_decomposition_or_a_pass(model: str) -> None:
    host = _preparing(_estimates(model, "nas", None)).requirements.host
    assert host["weights"] > 6 * 10**9 and {"cache", "activations"} <= set(host) and "temporaries" not in host
    few = memory_estimate.prepare(HOST, PrepareSettings(basis=BasisSettings(layers=tuple(range(5)), threshold=0.02)), PROMPTS)[0]
    assert set(few) == {"process", "moments", "temporaries"}


def test_an_anchor_alone_needs_no_moments_prepared(model: str) -> None:
    job = _preparing(_estimates(model, "anchored", None))
    assert job.requirements.host["moments"] == 0 and job.requirements.host["weights"] > 6 * 10**9
    assert job.requirements.work.double == 0 < job.requirements.work.single


def test_a_basis_is_prepared_without_the_model(model: str) -> None:
    estimates = _estimates(model, "alphaedit", "auto")
    job = _preparing(estimates)
    assert set(job.requirements.host) == {"process", "moments", "temporaries"} and not job.requirements.device
    assert job.requirements.work.single == 0 and _gpu(estimates, job) == 0


def test_eigenvectors_take_the_time_of_the_host(model: str) -> None:
    job = _preparing(_estimates(model, "nas", "auto"))
    slow, fast = Speed(1e10, 1e10, 0.0), Speed(1e13, 1e13, 0.0)
    took = job.requirements.work.double / slow.double
    assert took > 1000 and job.seconds(slow, fast) == pytest.approx(8.0 + took + job.requirements.work.single / fast.single)


# --- several devices --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device_map", "is_sharded"), [("auto", True), ("balanced", True), ("sequential", True), ("cuda:0", False), (None, False)]
)
def test_a_study_says_whether_its_model_takes_all_devices(model: str, device_map: str | None, is_sharded: bool) -> None:
    jobs = {job.node.stage: job for job in _estimates(model, "memit", device_map).jobs}
    assert jobs["edit"].requirements.is_sharded is is_sharded
    assert not jobs["facts"].requirements.is_sharded


def test_all_visible_devices_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [24 * GIB, 40 * GIB]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(sizes))
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (GIB, sizes[0]))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda number: SimpleNamespace(total_memory=sizes[number]))
    found = this_machine()
    assert (found.device, found.devices) == (24 * GIB, 64 * GIB)
    assert this_machine(8, 16) == Machine(8 * GIB, 16 * GIB, 16 * GIB)
    assert this_machine(asks_device=False).devices is None


def test_only_a_model_that_is_spread_may_take_all_of_them() -> None:
    machine, parts = Machine(GIB, 24 * GIB, 48 * GIB), {"weights": 30 * GIB}
    check_capacity([("edit a", Requirements({}, parts, is_sharded=True))], machine)
    with pytest.raises(DoesNotFit, match=r"30\.0 GiB of device memory and there are 24\.0"):
        check_capacity([("edit a", Requirements({}, parts))], machine)
    with pytest.raises(DoesNotFit, match=r"there are 24\.0"):
        check_capacity([("edit a", Requirements({}, parts, is_sharded=True))], Machine(GIB, 24 * GIB))


@pytest.mark.parametrize(
    ("editor", "steps"),
    [
        ("memit", ["second moments", "edits", "what comes out"]),
        ("alphaedit", ["second moments", "what the editor prepares", "edits", "what comes out"]),
    ],
)
def test_applying_names_each_step_that_takes_memory(editor: str, steps: list[str], tmp_path: Path) -> None:
    base = saved_model(tmp_path / "base")
    changes = {"layers": [0, 1], "target": {"layer": 1}}
    asked = options(base, fact_file(tmp_path / "facts.csv"), tmp_path / "out", editor, overrides=changes)
    model = load(base)
    base_model = BaseModelSource.of(asked.model, "float32", "main").pinned()
    settings = resolve_preset(asked.editor, asked.overrides, str(asked.hparams_for), model_shape(model))
    manifest = build_manifest(asked, base_model, settings, None)
    needed = dict(estimate_editing(EditedFolder.create(asked.out, manifest, PromptBuilder(model, None)), asked.text, 2))
    assert list(needed) == steps
    assert ("basis" in needed["edits"].host) == (editor == "alphaedit")

"""What jobs are foreseen to need: sizes from configurations, memory that grows with what it should, and refusals that say what to do."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, GPT2Config, GPTJConfig, GPTNeoConfig, LlamaConfig, Qwen2Config

from d4s.artifacts import MANIFEST
from d4s.editors.editor_settings import resolve
from d4s.editors.least_squares_settings import LocateThenEdit
from d4s.models.model_shape import Shape, UnknownShape, shape_at, shape_of
from d4s.resources import capacity, memory_estimate
from d4s.resources.capacity import DoesNotFit, Machine, check_capacity
from d4s.resources.job_estimates import ResourceEstimates
from d4s.resources.machine_estimates import MachineEstimates
from d4s.resources.machine_speed import Speed
from d4s.resources.memory_estimate import ModelPlacement, PromptSizes
from d4s.resources.requirements import GIB, MIB, STUDY_REMEDIES, Requirements, Work
from d4s.resources.rule_resources import GATHERING_MB, SNAKEMAKE_MB, UNKNOWN_MODEL_MB, RuleResources, RuleResourceTable
from d4s.study.plan import StudyPlan
from d4s.study.resolve import resolve as resolve_study
from d4s.study.rule_lookups import RuleLookups
from d4s.study_settings import Study

ROOT = Path(__file__).resolve().parents[3]
EMBEDDED_GRIDS = [
    path for path in sorted((ROOT / "grids").glob("*.yaml")) if not re.search(r"source: (hf|counterfact|zsre)|real:", path.read_text())
]
UNTIED = {"tie_word_embeddings": False}
CONFIGS = {
    "gpt2-xl": GPT2Config(n_layer=48, n_embd=1600, n_head=25, n_positions=1024, vocab_size=50257),
    "gpt-j-6b": GPTJConfig(n_layer=28, n_embd=4096, n_head=16, n_positions=2048, vocab_size=50400, **UNTIED),
    "llama2-7b": LlamaConfig(vocab_size=32000, num_hidden_layers=32, hidden_size=4096, intermediate_size=11008, **UNTIED),
    "llama3-8b": LlamaConfig(
        vocab_size=128256, num_hidden_layers=32, hidden_size=4096, intermediate_size=14336, num_key_value_heads=8, **UNTIED
    ),
    "qwen2.5-7b": Qwen2Config(
        vocab_size=152064, num_hidden_layers=28, hidden_size=3584, intermediate_size=18944, num_attention_heads=28,
        num_key_value_heads=4, **UNTIED
    ),
}  # fmt: skip
SMALL = Shape("gpt2", 12, 768, 3072, 12, 12, 64, 50_257, 1024, is_gated=False, is_tied=True)
SPEED = Speed(single=1e10, double=1e10, call=1e-3)


def _study(**changes: Any) -> Study:
    return Study.model_validate(yaml.safe_load((ROOT / "params.yaml").read_text()) | changes)


def _real(path: str, **more: Any) -> Study:
    model = {"source": "hf", "hparams_for": "gpt2-xl", "path": path, **more}
    row = {"models": ["real"], "datasets": ["world_qa"], "editors": ["memit", "d4s"], "lengths": [10]}
    return _study(models={"real": model}, grid=[row])


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_alone_gives_the_number_of_weights(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    shape = shape_at(str(tmp_path))
    assert shape.parameters == pytest.approx(network.num_parameters(), rel=0.002)
    assert (shape.layers, shape.vocabulary) == (config.num_hidden_layers, config.vocab_size)


def test_a_configuration_without_sizes_is_refused_by_name() -> None:
    with pytest.raises(UnknownShape, match="does not say width, heads"):
        shape_of({"model_type": "odd", "n_layer": 2, "vocab_size": 3, "n_positions": 4})


def test_sizes_are_found_under_the_names_that_architectures_give_them() -> None:
    config = GPTNeoConfig(num_layers=3, hidden_size=32, num_heads=4, attention_types=[[["global"], 3]], vocab_size=100)
    shape = shape_of(config.to_dict())
    assert (shape.layers, shape.width, shape.heads, shape.mlp_width, shape.is_gated) == (3, 32, 4, 128, False)


def test_the_smallest_limit_of_all_groups_around_a_process_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "groups" / "slurm" / "job_7" / "step"
    inner.mkdir(parents=True)
    for folder, limit in ((tmp_path / "groups" / "slurm", "max"), (inner.parent, str(5 * MIB)), (inner, "max")):
        (folder / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "own").write_text("0::/slurm/job_7/step\n")
    monkeypatch.setattr(capacity, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(capacity, "OWN_GROUP", tmp_path / "own")
    assert capacity.host_memory() == 5 * MIB


def test_a_hub_model_that_was_never_fetched_is_told_how_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UnknownShape, match=r"hf download nobody/nothing config\.json"):
        shape_at("nobody/nothing")
    with pytest.raises(UnknownShape, match=r"config\.json --revision v2$"):
        shape_at("nobody/nothing", "v2")
    with pytest.raises(UnknownShape, match=r"\./models/gpt2 is neither a folder with a config\.json nor a hub id"):
        shape_at("./models/gpt2")


def _parts(editor: str, **changes: Any) -> dict[str, float]:
    settings = resolve(editor, {}, "gpt2-xl").model_copy(update=changes)
    return settings.held_bytes(SMALL, 4, 0)


@pytest.mark.parametrize("editor", ["memit", "memit_seq", "d4s", "rome", "alphaedit", "nse", "encore"])
def test_solvers_hold_two_squares_of_float64_per_layer(editor: str) -> None:
    settings = resolve(editor, {}, "gpt2-xl")
    assert isinstance(settings, LocateThenEdit)
    square, matrix = 8 * SMALL.mlp_width**2, SMALL.mlp_out
    assert _parts(editor)["state"] / len(settings.layers) == 2 * square + matrix * (8 + 2 * 4)


def test_what_methods_hold_beyond_that_is_counted() -> None:
    assert _parts("lyaplock")["state"] - _parts("memit")["state"] == 5 * 8 * SMALL.mlp_out  # products of keys with residuals, no inverse
    assert _parts("simie")["state"] > _parts("memit")["state"]
    assert _parts("d4s_refreshed")["state"] == 2 * _parts("d4s")["state"]


def test_a_device_takes_the_model_and_the_host_what_is_read() -> None:
    editor = resolve("d4s", {}, "gpt2-xl")
    host, device = memory_estimate.edit(ModelPlacement(SMALL), editor, 100, PromptSizes())
    assert not device and {"weights", "moments", "state"} <= set(host)
    host, device = memory_estimate.edit(ModelPlacement(SMALL, on_device=True), editor, 100, PromptSizes())
    assert {"weights", "state"} <= set(device) and "moments" in host and "weights" not in host
    host, device = memory_estimate.edit(ModelPlacement(SMALL, on_device=True, has_state_on_host=True), editor, 100, PromptSizes())
    assert "state" in host and "state" not in device and "weights" in device


def test_half_precision_halves_the_weights() -> None:
    assert ModelPlacement(SMALL, "bfloat16").weights * 2 == ModelPlacement(SMALL).weights


def test_every_job_that_cannot_fit_is_named_with_what_to_lower() -> None:
    jobs = [
        ("edit a", Requirements({"weights": 3.0 * GIB})),
        ("edit b", Requirements({"process": GIB})),
        ("measure c", Requirements({}, {"state": 9.0 * GIB})),
    ]
    with pytest.raises(DoesNotFit) as caught:
        check_capacity(jobs, Machine(host=2.0 * GIB, device=8.0 * GIB))
    text = str(caught.value)
    assert "2 job(s)" in text and "edit b" not in text
    assert "edit a needs 3.0 GiB of memory and there are 2.0" in text and "bfloat16" in text
    assert "measure c needs 9.0 GiB of device memory" in text and "execution.state_device" in text
    check_capacity(jobs, Machine(host=4.0 * GIB, device=10.0 * GIB))


def test_what_nothing_lowers_is_said() -> None:
    assert STUDY_REMEDIES.advice({"process": 1.0}) == "nothing can be lowered"


# --- studies ----------------------------------------------------------------------------------------------------------


def test_every_artefact_has_its_jobs_and_shards_share_them() -> None:
    plan = resolve_study(_study(execution={"shards": {"moments": 3}}))
    estimates = ResourceEstimates(plan, has_device=False)
    assert {job.node.name for job in estimates.jobs} == {node.name for node in plan.nodes}
    assert sum(job.node.stage == "moments" for job in estimates.jobs) == 3
    assert all(job.requirements.host_bytes > 100 * MIB for job in estimates.jobs)
    later = {"targets", "measure", "benchmark"}  # made by a process that has begun for something else
    assert all(job.seconds(SPEED, SPEED) > 1 for job in estimates.jobs if job.node.stage not in later)


def test_the_seams_need_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from d4s.study_settings import load_study; from d4s.study.resolve import resolve;"
        "from d4s.resources.rule_resources import RuleResourceTable; from d4s.study.rule_lookups import RuleLookups;"
        "plan = resolve(load_study(Path('params.yaml')));"
        "RuleResourceTable(RuleLookups(plan)).of(plan.nodes[0].name); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "data" / "wikitext2_raw_test" / "wikitext2_raw_test.jsonl"
    text.parent.mkdir(parents=True)
    text.touch()
    monkeypatch.setenv("D4S_DATA", str(tmp_path / "data"))


def _asked(plan: StudyPlan, stage: str) -> RuleResources:
    """What the first job of a stage asks of Snakemake."""
    return RuleResourceTable(RuleLookups(plan)).of(plan.of(stage)[0].name)


def test_a_job_asks_for_what_is_made_ahead_in_its_process_too() -> None:
    plan = resolve_study(_study())
    table, lookups = RuleResourceTable(RuleLookups(plan)), RuleLookups(plan)
    for run in plan.of("edit"):
        ahead = [table.of(node.name) for node in lookups.ahead(run.name)]
        assert table.of(run.name).mem_mb >= max(one.mem_mb for one in ahead)
        assert table.of(run.name).runtime > sum(one.runtime for one in ahead)


def test_a_job_that_gathers_shards_asks_for_little_and_a_shard_for_all() -> None:
    plan = resolve_study(_study(execution={"shards": {"moments": 3}}))
    (node,) = plan.of("moments")
    table = RuleResourceTable(RuleLookups(plan))
    assert table.of(node.name).mem_mb == GATHERING_MB + SNAKEMAKE_MB < table.of(node.name, is_shard=True).mem_mb


def test_rules_ask_for_a_device_where_the_study_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _data(tmp_path, monkeypatch)
    CONFIGS["gpt2-xl"].save_pretrained(tmp_path / "model")
    asked = []
    for more in ({}, {"device_map": "auto"}):
        plan = resolve_study(_real(str(tmp_path / "model"), **more))
        asked.append(_asked(plan, "edit"))
    here, there = asked
    assert (here.gpu, there.gpu) == (0, 1)
    assert here.mem_mb > 6000 and here.mem_mb > there.mem_mb


def test_a_model_of_unknown_size_is_said_and_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _data(tmp_path, monkeypatch)
    plan = resolve_study(_real(str(tmp_path / "nowhere")))
    estimates = ResourceEstimates(plan, has_device=False)
    assert "no config.json" in estimates.unknown["real"]
    assert not any(job.node.stage == "edit" for job in estimates.jobs)
    assert _asked(plan, "edit").mem_mb == UNKNOWN_MODEL_MB + SNAKEMAKE_MB
    lines = list(MachineEstimates(estimates, Machine(GIB), SPEED, SPEED).lines())
    assert "nothing is foreseen for the jobs of model 'real'" in lines[-1]


def _machine_estimates() -> MachineEstimates:
    return MachineEstimates(ResourceEstimates(resolve_study(_study()), has_device=False), Machine(24.0 * GIB), SPEED, SPEED)


def test_what_was_measured_corrects_the_time_of_its_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = _machine_estimates()
    first, second = (job for job in plain.estimates.jobs if job.node.stage == "contexts")
    first.node.folder.mkdir(parents=True)
    (first.node.folder / MANIFEST).touch()
    took = 10 * plain.seconds(first)
    (first.node.folder / "costs.jsonl").write_text(json.dumps({"stage": "contexts", "wall_s": took, "peak_rss_mb": 500.0}) + "\n")
    found = _machine_estimates()
    assert found.seconds(second) == pytest.approx(10 * plain.seconds(second), rel=1e-6)
    assert [job["measured_peak_bytes"] for job in found.content()["jobs"] if job["artifact"] == first.node.name] == [500 * MIB]


def test_a_machine_that_is_too_small_is_refused_with_every_job_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tight = MachineEstimates(_machine_estimates().estimates, Machine(0.6 * GIB), SPEED, SPEED)
    with pytest.raises(DoesNotFit) as caught:
        tight.check_capacity()
    named = str(caught.value).splitlines()[1:]
    assert len(named) == sum(job.requirements.host_bytes > 0.6 * GIB for job in tight.estimates.jobs) > 3
    _machine_estimates().check_capacity()


def test_time_is_foreseen_for_what_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = {
        stage: next(
            job
            for job in _machine_estimates().estimates.jobs
            if job.node.stage == stage and len(job.manifests) > 2 and ".memit." in job.name
        )
        for stage in ("edit", "measure")
    }
    for job in before.values():
        job.node.folder.mkdir(parents=True)
        for manifest in sorted(job.manifests, key=lambda path: int(path.stem[1:]))[:-1]:
            manifest.touch()
    found = _machine_estimates()
    for stage, whole in before.items():
        job = next(job for job in found.estimates.jobs if job.node == whole.node)
        assert not job.is_done and job.seconds(SPEED, SPEED) == whole.seconds(SPEED, SPEED)
        assert 0 < found.seconds(job) < 0.9 * found.seconds(whole), stage
    longest = max(before["edit"].manifests, key=lambda path: int(path.stem[1:]))
    for manifest in before["edit"].manifests:
        manifest.unlink(missing_ok=True)
    longest.touch()
    edit = next(job for job in _machine_estimates().estimates.jobs if job.node == before["edit"].node)
    assert edit.remaining == Work()


@pytest.mark.parametrize("grid", EMBEDDED_GRIDS, ids=lambda grid: grid.stem)
def test_every_study_of_the_embedded_model_can_be_planned(grid: Path) -> None:
    plan = resolve_study(Study.model_validate(yaml.safe_load(grid.read_text()) | {"ignore_code_changes": True}))
    jobs = ResourceEstimates(plan, has_device=False).jobs
    assert {job.node.name for job in jobs} >= {node.name for node in plan.nodes if node.stage in {"pretrain", "edit", "edit_single"}}
    assert all(sum(job.requirements.host.values()) > 0 for job in jobs)

"""Targets and moments in shards: jobs that share a folder at once, the same bits for any number, resuming, provenance."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
import torch

from d4s.analysis.costs import cost_rows
from d4s.artifacts import Artifact, StageJob, write_json, write_table, write_tensors
from d4s.cli.stage_commands import ProcessTimes, _record_costs
from d4s.config import ContextsSettings, CorpusSettings, FactsSettings, MomentsSettings
from d4s.editors import target_optimisation as targets_stage
from d4s.editors.edit_requests import draw_requests
from d4s.editors.moments import collect_moments, moments, read_moments
from d4s.editors.parts.input_settings import TargetsJobSettings
from d4s.editors.parts.target_rule import TargetSettings
from d4s.editors.target_optimisation import read_targets, targets
from d4s.errors import ArtifactError
from d4s.facts.record import to_rows
from d4s.models.language_model import LanguageModel
from d4s.schemas import FACTS
from d4s.study.graph import Node
from d4s.study_settings import Study
from tests.oracle.plain import PREFIXES
from tests.tiny import tiny_facts, tiny_model

TARGETS = TargetsJobSettings(target=TargetSettings(layer=1, at="original", steps=3, clamp=2.0), seed=4)
LOADING = Lock()
Stage = Callable[[StageJob[Any]], None]


def text_rows(count: int) -> torch.Tensor:
    return torch.randint(2, 30, (count, 12), generator=torch.Generator().manual_seed(0), dtype=torch.int32)


def load_one_at_a_time(_folder: Path) -> LanguageModel:
    """A model of its own for each job; they are drawn from one global generator, which jobs in threads would share."""
    with LOADING:
        return tiny_model(layers=4)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setattr("d4s.editors.target_optimisation.load", load_one_at_a_time)
    monkeypatch.setattr("d4s.editors.moments.load", load_one_at_a_time)
    monkeypatch.setattr(targets_stage, "REQUESTS_PER_BLOCK", 2)
    write_table(tmp_path / "facts" / "facts.parquet", to_rows(tiny_facts(8)), FACTS)
    StageJob("facts", FactsSettings(source="tiny"), {}, tmp_path / "facts").write_manifest(["facts.parquet"])
    write_json(tmp_path / "contexts" / "contexts.json", {"contexts": PREFIXES})
    StageJob("contexts", ContextsSettings(), {}, tmp_path / "contexts").write_manifest(["contexts.json"])
    write_tensors(tmp_path / "text" / "tokens.safetensors", {"rows": text_rows(30)})
    StageJob("corpora", CorpusSettings(), {}, tmp_path / "text").write_manifest(["tokens.safetensors"])
    return {role: tmp_path / role for role in ("model", "facts", "contexts", "text")}


def whole_job(kind: str, inputs: dict[str, Path], folder: Path) -> tuple[Stage, StageJob[Any]]:
    """The stage of a kind and the one job that makes four blocks, or four layers."""
    stage, settings, letter = {"targets": (targets, TARGETS, "b"), "moments": (moments, MomentsSettings(batch_rows=8), "l")}[kind]
    return stage, StageJob(kind, settings, inputs, folder, tuple(f"{letter}{number}.json" for number in range(4)), digest="0123456789")


def shards(job: StageJob[Any], count: int) -> list[StageJob[Any]]:
    node = Node(job.kind, job.kind, "shared", {}, "", outputs=job.outputs)
    return [replace(job, outputs=tuple(path.name for path in manifests), input_cache={}) for manifests in node.shards(count)]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- who makes what ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2, 7, 12])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 20])
def test_shards_cover_everything_once_in_order_and_evenly(parts: int, count: int) -> None:
    node = Node("targets", "targets", "mini", {}, "", outputs=tuple(f"b{number}.json" for number in reversed(range(parts))))
    found = node.shards(count)
    assert [path.name for manifests in found for path in manifests] == [f"b{number}.json" for number in range(parts)]
    sizes = [len(manifests) for manifests in found]
    assert len(found) == min(count, parts) and max(sizes) - min(sizes) <= 1


def test_the_numbers_of_jobs_are_settings_that_enter_no_artefact() -> None:
    grid = [{"models": ["mini"], "datasets": ["facts"], "editors": ["memit"], "lengths": [10]}]
    study = {"study": "s", "models": {"mini": {"source": "world"}}, "datasets": {"facts": {"source": "world"}}, "grid": grid}
    chosen = Study.model_validate(study | {"execution": {"shards": {"targets": 3}}}).execution.shards
    assert (chosen.targets, chosen.moments) == (3, 1)
    with pytest.raises(ValueError, match="greater than 0"):
        Study.model_validate(study | {"execution": {"shards": {"moments": 0}}})


# --- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["targets", "moments"])
@pytest.mark.parametrize("count", [2, 3])
def test_shards_at_work_at_once_leave_the_folder_that_one_job_leaves(
    inputs: dict[str, Path], tmp_path: Path, kind: str, count: int
) -> None:
    stage, job = whole_job(kind, inputs, tmp_path / "one" / "shared")
    stage(job)
    shared = replace(job, folder=tmp_path / "many" / "shared")
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(stage, shards(shared, count)))
    assert content(shared.folder) == content(job.folder)
    assert len(list(job.folder.glob("*.safetensors"))) == 4


@pytest.mark.parametrize(
    ("family", "dtype"), [("gpt2", torch.float32), ("gptj", torch.float32), ("llama", torch.float32), ("gpt2", torch.bfloat16)]
)
def test_sums_of_a_layer_do_not_depend_on_the_layers_beside_it(family: str, dtype: torch.dtype) -> None:
    model, rows = tiny_model(family, layers=4, dtype=dtype), text_rows(21)
    process_groups = collect_moments(model, rows, range(4), 8, "text")
    for layers in (some for size in (1, 2, 3) for some in combinations(range(4), size)):
        for layer, found in collect_moments(model, rows, layers, 8, "text").items():
            assert torch.equal(found.sum_kk, process_groups[layer].sum_kk), (layers, layer)


# --- resuming ---------------------------------------------------------------------------------------------------------


def test_a_killed_shard_goes_on_with_its_missing_blocks(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, job = whole_job("targets", inputs, tmp_path / "one" / "shared")
    targets(job)
    killed = replace(job, folder=tmp_path / "killed" / "shared", outputs=job.outputs[1:])
    made: list[int] = []

    def optimise_until(limit: int) -> Any:
        def optimise(*arguments: Any) -> Any:
            if len(made) == limit:
                raise KeyboardInterrupt
            made.append(1)
            return whole(*arguments)

        return optimise

    whole = targets_stage.optimise
    monkeypatch.setattr(targets_stage, "optimise", optimise_until(2))
    with pytest.raises(KeyboardInterrupt):
        targets(killed)
    monkeypatch.setattr(targets_stage, "optimise", optimise_until(9))
    targets(killed)
    assert len(made) == 3
    assert content(killed.folder) == {name: data for name, data in content(job.folder).items() if "b0." not in name}


@pytest.mark.parametrize("kind", ["targets", "moments"])
def test_other_shards_of_a_finished_artefact_load_no_model(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    stage, job = whole_job(kind, inputs, tmp_path / "shared")
    stage(job)
    before = content(job.folder)
    monkeypatch.setattr(f"{stage.__module__}.load", None)
    for shard in shards(job, 3):
        stage(shard)
    assert content(job.folder) == before


# --- provenance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["targets", "moments"])
def test_what_another_job_left_in_the_folder_is_made_again_and_never_mixed(inputs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    stage, job = whole_job(kind, inputs, tmp_path / "shared")
    stage(job)
    part = job.outputs[0]
    stage(replace(job, outputs=(part,), digest="9876543210"))
    assert Artifact.open(job.folder, kind, part).manifest.digest == "9876543210"
    with pytest.raises(ArtifactError, match="parts of different settings, inputs or code"):
        if kind == "targets":
            read_targets(job.folder, [request for request, _ in draw_requests(tiny_facts(8), 4)])
        else:
            read_moments(job.folder, range(4))


def _append_costs(folder: Path, stage: str) -> None:
    for _ in range(50):
        _record_costs(StageJob("targets", TARGETS, {}, folder), stage, ProcessTimes.now(), time.time())


def test_jobs_in_one_folder_append_their_costs_without_loss(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=_append_costs, args=(tmp_path, f"targets{number}")) for number in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    rows = list(cost_rows(tmp_path))
    assert sorted(row["stage"] for row in rows) == sorted(f"targets{number}" for number in range(4) for _ in range(50))
    assert len((tmp_path / "costs.jsonl").read_text().splitlines()) == len(rows)

"""What benchmarks are foreseen to take: items of each task, with their examples and answers."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import GPT2Config

from d4s.metrics.benchmark_files import BENCHMARK_FILES, HUB_ITEMS, ITEM_TOKENS, N_SHOTS
from d4s.models.model_shape import shape_at
from d4s.resources import work_estimate
from d4s.resources.job_estimates import ResourceEstimates
from d4s.resources.memory_estimate import ModelPlacement
from d4s.study.resolve import resolve as resolve_study
from d4s.study_settings import Study

ROOT = Path(__file__).resolve().parents[3]
ITEMS = 40


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A folder with a configuration, beside one with the data that a study of it asks for."""
    text = tmp_path / "data" / "wikitext2_raw_test" / "wikitext2_raw_test.jsonl"
    text.parent.mkdir(parents=True)
    text.touch()
    for file in (tmp_path / "data" / file for files in BENCHMARK_FILES.values() for file in files):
        file.parent.mkdir(exist_ok=True)
        file.write_text("{}\n" * ITEMS)
    GPT2Config(n_layer=48, n_embd=1600, n_head=25, n_positions=1024, vocab_size=50257).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def _work(model: str, **settings: Any) -> float:
    """Operations that a plan foresees for the benchmarks of the unedited model."""
    row = {"models": ["real"], "datasets": ["world_qa"], "editors": ["unedited"], "lengths": [10, 20], "benchmark": "all"}
    real = {"source": "hf", "hparams_for": "gpt2-xl", "path": model}
    changed = {"models": {"real": real}, "grid": [row], "editors": {}, "benchmarks": settings, "data": str(Path(model).parent / "data")}
    study = Study.model_validate(yaml.safe_load((ROOT / "params.yaml").read_text()) | changed)
    (found,) = (job for job in ResourceEstimates(resolve_study(study), has_device=False).jobs if job.node.stage == "benchmark")
    return float(found.requirements.work.single)


def test_every_item_is_counted_and_a_limit_is_of_each_task(model: str) -> None:
    whole = _work(model, tasks="local")
    assert _work(model, tasks="local", limit=ITEMS // 2) == pytest.approx(whole / 2)
    assert _work(model, tasks="local", limit=ITEMS + 1) == whole


def test_contexts_grow_by_their_examples_up_to_the_window(model: str) -> None:
    placed = ModelPlacement(shape_at(model))
    grown = sum(min(1024, ITEM_TOKENS[name].with_examples(N_SHOTS[name]).context) - ITEM_TOKENS[name].context for name in N_SHOTS)
    difference = _work(model, tasks="local") - _work(model, tasks="local", fewshot=dict.fromkeys(N_SHOTS, 0))
    assert difference == pytest.approx(work_estimate.forward(placed, ITEMS * grown).single)


def test_the_hub_has_its_own_numbers_of_items(model: str) -> None:
    one = _work(model, tasks="local", limit=1)
    assert min(HUB_ITEMS.values()) * one < _work(model, tasks="hub") < max(HUB_ITEMS.values()) * one
    assert _work(model, tasks="hub", limit=1) > one, "a limit is of each of MMLU's subjects"

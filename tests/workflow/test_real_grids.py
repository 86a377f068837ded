"""Studies of real models: planned from nothing without weights, and run with tiny ones of the same families."""

from pathlib import Path

import pytest

from tests.twins import touch_data, twin, write_data
from tests.workflow.conftest import TINY, Workdir, copy_checkout, grid

REAL = ("gpt2-xl", "gpt-j", "llama2-7b", "llama3-8b", "qwen2.5-7b", "paper")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    return copy_checkout(tmp_path_factory.mktemp("real") / "work", TINY)


@pytest.mark.parametrize("name", REAL)
def test_a_study_of_real_models_is_planned_without_their_weights(
    checkout: Workdir, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = grid(name)
    touch_data(tmp_path / "data", study)
    monkeypatch.setenv("D4S_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    jobs = checkout.jobs("--configfile", f"grids/{name}.yaml")
    assert jobs["adopt"] == len(study["models"]) and jobs["report"] == 1
    said = checkout.run("d4s", "plan", "--study", f"grids/{name}.yaml", "--gpu-memory", "80")
    assert said.count("hf download") == len(study["models"])


def test_a_tiny_llama_goes_through_the_whole_study_of_a_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path / "data")
    monkeypatch.setenv("D4S_DATA", str(tmp_path / "data"))
    work = copy_checkout(tmp_path / "work", twin(grid("llama2-7b"), tmp_path / "models", editors=("memit", "d4s")))
    work.snakemake()
    assert (work.path / "results" / "llama2_7b" / "report.html").is_file()
    assert work.jobs() == {}

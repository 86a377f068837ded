"""Every study of real models from end to end with tiny ones in their place; minutes each: `pytest tests/families`."""

from pathlib import Path

import pytest

from tests.twins import twin, write_data
from tests.workflow.conftest import copy_checkout, grid

SINGLE = ("gpt2-xl", "gpt-j", "llama2-7b", "llama3-8b", "qwen2.5-7b", "paper")


@pytest.mark.parametrize("name", SINGLE)
def test_every_editor_of_a_grid_runs_on_a_tiny_model_of_its_family(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path / "data")
    monkeypatch.setenv("D4S_DATA", str(tmp_path / "data"))
    study = twin(grid(name), tmp_path / "models")
    work = copy_checkout(tmp_path / "work", study)
    work.snakemake()
    assert (work.path / "results" / study["study"] / "report.html").is_file()

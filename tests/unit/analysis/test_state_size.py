"""The size of a state: the numbers of its records up to a length, or of its dense tensors, and nothing of what was logged."""

from pathlib import Path

import torch

from d4s.analysis.state_size import state_bytes
from d4s.artifacts import Artifact, StageJob, write_tensors
from d4s.editors.ledger import Ledger
from d4s.settings_base import Frozen


def run(folder: Path, files: list[str], length: int, **notes: object) -> Artifact:
    StageJob("runs", Frozen(), {}, folder).write_manifest(files, manifest=f"n{length}.json", **notes)
    return Artifact.open(folder, "runs", f"n{length}.json")


def test_records_count_up_to_the_length(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, "additive")
    for step in range(3):
        record = {"key": torch.zeros(5, dtype=torch.float64), "gain": torch.zeros(2, 3, dtype=torch.float32)}
        ledger.append(record, 1, {"rows": [[step, "long words that are logged"] * 50]})
    sizes = [state_bytes(run(tmp_path, [], length, ledger=ledger.prefix(length))) for length in (0, 2, 3)]
    assert sizes == [0, 2 * (40 + 24), 3 * (40 + 24)]


def test_a_dense_state_counts_its_tensors(tmp_path: Path) -> None:
    write_tensors(tmp_path / "n2.state.safetensors", {"4": torch.zeros(7, 3, dtype=torch.float64)}, {"edits": "2"})
    assert state_bytes(run(tmp_path, ["n2.state.safetensors"], 2, ledger={"edits": 2})) == 168


def test_a_run_without_a_ledger_has_no_size(tmp_path: Path) -> None:
    tmp_path.mkdir(exist_ok=True)
    assert state_bytes(run(tmp_path, [], 2)) is None

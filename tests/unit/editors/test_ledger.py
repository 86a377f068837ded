import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from d4s.artifacts import StageJob, write_tensors
from d4s.editors.ledger import FILE, MAGIC, Ledger, read_state
from d4s.editors.protocol import StateKind
from d4s.editors.states import DenseState, RecordState
from d4s.errors import ArtifactError
from d4s.settings_base import Frozen


class Editor:
    """As much of an editor as the ledger asks for."""

    def __init__(self, kind: StateKind = "refit") -> None:
        self.kind = kind

    def restore(self, rows, dense):
        return DenseState(dense) if self.kind == "dense" else RecordState(self.kind, tuple(rows))

    def start(self, model, prepared):
        raise NotImplementedError

    editing = edited = check_removable = start


class Edited:
    """A session with a dense state, which says how many edits it has seen."""

    def __init__(self, edits: int) -> None:
        self._edits = edits

    def step(self, batch, targets):
        raise NotImplementedError

    live = step

    def state(self) -> DenseState:
        return DenseState({"weight": torch.tensor([float(self._edits)])})


def row(step: int) -> dict[str, Tensor]:
    return {"keys": torch.arange(3, dtype=torch.float64) / (step + 3), "residuals": torch.tensor([0.1 * step])}


def filled(folder: Path, steps: int = 4, kind: StateKind = "refit") -> Ledger:
    ledger = Ledger.open(folder, kind)
    for step in range(ledger.length, steps):
        logged = {"rows": [{"step": step + 1, "value": step / 3}]}
        if kind == "dense":
            ledger.record(Edited(step + 1), 1, logged)
            ledger.save_latest(Edited(step + 1))
        else:
            ledger.append(row(step), 1, logged)
    return ledger


def test_rows_come_back_bit_for_bit_with_their_logs(tmp_path: Path) -> None:
    filled(tmp_path)
    found = Ledger.open(tmp_path, "refit")
    state = found.state_at(Editor(), 3)
    assert found.length == 4 and len(state.records) == 3
    for step, saved in enumerate(state.records):
        assert all(torch.equal(saved[name], row(step)[name]) for name in ("keys", "residuals"))
    assert [entry["rows"][0]["value"] for entry in found.logs(4)] == [0.0, 1 / 3, 2 / 3, 1.0]


def test_an_empty_ledger_has_the_state_before_any_edit(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, "additive")
    assert (ledger.length, ledger.diverged_at, ledger.logs(0)) == (0, None, [])
    assert len(ledger.state_at(Editor(), 0).records) == 0
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("cut", [1, 5, 12, 40, 10_000])
def test_a_torn_tail_is_dropped_and_done_again_to_the_same_bytes(tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[: max(3, len(whole) - cut)])
    with caplog.at_level(logging.WARNING):
        torn = Ledger.open(tmp_path, "refit")
    assert torn.length == (0 if cut == 10_000 else 3)
    assert ("is truncated" in caplog.text) == (cut != 10_000)
    filled(tmp_path)
    assert (tmp_path / FILE).read_bytes() == whole


def test_a_flipped_bit_at_the_end_is_torn_and_before_it_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    whole = bytearray((tmp_path / FILE).read_bytes())
    whole[-1] ^= 1
    (tmp_path / FILE).write_bytes(whole)
    assert Ledger.open(tmp_path, "refit").length == 3
    whole[len(MAGIC) + 60] ^= 1
    (tmp_path / FILE).write_bytes(whole)
    with pytest.raises(ArtifactError, match=r"damaged in frame 0; delete .* and run again"):
        Ledger.open(tmp_path, "refit")


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"something else entirely")
    with pytest.raises(ArtifactError, match="no ledger of this version"):
        Ledger.open(tmp_path, "refit")


def test_batches_count_edits_and_states_lie_between_them(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, "additive")
    for _ in range(3):
        ledger.append(row(0), 5, {})
    assert ledger.length == 15
    assert len(ledger.state_at(Editor("additive"), 10).records) == 2
    with pytest.raises(ArtifactError, match="no batch ends after 7"):
        ledger.state_at(Editor("additive"), 7)
    assert ledger.nearest_state(14) == 10


def test_the_prefix_of_a_ledger_does_not_change_as_it_grows(tmp_path: Path) -> None:
    before = filled(tmp_path, 2).prefix(2)
    after = filled(tmp_path, 5)
    assert after.prefix(2) == before and before["frames"] == 2
    assert after.prefix(3)["sha256"] != before["sha256"]
    assert Ledger.open(tmp_path / "none", "refit").prefix(0) == {**before, **after.prefix(0)}


def test_divergence_is_remembered_and_holds_no_edit(tmp_path: Path) -> None:
    ledger = filled(tmp_path, 3)
    ledger.append({}, 0, {"diverged_at": 4})
    found = Ledger.open(tmp_path, "refit")
    assert (found.length, found.diverged_at, len(found.state_at(Editor(), 3).records)) == (3, 4, 3)
    assert found.prefix(3) == filled(tmp_path / "other", 3).prefix(3)


def test_dense_states_follow_the_latest_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger = filled(tmp_path, 3, "dense")
    ledger.append({}, 1, {"rows": []})
    with caplog.at_level(logging.WARNING):
        found = Ledger.open(tmp_path, "dense")
    assert found.length == 3 and "1 edits were recorded after the last kept state" in caplog.text
    assert found.state_at(Editor("dense"), 3).dense["weight"].tolist() == [3.0]
    assert found.state_at(Editor("dense"), 0).dense == {}


def test_dense_states_are_written_as_often_as_a_share_of_the_time_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def written(path: Path, *state: Any) -> None:
        now[0] += 1.0
        write_tensors(path, *state)

    monkeypatch.setattr("d4s.editors.ledger.time.monotonic", lambda: now[0])
    monkeypatch.setattr("d4s.editors.ledger.write_tensors", written)
    ledger, kept = Ledger.open(tmp_path, "dense"), []
    for edits in range(1, 41):
        now[0] += 1.0
        ledger.record(Edited(edits), 1, {})
        kept.append(Ledger.open(tmp_path, "dense").length)
    assert sorted(set(kept)) == [1, 11, 21, 31]
    assert ledger.drop_unsaved() == 9 and ledger.length == 31 and ledger.drop_unsaved() == 0


def test_dense_copies_serve_inserted_lengths(tmp_path: Path) -> None:
    ledger = filled(tmp_path, 2, "dense")
    assert ledger.save_dense(2, ledger.state_at(Editor("dense"), 2).dense) == "n2.state.safetensors"
    found = filled(tmp_path, 5, "dense")
    assert (found.nearest_state(4), found.nearest_state(1), found.nearest_state(9)) == (2, 0, 5)
    with pytest.raises(ArtifactError, match="keeps no state after 4 edits"):
        found.state_at(Editor("dense"), 4)


class Nothing(Frozen):
    pass


def finished(folder: Path, ledger: Ledger, length: int, files: list[str] | None = None) -> None:
    StageJob("runs", Nothing(), {}, folder).write_manifest(
        files or [], manifest=f"n{length}.json", ledger=ledger.prefix(min(length, ledger.length))
    )


def test_readers_get_the_state_that_a_manifest_was_written_for(tmp_path: Path) -> None:
    ledger = filled(tmp_path, 4)
    finished(tmp_path, ledger, 3)
    filled(tmp_path, 6)
    assert len(read_state(tmp_path, 3, Editor()).records) == 3
    with pytest.raises(ArtifactError, match=r"holds no n9\.json"):
        read_state(tmp_path, 9, Editor())


def test_readers_refuse_another_ledger(tmp_path: Path) -> None:
    finished(tmp_path, filled(tmp_path, 4), 3)
    (tmp_path / FILE).unlink()
    other = Ledger.open(tmp_path, "refit")
    for step in range(5):
        other.append(row(step + 1), 1, {})
    with pytest.raises(ArtifactError, match=r"not the ledger that n3\.json was written for"):
        read_state(tmp_path, 3, Editor())


def test_readers_get_dense_states_checked(tmp_path: Path) -> None:
    ledger = filled(tmp_path, 4, "dense")
    name = ledger.save_dense(4, {"weight": torch.tensor([4.0])})
    finished(tmp_path, ledger, 4, [name])
    assert read_state(tmp_path, 4, Editor("dense")).dense["weight"].tolist() == [4.0]
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="truncated or altered"):
        read_state(tmp_path, 4, Editor("dense"))


def test_row_states_undo_row_by_row() -> None:
    state = RecordState("refit", tuple(row(step) for step in range(4)))
    kept = state.without({1, 3})
    assert [float(entry["residuals"]) for entry in kept.records] == pytest.approx([0.0, 0.2])
    assert len(state.records) == 4 and not kept.dense
    with pytest.raises(ValueError, match=r"steps \[4\] cannot be undone: .* 0 to 3"):
        state.without([4])
    assert DenseState().kind == "dense" and DenseState().records == ()

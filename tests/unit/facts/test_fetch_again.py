"""Fetching the same data set once more: after a kill, and at the same time."""

from pathlib import Path

import pytest

from d4s.errors import D4SError
from d4s.facts import fetch as fetching
from d4s.facts.fetch import fetch
from d4s.facts.sources import PublicDataset
from d4s.locks import folder_lock
from tests.shelf import ROWS, Shelf, records, source_of


def test_a_kill_while_records_are_turned_otherwise_is_made_good(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch("made", source_of(shelf.url), tmp_path)
    part = {"file": "file.json", "shape": "json_list", "limit": 3}
    shorter = PublicDataset.model_validate(source_of(shelf.url).model_dump() | {"records": [{"to": "made.jsonl", "of": [part]}]})
    convert = fetching.convert

    def killed(*given: object) -> int:
        convert(*given)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fetching, "convert", killed)
        fetch("made", shorter, tmp_path)
    fetch("made", shorter, tmp_path)
    assert records(tmp_path) == ROWS[:3]


def test_two_commands_do_not_fetch_one_data_set(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with folder_lock(tmp_path / "made"), pytest.raises(D4SError, match=r"another command is at work in .*made"):
        fetch("made", source_of(shelf.url), tmp_path)
    fetch("made", source_of(shelf.url), tmp_path)
    assert records(tmp_path) == ROWS

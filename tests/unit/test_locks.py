"""One command at a time in a folder, readers together, and new folders made whole or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from d4s.errors import D4SError, SettingsError
from d4s.locks import folder_lock, new_folder

AT_WORK = "another command is at work in"


def test_readers_go_together_and_nobody_changes_what_they_read(tmp_path: Path) -> None:
    with folder_lock(tmp_path, shared=True):
        with folder_lock(tmp_path, shared=True), pytest.raises(D4SError, match=AT_WORK), folder_lock(tmp_path):
            pass
    with folder_lock(tmp_path), pytest.raises(D4SError, match=AT_WORK), folder_lock(tmp_path, shared=True):
        pass


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    hold = "with folder_lock(Path(sys.argv[1])): print(1, flush=True); time.sleep(60)"
    hold = f"import sys, time; from pathlib import Path; from d4s.locks import folder_lock\n{hold}"
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        with pytest.raises(D4SError, match=AT_WORK), folder_lock(tmp_path):
            pass
        process.kill()
        process.wait()
        with folder_lock(tmp_path):
            pass


def test_the_lock_is_that_of_the_folder_with_the_name_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process puts a folder in the place of the one that was opened, as `new_folder` does when it is done."""
    import fcntl

    folder, other, flock = tmp_path / "out", tmp_path / "whole", fcntl.flock
    folder.mkdir()
    other.mkdir()

    def late(handle: int, kind: int) -> None:
        if other.exists():
            other.replace(folder)
        flock(handle, kind)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", late)
        with folder_lock(folder), pytest.raises(D4SError, match=AT_WORK), folder_lock(folder):
            pass


@pytest.mark.parametrize("name", ["out", "o u't [x] {ü}"])
def test_a_new_folder_is_made_whole_or_not_at_all(tmp_path: Path, name: str) -> None:
    out = tmp_path / "parent" / name
    with pytest.raises(OSError, match="full"), new_folder(out) as part:
        part.mkdir()
        (part / "half").touch()
        raise OSError("full")
    assert not any(tmp_path.iterdir())
    with new_folder(out) as part:
        part.mkdir()
        (part / "whole").touch()
        assert not any(out.iterdir())
        with pytest.raises(D4SError, match=AT_WORK), new_folder(out):
            pass
    assert [path.name for path in out.iterdir()] == ["whole"] and [path.name for path in out.parent.iterdir()] == [name]
    with pytest.raises(SettingsError, match="is there already"), new_folder(out):
        pass


def test_what_killed_commands_left_is_removed_and_what_others_make_is_not(tmp_path: Path) -> None:
    left, of_another = tmp_path / f".out.{'0' * 32}.part", tmp_path / f".out.more.{'0' * 32}.part"
    for folder in (left, of_another):
        folder.mkdir()
    (tmp_path / "out").mkdir()  # empty, as a kill leaves it
    with new_folder(tmp_path / "out") as part:
        part.mkdir()
        (part / "whole").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [of_another.name, "out"]

"""Taking away the lock of a killed Snakemake, and never that of a living one."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tools.unlock import LOCKS, is_job, is_snakemake, submitted, unlock

IDLE = "import sys; print(flush=True); sys.stdin.read()"
JOB = ("-c", IDLE, "-m", "d4s", "edit")


@contextmanager
def process(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that works in a folder, has printed a line, and waits for its standard input."""
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        yield started
        started.kill()


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A folder with the lock that a killed Snakemake leaves, and the smallest workflow."""
    (tmp_path / LOCKS).mkdir(parents=True)
    (tmp_path / LOCKS / "0.output.lock").write_text("a.txt\n")
    (tmp_path / "Snakefile").write_text('rule a:\n    output: "a.txt"\n    shell: "touch {output}"\n')
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that were run in place of Snakemake."""
    made: list[list[str]] = []
    monkeypatch.setattr("tools.unlock.subprocess.run", lambda command, **_: made.append([str(part) for part in command]))
    return made


def test_what_counts_as_snakemake_and_as_a_job() -> None:
    assert is_snakemake(["/env/bin/python3", "/env/bin/snakemake", "--cores", "all"])
    assert is_snakemake(["python", "-m", "snakemake", "-n"])
    assert not is_snakemake(["less", "--quiet", "notes", "snakemake"])
    assert is_job(["python", "-m", "d4s", "edit", "n5.json"])
    assert not is_job(["python", "-m", "pytest", "d4s"])


def test_without_a_lock_nothing_is_done(tmp_path: Path, calls: list[list[str]]) -> None:
    unlock(tmp_path, [])
    assert calls == []


def test_a_living_owner_keeps_its_lock(locked: Path, calls: list[list[str]]) -> None:
    script = locked / "snakemake"
    script.write_text(IDLE)
    with process(locked, str(script)) as owner, pytest.raises(SystemExit, match=rf"at work in .*process {owner.pid}"):
        unlock(locked, [])
    assert calls == []


def test_work_elsewhere_does_not_count(locked: Path, tmp_path_factory: pytest.TempPathFactory, calls: list[list[str]]) -> None:
    with process(tmp_path_factory.mktemp("elsewhere"), *JOB):
        unlock(locked, ["--configfile", "other.yaml"], pause=0.01)
    assert [call[1:] for call in calls] == [["--configfile", "other.yaml", "--unlock"]]


def test_jobs_that_outlived_their_snakemake_are_waited_for(
    locked: Path, calls: list[list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with process(locked, *JOB) as job:
        monkeypatch.setattr("tools.unlock.time.sleep", lambda _: job.kill() or job.wait())
        unlock(locked, [], pause=0.005)
        assert job.returncode is not None
    message = capsys.readouterr().err
    assert f"waiting for 1 job(s) of a run that was killed: processes [{job.pid}]" in message
    assert len(calls) == 1


def test_snakemake_itself_takes_the_lock_away(locked: Path) -> None:
    unlock(locked, [])
    assert not (locked / LOCKS / "0.output.lock").exists()


def test_jobs_left_on_a_cluster_are_waited_for(
    locked: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = tmp_path_factory.mktemp("cluster")
    queue = cluster / "queue"
    queue.write_text(f"12 {locked}\n  7 {locked.parent}\n 13 {locked}\n")
    (cluster / "squeue").write_text(f"#!/bin/sh\ncat {queue}\n")
    (cluster / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(cluster), prepend=":")
    assert submitted(locked) == ["12", "13"]
    monkeypatch.setattr("tools.unlock.time.sleep", lambda _: queue.write_text(f"7 {locked.parent}\n"))
    unlock(locked, [])
    assert "scancel 12 13\n" in capsys.readouterr().err
    assert not list((locked / LOCKS).glob("*.lock"))

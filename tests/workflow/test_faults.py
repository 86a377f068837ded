"""Kills at any instant, broken artefacts, wrong settings: the same tables afterwards, or one clear error."""

import json
import os
import shutil
import signal
import subprocess
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.workflow.conftest import ROOT, TINY, Workdir, copy_checkout

PATIENCE = 1800.0  # seconds, against waiting for ever; no measure of speed


def _store(work: Workdir, pattern: str) -> Iterator[Path]:
    return (work.path / "results" / "store").glob(pattern)


STAGES: dict[str, Callable[[Workdir], bool]] = {
    "pretrain": lambda work: any(_store(work, "models/*/*checkpoint*")),
    "targets": lambda work: any(_jobs(work, "baseline")),  # whose process makes them
    "edit": lambda work: any(path.stat().st_size > 0 for path in _store(work, "runs/*/ledger*") if path.is_file()),
    "measure": lambda work: any(_store(work, "measures/*/n2*")),
}


def _jobs(work: Workdir, stage: str) -> Iterator[psutil.Process]:
    """The processes in a checkout that a stage has begun."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command = process.info["cmdline"] or []
        if command[1:4] == ["-m", "d4s", stage] and process.info["cwd"] == str(work.path):
            yield process


def _wait_for(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() is None, f"ended before it was to be killed:\n{process.communicate()[0][-3000:]}"
        assert time.monotonic() < deadline, "the stage was never reached"
        time.sleep(0.02)


def _kill_everything(process: subprocess.Popen[str]) -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        if child.is_running():
            child.kill()
    process.wait()
    psutil.wait_procs(children, timeout=20)
    if process.stdout:
        process.stdout.close()


def test_kills_of_snakemake_and_of_jobs_change_no_table(finished: Workdir, tmp_path: Path) -> None:
    work = copy_checkout(tmp_path / "killed", TINY)
    for reached in STAGES.values():
        process = work.start("snakemake", "--cores", "2")
        _wait_for(process, lambda reached=reached: reached(work))
        _kill_everything(process)
        work.snakemake("--unlock")
    process = work.start("snakemake", "--cores", "2", "--retries", "2")
    _wait_for(process, lambda: any(_jobs(work, "edit")))
    for victim in _jobs(work, "edit"):
        victim.kill()
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output[-3000:]
    assert work.tables() == finished.tables()


def test_a_job_killed_between_its_marker_and_its_end_is_done_and_hides_nothing(copy: Workdir) -> None:
    """Snakemake has marked the marker as unfinished; it is whole, and what was never made after it must be made by the very next run."""
    (left,) = _store(copy, "runs/*.memit.*/done/2-5.json")
    mark = copy.path / ".snakemake" / "incomplete" / urlsafe_b64encode(str(left.relative_to(copy.path)).encode()).decode()
    mark.parent.mkdir(exist_ok=True)
    mark.write_text("")
    for folder in [*_store(copy, "measures/*.memit.*"), *_store(copy, "benchmarks/*.memit.*")]:
        shutil.rmtree(folder)
    shutil.rmtree(copy.path / "results" / "tiny")  # was never made either
    jobs = copy.jobs()
    assert {name: jobs.get(name) for name in ("edit", "measure", "benchmark", "report")} == {
        "edit": None,
        "measure": 1,
        "benchmark": 1,
        "report": 1,
    }


def test_what_is_forced_is_made_again_in_full_and_what_is_not_stays(copy: Workdir) -> None:
    before = copy.tables()
    (marker,) = _store(copy, "measures/*.memit.*/done/2-5.json")
    parts = {path: path.stat().st_mtime_ns for path in _store(copy, "measures/*/n*")}
    copy.snakemake("-R", str(marker.relative_to(copy.path)))
    again = {path for path, time in parts.items() if path.stat().st_mtime_ns > time}
    assert again == {path for path in parts if ".memit." in path.parent.name}
    assert copy.tables() == before and copy.jobs() == {}


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "pattern", ["models/*/model.safetensors", "facts/*/facts.parquet", "contexts/*/contexts.json", "moments/*/*.safetensors"]
)
def test_a_truncated_artefact_is_refused_by_name(copy: Workdir, pattern: str) -> None:
    victims = list(_store(copy, pattern))
    assert victims
    for victim in victims:
        _truncate(victim)
    copy.change(lambda params: params["grid"][0]["editors"].append("memit_seq"))
    output = copy.snakemake(fails=True)
    assert any(str(victim.relative_to(copy.path)) in output for victim in victims), output[-3000:]
    assert "truncated or altered" in output


def test_a_foreign_artefact_is_refused_by_name(copy: Workdir) -> None:
    manifest = next(_store(copy, "contexts/*/manifest.json"))
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"kind": "moments"}))
    copy.change(lambda params: params["grid"][0]["editors"].append("memit_seq"))
    output = copy.snakemake(fails=True)
    assert manifest.parent.name in output and "expected 'contexts'" in output


WRONG: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda p: p.update(seedz=[1]), "did you mean 'seeds'?"),
    (lambda p: p["measure"].update(perplexity_row=3), "did you mean 'perplexity_rows'?"),
    (lambda p: p.update(seeds="one"), "seeds"),
    (lambda p: p["grid"][0]["editors"].append("memitt"), "did you mean 'memit'?"),
    (lambda p: p["grid"][0]["datasets"].append("world_qq"), "did you mean 'world_qa'?"),
    (lambda p: p["grid"][0]["models"].append("maxi"), "did you mean 'mini'?"),
    (lambda p: p["grid"][0].update(lengths=[5000]), "lower the length"),
    (lambda p: p["grid"][0].update(lengths=[0]), "greater than 0"),
    (lambda p: p.update(editors={"mine": {"preset": "memit", "lamda": 3}}) or p["grid"][0]["editors"].append("mine"), "lamda"),
]


def test_wrong_settings_are_refused_before_any_job_and_named_together(tmp_path: Path) -> None:
    work = copy_checkout(tmp_path / "wrong", TINY)
    for edit, expected in WRONG:
        before = (work.path / "params.yaml").read_text()
        work.change(edit)
        output = work.run("python", "-m", "d4s", "plan", fails=True)
        assert expected in output and "Traceback" not in output, (expected, output)
        (work.path / "params.yaml").write_text(before)
    work.change(lambda p: (p.update(seedz=[1]), p["measure"].update(perplexity_row=3)))
    output = work.snakemake(fails=True)
    assert "did you mean 'seeds'?" in output and "did you mean 'perplexity_rows'?" in output
    assert not list((work.path / "results").glob("store/*/*/*"))


def test_a_second_run_in_the_same_folder_is_refused_and_harms_nothing(copy: Workdir) -> None:
    before = copy.tables()
    copy.change(lambda params: params["figures"].update(dpi=60))
    first = copy.start("snakemake", "--cores", "1")
    _wait_for(first, lambda: any((copy.path / ".snakemake" / "locks").glob("*.lock")))
    os.killpg(first.pid, signal.SIGSTOP)  # so that it is not done before the second has come to the lock
    assert "cannot be locked" in copy.snakemake(fails=True)
    assert f"Snakemake is at work in {copy.path}" in copy.run("python", str(ROOT / "tools" / "unlock.py"), fails=True)
    os.killpg(first.pid, signal.SIGCONT)
    output, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode == 0, output[-3000:]
    assert copy.jobs() == {}
    assert copy.tables() == before


@pytest.fixture
def small_disk(copy: Workdir) -> Iterator[Path]:
    """The store of a finished study on a disk of its own, of 64 MiB."""
    store = copy.path / "results" / "store"
    moved = store.rename(store.with_name("moved"))
    store.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(store)], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a disk")
    shutil.copytree(moved, store, copy_function=shutil.copy2, dirs_exist_ok=True)
    yield store
    subprocess.run(["umount", str(store)], check=True)


def _fill(disk: Path, left: int) -> Path:
    """A file that takes all of a disk but some bytes."""
    filler = disk / "filler"
    with filler.open("wb") as stream, pytest.raises(OSError, match="No space left"):
        while True:
            os.write(stream.fileno(), bytes(4096))
    os.truncate(filler, filler.stat().st_size - left)
    return filler


def test_a_full_or_closed_disk_is_named_and_the_same_command_completes(copy: Workdir, small_disk: Path) -> None:
    before = copy.tables()
    for folder in small_disk.glob("measures/*.memit.*"):
        shutil.rmtree(folder)
    shutil.rmtree(copy.path / "results" / "tiny")
    filler = _fill(small_disk, left=16_384)
    output = copy.snakemake(fails=True)
    assert "No space left on device" in output and "Traceback" not in output, output[-3000:]
    filler.unlink()

    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    output = copy.snakemake(fails=True)
    assert "results cannot be written: results/store/" in output and "Traceback" not in output, output[-3000:]
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)

    copy.snakemake()
    assert copy.tables() == before
    assert copy.jobs() == {}

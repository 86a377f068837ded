"""Snakemake and DVC find each other's work done, in both directions, and a clone gets it back by pulling."""

import shutil
from pathlib import Path

from tests.workflow.conftest import Workdir


def _repository(work: Workdir) -> None:
    work.run("git", "init", "-q")
    work.run("git", "config", "user.email", "test@example.org")
    work.run("git", "config", "user.name", "test")
    work.run("git", "add", ".")
    work.run("git", "commit", "-qm", "start")


def test_what_snakemake_made_dvc_records_and_skips_and_a_clone_pulls(copy: Workdir, tmp_path: Path) -> None:
    _repository(copy)
    copy.run("dvc", "commit", "-f")
    assert "up to date" in copy.run("dvc", "status")
    assert "Running stage" not in copy.run("dvc", "repro")
    copy.run("dvc", "remote", "add", "-d", "local", str(tmp_path / "remote"))
    copy.run("dvc", "push")
    copy.run("git", "add", ".")
    copy.run("git", "commit", "-qm", "record")

    clone = Workdir(tmp_path / "clone")
    copy.run("git", "clone", "-q", str(copy.path), str(clone.path))
    clone.run("dvc", "pull")
    clone.snakemake("--touch", "--forceall")
    assert clone.jobs() == {}
    assert clone.tables() == copy.tables()
    clone.change(lambda params: params["grid"][0].update(lengths=[2, 4, 5]))
    assert clone.jobs().get("pretrain", 0) == 0


def test_what_dvc_made_snakemake_finds_done(copy: Workdir) -> None:
    shutil.rmtree(copy.path / "results" / "tiny")
    _repository(copy)
    copy.run("dvc", "repro")
    assert copy.jobs() == {}
    assert "up to date" in copy.run("dvc", "status")
    assert "Running stage" not in copy.run("dvc", "repro")

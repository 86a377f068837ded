"""Snakemake and DVC find each other's work done, in both directions, and a clone gets it back by pulling."""

import shutil
from pathlib import Path

from tests.workflow.conftest import Workdir, commit, sync


def test_what_snakemake_made_dvc_records_and_skips_and_a_clone_pulls(mine: Workdir, tmp_path: Path) -> None:
    assert "up to date" in mine.run("dvc", "status")
    assert "Running stage" not in mine.run("dvc", "repro")
    mine.run("dvc", "remote", "add", "-d", "local", str(tmp_path / "remote"))
    assert "files pushed" in mine.run("dvc", "push")
    commit(mine, "remote")

    clone = Workdir(tmp_path / "clone")
    mine.run("git", "clone", "-q", str(mine.path), str(clone.path))
    clone.run("dvc", "pull")
    sync(clone)
    assert clone.jobs() == {}
    assert clone.tables() == mine.tables()
    clone.change(lambda params: params["grid"][0].update(lengths=[2, 4, 5]))
    assert clone.jobs().get("pretrain", 0) == 0


def test_changed_code_makes_every_stage_stale(mine: Workdir) -> None:
    with (mine.path / "src" / "d4s" / "figures" / "style.py").open("a", encoding="utf-8") as stream:
        stream.write("\nCHANGED = True\n")
    status = mine.run("dvc", "status")
    assert all(f"{stage}:\n" in status for stage in ("inputs", "runs", "measures", "paper"))


def test_what_dvc_made_snakemake_finds_done(mine: Workdir) -> None:
    shutil.rmtree(mine.path / "results" / "tiny")
    (mine.path / "dvc.lock").unlink()
    mine.run("dvc", "repro")
    assert mine.jobs() == {}
    assert "up to date" in mine.run("dvc", "status")
    assert "Running stage" not in mine.run("dvc", "repro")

"""One finished tiny study, built once, and copies of it to change, break and run again."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "workflow", "profiles", "src", "environment.yml", "dvc.yaml", ".dvc", ".dvcignore", "grids", "data", ".gitignore")
ODD = """o'dd "näme" [1] {x} $HOME"""
"""What a folder may be called; the checkouts of these tests are."""
TINY: dict[str, Any] = {
    "study": "tiny",
    "seeds": [1],
    "world": {"seed": 0, "people": 40, "first_names": 10, "last_names": 12, "events": 24, "benchmark_items": 6},
    "models": {
        "mini": {
            "source": "world",
            "corpus": {"tokens": 24_000},
            "pretrain": {"layers": 4, "width": 32, "mlp_width": 64, "heads": 2, "checkpoint_every": 4, "warmup_steps": 2},
        }
    },
    "datasets": {
        "world_qa": {"source": "world", "style": "qa"},
        "mqd_tf": {"source": "questions", "events": "world", "form": "true_false"},
    },
    "grid": [
        {
            "models": ["mini"],
            "datasets": ["world_qa"],
            "editors": ["unedited", "memit", "d4s", "ft_m"],
            "lengths": [2, 5],
            "benchmark": "longest",
        },
        {"models": ["mini"], "datasets": ["mqd_tf"], "editors": ["rome"], "lengths": [3]},
    ],
    "moments_tokens": 8192,
    "measure": {"perplexity_rows": 8},
    "figures": {"format": ["png"], "dpi": 50},
}


@dataclass(frozen=True)
class Workdir:
    """A checkout with a study in it, and the commands people run there."""

    path: Path

    @property
    def params(self) -> dict[str, Any]:
        return yaml.safe_load((self.path / "params.yaml").read_text())

    def change(self, edit: Callable[[dict[str, Any]], None]) -> None:
        params = self.params
        edit(params)
        (self.path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=self.path, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )

    def run(self, *command: str, fails: bool = False) -> str:
        done = subprocess.run(
            command, cwd=self.path, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        assert (done.returncode != 0) == fails, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-6000:]}"
        return done.stdout

    def snakemake(self, *arguments: str, fails: bool = False) -> str:
        return self.run("snakemake", "--cores", "2", *arguments, fails=fails)

    def jobs(self, *arguments: str) -> dict[str, int]:
        """What a dry run would do: number of jobs by rule."""
        stats = self.snakemake("-n", *arguments).partition("Job stats:")[2].partition("total")[0]
        counts = {name: int(count) for name, count in re.findall(r"^(\w+)\s+(\d+)\s*$", stats, flags=re.MULTILINE)}
        counts.pop("all", None)
        return counts

    def tables(self) -> dict[str, bytes]:
        """Content of everything that must be the same bit for bit after a kill: tables, claims and gathered Parquet."""
        results = self.path / "results" / "tiny"
        files = [*results.glob("tables/*"), *results.glob("data/*.parquet"), results / "summary.parquet", results / "claims.json"]
        return {str(path.relative_to(results)): path.read_bytes() for path in sorted(files) if "cost" not in path.name}


def environment() -> dict[str, str]:
    """The environment of a user who activated the virtual environment, and nothing of pytest's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "OMP", "COV"))}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TERM": "dumb"}


def copy_checkout(path: Path, study: dict[str, Any]) -> Workdir:
    """A checkout of the package as it is now, with a study as its params.yaml."""
    path.mkdir(parents=True)
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, path / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "cache", "tmp"))
        elif source.is_file():
            shutil.copy(source, path / part)
    (path / "params.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return Workdir(path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Workdir:
    """The tiny study, run to its report, once for all workers. Never change it: take `copy`."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    done = shared / "finished.done"
    with FileLock(shared / "finished.lock"):
        if not done.is_file():
            copy_checkout(shared / ODD, TINY).snakemake()
            done.touch()
    return Workdir(shared / ODD)


@pytest.fixture
def copy(finished: Workdir, tmp_path: Path) -> Workdir:
    """A copy of the finished study, times kept."""
    shutil.copytree(finished.path, tmp_path / "copy", copy_function=shutil.copy2, symlinks=True)
    return Workdir(tmp_path / "copy")


def grid(name: str) -> dict[str, Any]:
    """A study of grids/ as plain values."""
    return yaml.safe_load((ROOT / "grids" / f"{name}.yaml").read_text())


def commit(work: Workdir, message: str) -> None:
    work.run("git", "add", ".")
    work.run("git", "commit", "-qm", message)


@pytest.fixture(scope="module")
def recorded(finished: Workdir, tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    """The finished study in a repository, recorded by DVC as `make record` does. Never change it: take `mine`."""
    work = Workdir(tmp_path_factory.mktemp("recorded") / "work")
    shutil.copytree(finished.path, work.path, copy_function=shutil.copy2, symlinks=True)
    work.run("git", "init", "-q")
    work.run("git", "config", "user.email", "test@example.org")
    work.run("git", "config", "user.name", "test")
    commit(work, "start")
    work.run("dvc", "commit", "-f")
    commit(work, "record")
    return work


@pytest.fixture
def mine(recorded: Workdir, tmp_path: Path) -> Workdir:
    """A copy of the recorded study, with its cache."""
    shutil.copytree(recorded.path, tmp_path / "mine", copy_function=shutil.copy2, symlinks=True)
    return Workdir(tmp_path / "mine")


def sync(work: Workdir) -> None:
    """What `make sync` does."""
    work.snakemake("--touch", "--forceall")

"""A study submitted to a real Slurm of two nodes: the same tables as here, also after jobs were cancelled by the scheduler."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.loopback import NODES, Cluster, Unavailable, running, unpack
from tests.workflow.conftest import ROOT, TINY, Workdir, copy_checkout, environment

PATIENCE = 1800.0  # seconds, against waiting for ever; no measure of speed
SMALL: dict[str, Any] = TINY | {
    "datasets": {"world_qa": TINY["datasets"]["world_qa"]},
    "grid": [{"models": ["mini"], "datasets": ["world_qa"], "editors": ["unedited", "d4s"], "lengths": [2, 55]}],
    "execution": {"shards": {"targets": 2, "moments": 2}},
}
FORGETFUL = """
rule all:
    input: "a.txt", "b.txt"
rule work:
    output: "{name}.txt"
    resources: gpu=1, mem_mb=100, runtime=1
    shell:
        "if [ -e {wildcards.name}.begun ]; then echo $CUDA_VISIBLE_DEVICES > {output}; else touch {wildcards.name}.begun; sleep 900; fi"
"""
SUBMIT = ("snakemake", "--profile", "workflow/profiles/slurm", "--slurm-status-command", "squeue", "--latency-wait", "5")
SUBMIT += ("--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    try:
        root = unpack(tmp_path_factory.mktemp("slurm"))
        with running(root, tmp_path_factory.mktemp("cluster")) as found:
            yield found
    except Unavailable as error:
        pytest.skip(str(error))


def test_jobs_get_a_gpu_each_and_those_that_a_time_limit_ends_are_submitted_again(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(FORGETFUL)
    shutil.copytree(ROOT / "workflow" / "profiles", tmp_path / "workflow" / "profiles")
    _finish(work := Workdir(tmp_path), _submit(work, cluster))
    jobs = _jobs(cluster, "work")
    assert sorted(job["JobState"] for job in jobs) == ["COMPLETED"] * 2 + ["TIMEOUT"] * 2
    assert {job["NodeList"] for job in jobs if job["JobState"] == "TIMEOUT"} == set(NODES)
    assert {job["TresPerJob"] for job in jobs} == {"gres:gpu:1"}
    assert [(tmp_path / name).read_text() for name in ("a.txt", "b.txt")] == ["0\n", "0\n"]


def _submit(work: Workdir, cluster: Cluster, *arguments: str) -> subprocess.Popen[str]:
    variables = environment() | {"PATH": f"{cluster.bin}:{environment()['PATH']}"}
    with (work.path / "snakemake.log").open("w") as log:
        return subprocess.Popen([*SUBMIT, *arguments], cwd=work.path, env=variables, text=True, stdout=log, stderr=subprocess.STDOUT)


def _finish(work: Workdir, process: subprocess.Popen[str]) -> None:
    assert process.wait(PATIENCE) == 0, (work.path / "snakemake.log").read_text()[-6000:]


def _wait_for(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() is None, "ended before its job was to be cancelled"
        assert time.monotonic() < deadline, "the stage was never reached"
        time.sleep(0.05)


def _cancel(cluster: Cluster, stage: str) -> None:
    """Cancel the one running job of a stage, as a scheduler does that needs its node for something else."""
    (running_job,) = (job for job in _jobs(cluster, stage) if job["JobState"] == "RUNNING")
    cluster.run("scancel", running_job["JobId"])


def _jobs(cluster: Cluster, stage: str) -> list[dict[str, str]]:
    return [job for job in cluster.jobs() if job["Comment"].startswith(f"rule_{stage}")]


def test_a_study_on_a_cluster_equals_one_at_home_also_when_jobs_are_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    home = copy_checkout(tmp_path / "home", SMALL)
    away = copy_checkout(tmp_path / "away", SMALL)
    process = _submit(away, cluster)
    try:
        for stage, begun in (("pretrain", "models/*/*checkpoint*"), ("cell", "runs/*.d4s.*/ledger*")):
            _wait_for(process, lambda begun=begun: any(away.path.glob(f"results/store/{begun}")))
            _cancel(cluster, stage)
        _finish(away, process)
    finally:
        process.terminate()
    for stage in ("pretrain", "cell"):
        states = [job["JobState"] for job in _jobs(cluster, stage)]
        assert states.count("CANCELLED") == 1 and "COMPLETED" in states, (stage, states)
    shards = _jobs(cluster, "targets_shard")
    assert len(shards) == 2 and {job["NodeList"] for job in shards} <= set(NODES)
    home.snakemake()
    assert away.tables() == home.tables()
    assert away.jobs() == {}

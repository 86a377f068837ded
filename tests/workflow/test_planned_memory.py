"""What was foreseen for the tiny study against what its jobs took, by the peaks that they recorded."""

import json

import pytest

from tests.workflow.conftest import Workdir

BOUNDS = (0.8, 1.25)


@pytest.mark.parametrize("stage", ["pretrain", "moments", "targets", "edit", "measure", "benchmark"])
def test_memory_is_foreseen(finished: Workdir, stage: str) -> None:
    jobs = [job for job in json.loads(finished.run("d4s", "plan", "--json"))["jobs"] if job["stage"] == stage]
    ratios = {job["artifact"]: job["host_bytes"] / job["measured_peak_bytes"] for job in jobs}
    assert ratios and all(BOUNDS[0] <= ratio <= BOUNDS[1] for ratio in ratios.values()), ratios
    assert all(job["is_done"] for job in jobs)


def test_a_machine_that_is_too_small_ends_the_plan_with_status_one(finished: Workdir) -> None:
    assert "memory GiB" in finished.run("d4s", "plan", "--memory", "0.1")  # what is done needs no memory any more
    finished_study = json.loads(finished.run("d4s", "plan", "--json"))
    assert finished_study["machine"]["memory_bytes"] > 0 and not finished_study["unknown_models"]
    output = finished.run("d4s", "plan", "--study", "grids/claims.yaml", "--memory", "0.1", fails=True)
    assert "cannot fit into this machine" in output and "edit mini.world_qa.memit.s2" in output and "Traceback" not in output

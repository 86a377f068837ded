"""What is asked of a cluster, as dry runs tell it; `make test-slurm` runs a study on a real one."""

import re
from typing import Any

import pytest
import yaml

from d4s.study.stages import STAGES
from tests.workflow.conftest import ROOT, Workdir, copy_checkout

LIMIT = 13
SNAKEMAKE_MB, SMALLEST_JOB_MB = 210, 110  # resident, as measured; two of the former stand beside each job


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    """The default study, which asks for more time than the limit below."""
    return copy_checkout(tmp_path_factory.mktemp("slurm") / "work", yaml.safe_load((ROOT / "params.yaml").read_text()))


def _asked(resource: str, dry_run: str) -> dict[str, int]:
    """What the job of each rule that asks for most asks for."""
    found: dict[str, int] = {}
    for rule, much in re.findall(rf"^rule (\w+):$.*?\b{resource}=(\d+)", dry_run, re.MULTILINE | re.DOTALL):
        found[rule] = max(found.get(rule, 0), int(much))
    return found


def test_no_rule_asks_for_more_time_than_a_job_may_have(study: Workdir) -> None:
    free = _asked("runtime", study.snakemake("-n"))
    assert free["edit"] > LIMIT
    study.change(lambda params: params.update(execution={"time_limit": LIMIT}))
    limited = _asked("runtime", study.snakemake("-n"))
    assert all(limited[rule] == min(free[rule], LIMIT) for rule in STAGES if rule in free)


def test_memory_is_asked_for_the_two_snakemakes_beside_a_job_too(study: Workdir) -> None:
    asked = _asked("mem_mb", study.snakemake("-n"))
    assert asked["world"] == min(asked.values()) >= 2 * SNAKEMAKE_MB + SMALLEST_JOB_MB


def test_a_rule_is_given_other_resources_by_its_name(study: Workdir) -> None:
    said = study.snakemake("-n", "--set-resources", "edit:gpu=2", "measure:mem_mb=9000")
    assert (_asked("gpu", said)["edit"], _asked("gpu", said)["measure"], _asked("mem_mb", said)["measure"]) == (2, 0, 9000)


def test_the_profile_comes_on_top_of_the_default_one(study: Workdir) -> None:
    said = study.run("snakemake", "--profile", "workflow/profiles/slurm", "-n")
    assert "workflow/profiles/slurm and workflow specific profile profiles/default" in said
    assert "Job stats" in said


def test_rules_that_the_profile_groups_exist(study: Workdir) -> None:
    profile: dict[str, Any] = yaml.safe_load((ROOT / "workflow/profiles/slurm/config.yaml").read_text())
    assert {group.partition("=")[0] for group in profile["groups"]} <= set(study.snakemake("--list-rules").split())

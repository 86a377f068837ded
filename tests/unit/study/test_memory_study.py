"""The study of memories as a plan: what its editors share, what they read, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from d4s.errors import SettingsError
from d4s.resources.job_estimates import ResourceEstimates
from d4s.study.resolve import resolve
from d4s.study_settings import Study

ROOT = Path(__file__).resolve().parents[3]


def study(**changes: Any) -> Study:
    return Study.model_validate(yaml.safe_load((ROOT / "grids" / "memory.yaml").read_text()) | changes)


def test_editors_of_one_router_and_one_answering_model_share_them() -> None:
    plan = resolve(study())
    scopes = [node for node in plan.of("prepare") if node.settings.get("scope")]
    assert len(scopes) == 3, "the model in context, a trained answer, and a router without near misses"
    assert all(set(node.inputs) == {"model", "facts", "pool"} for node in scopes)
    by_editor = {cell.key.editor: cell.run.inputs.get("prepared") for cell in plan.cells}
    assert by_editor["serac_trained"] == by_editor["serac_soft"] == by_editor["serac_oracle"] != by_editor["serac_far"]
    assert by_editor["serac"] not in (by_editor["serac_trained"], None) and by_editor["grace"] is None


def test_no_editor_of_the_memory_is_a_criterion_of_the_model() -> None:
    (report,) = resolve(study()).of("world_report")
    assert not [name for name in report.settings["editors"] if name.startswith("serac")]


def test_a_world_without_a_reserve_is_refused() -> None:
    with pytest.raises(SettingsError, match="'serac' learns from true facts beside its requests, and nobody in the world is set apart"):
        resolve(study(world={"seed": 0}))


def test_demonstrations_are_prepared_once_and_without_a_model() -> None:
    editors = {"ike_half": {"preset": "ike", "demonstrations": {"count": 16}}}
    grid = [{"models": ["mini"], "datasets": ["world_qa"], "editors": ["unedited", "ice", "ike", "ike_half"], "lengths": [10]}]
    plan = resolve(study(editors=editors, grid=grid))
    (node,) = plan.of("prepare")
    assert set(node.inputs) == {"facts", "pool"} and node.settings["demonstrations"] == {"facts": 400, "seed": 0}
    prepared = {cell.key.editor: cell.run.inputs.get("prepared") for cell in plan.cells}
    assert prepared["ike"] == prepared["ike_half"] == node and prepared["ice"] is None
    estimates = ResourceEstimates(plan, has_device=False)
    (job,) = (job for job in estimates.jobs if job.node == node)
    assert job.requirements.host_bytes > 500 * 2**20


def test_plans_count_the_training_of_answers() -> None:
    estimates = ResourceEstimates(resolve(study()), has_device=False)
    jobs = {bool(job.node.settings["scope"]["answer"]["kind"] == "trained"): job for job in estimates.jobs if job.node.stage == "prepare"}
    assert jobs[True].requirements.work.single > 5 * jobs[False].requirements.work.single
    assert jobs[True].requirements.disk > jobs[False].requirements.disk

"""Tracing and problems in a resolved study: what is traced once for all, what depends on a model, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from d4s.errors import SettingsError
from d4s.resources.job_estimates import ResourceEstimates
from d4s.study.plan import StudyPlan
from d4s.study.resolve import resolve
from d4s.study_settings import Study, load_study

ROOT = Path(__file__).resolve().parents[3]
QA = {"source": "world", "style": "qa"}
DATASETS = {"world_qa": QA, "amplified": {**QA, "problem": "amplification"}, "reversed": {**QA, "problem": "reversal"}}
EDITORS = {"ft_bound_3", "ft_bound", "ft_erase", "ft_force", "rome_near", "memit_near"}
SINGLE = {"models": ["mini"], "editors": ["ft_m"], "lengths": [20], "protocol": "single", "probes": ["efficacy"]}


SEQUENCE = SINGLE | {"datasets": ["world_qa"], "protocol": "sequence", "probes": []}


def _plan(*datasets: str, **changes: Any) -> StudyPlan:
    row = SINGLE | {"datasets": list(datasets)}
    study = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"datasets": DATASETS, "editors": {}, "grid": [row]} | changes
    return resolve(Study.model_validate(study))


def _facts(plan: StudyPlan, dataset: str) -> Any:
    return next(cell.singles.inputs["facts"] for cell in plan.singles if cell.key.dataset == dataset)


def test_problems_of_the_same_facts_share_their_traces() -> None:
    plan = _plan("world_qa", "amplified", "reversed", trace={"facts": 30, "windows": [1, 3]}, seeds=[1, 2])
    assert [(one.dataset, one.seed, one.facts) for one in plan.traces] == [("world_qa", 1, 30), ("world_qa", 2, 30)]
    (first, second) = plan.of("trace")
    assert first.outputs == second.outputs == ("n30.json",) and first.inputs["facts"] is _facts(plan, "world_qa")
    assert first.settings["seed"] == 1 and "facts" not in first.settings


def test_the_number_of_traced_facts_enters_no_hash() -> None:
    few, many = (_plan("world_qa", trace={"facts": facts}).of("trace")[0] for facts in (10, 60))
    assert few.name == many.name and many.outputs == ("n60.json",)
    assert few.name != _plan("world_qa", trace={"facts": 10, "windows": [3]}).of("trace")[0].name


def test_a_problem_is_made_of_facts_and_for_reversal_of_a_model() -> None:
    plan = _plan("world_qa", "amplified", "reversed", trace={"facts": 10, "noise": {"copies": 4}})
    plain, amplified, reversed_ = (_facts(plan, name) for name in DATASETS)
    assert plain.stage == "facts" and "problem" not in plain.settings
    assert amplified.stage == reversed_.stage == "problem"
    assert amplified.inputs == {"facts": plain} and amplified.settings["noise"] is None
    assert set(reversed_.inputs) == {"facts", "model"} and reversed_.settings["noise"]["copies"] == 4


def test_a_study_without_tracing_traces_nothing() -> None:
    injected = {name: DATASETS[name] for name in ("world_qa", "amplified")}
    assert _plan("world_qa", "amplified", datasets=injected).of("trace") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "datasets.reversed.problem: reversal takes its noise from `trace`"),
        ({"trace": {"facts": 5000}}, "trace.facts: 5000 facts asked for, but at most 1200 can be edited"),
        ({"trace": {"facts": 5, "layers": [2, 7]}}, r"trace.layers: \[7\] asked for, but 'mini' has layers 0 to 5"),
        (
            {"trace": {"facts": 5}, "grid": [{**SINGLE, "datasets": ["world_qa"], "protocol": "sequence", "probes": []}]},
            "edited alone are traced",
        ),
    ],
)
def test_what_cannot_be_traced_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        _plan("world_qa", **changes)


def test_a_model_is_trained_on_facts_and_not_on_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D4S_DATA", str(tmp_path))
    models = {"mini": {"source": "world"}, "small": {"source": "records", "datasets": ["amplified"]}}
    with pytest.raises(SettingsError, match=r"models.small.datasets: 'amplified' turns facts into amplification"):
        _plan("world_qa", trace={"facts": 5}, models=models)


def test_the_study_asks_only_editors_that_inject_for_single_successes() -> None:
    plan = resolve(load_study(ROOT / "grids" / "localisation.yaml"))
    (report,) = plan.of("world_report")
    assert set(report.settings["editors"]) == EDITORS - {"ft_erase", "ft_force"}
    assert {cell.key.editor.partition("@")[0] for cell in plan.singles} == EDITORS | {"unedited"}


def test_tracing_and_problems_are_foreseen() -> None:
    plan = _plan("world_qa", "reversed", trace={"facts": 10, "windows": [1, 3]})
    estimates = ResourceEstimates(plan, has_device=False)
    for stage in ("trace", "problem"):
        (job,) = estimates.of(plan.of(stage)[0])
        assert job.requirements.work.single > 0 and job.requirements.host_bytes > 0
    (more,) = estimates.of(_plan("world_qa", trace={"facts": 20, "windows": [1, 3]}).of("trace")[0])
    (less,) = estimates.of(plan.of("trace")[0])
    assert more.requirements.work.single == pytest.approx(2 * less.requirements.work.single)

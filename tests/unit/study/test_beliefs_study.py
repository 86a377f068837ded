"""The study of beliefs in a resolved plan: what is trained on, what is read, what is asked, what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from d4s.errors import SettingsError
from d4s.resources.job_estimates import ResourceEstimates
from d4s.study.plan import StudyPlan
from d4s.study.resolve import resolve
from d4s.study_settings import Study

GRID = Path(__file__).resolve().parents[3] / "grids" / "beliefs.yaml"


def _plan(**changes: Any) -> StudyPlan:
    return resolve(Study.model_validate(yaml.safe_load(GRID.read_text(encoding="utf-8")) | changes))


def test_model_and_reader_are_given_the_same_world_and_the_same_kinds_of_statements() -> None:
    plan = _plan(models={"mini": {"source": "beliefs", "statements": ["truth", "not"]}})
    (corpus,), (posterior,), (world,) = (plan.of(stage) for stage in ("corpus", "posterior", "beliefs"))
    assert {*corpus.inputs} == {"world", "teach_observation", "teach_truth", "teach_not"}
    assert posterior.settings["statements"] == ["truth", "not"] and posterior.settings["probability"] == 0.95
    assert {node.digest for node in (corpus.inputs["world"], posterior.inputs["world"])} == {world.digest}
    assert not plan.of("world") and not plan.of("questions") and not plan.world_reports


def test_every_editor_is_asked_what_the_reader_believes() -> None:
    plan = _plan()
    (posterior,) = plan.of("posterior")
    assert {cell.singles.inputs["posterior"].digest for cell in plan.singles} == {posterior.digest}
    assert {"lora", "unedited"} < {cell.key.editor for cell in plan.singles} and not plan.cells


def test_another_reader_changes_what_is_asked_but_no_model() -> None:
    plain, shares = _plan(), _plan(posterior={"sweeps": 0})
    assert {node.name for node in plain.of("pretrain")} == {node.name for node in shares.of("pretrain")}
    assert not {node.name for node in plain.of("edit_single")} & {node.name for node in shares.of("edit_single")}


def test_the_study_is_foreseen() -> None:
    estimates = ResourceEstimates(_plan(), has_device=False)
    assert {job.node.stage for job in estimates.jobs} > {"beliefs", "posterior", "pretrain", "edit_single"} and not estimates.unknown


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"models": {"mini": {"source": "world"}}}, r"asked of models with `source: beliefs`, and \['mini'\] have another"),
        ({"datasets": {"beliefs": {"source": "beliefs", "style": "truth"}}}, "`style: requests`, which 'beliefs' is not"),
        ({"datasets": {"beliefs": {"source": "beliefs", "style": "xor"}}}, "unknown style 'xor'"),
    ],
)
def test_beliefs_are_asked_only_where_there_are_some(changes: dict[str, Any], found: str) -> None:
    with pytest.raises(SettingsError, match=found):
        _plan(**changes)

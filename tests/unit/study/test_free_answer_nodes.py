"""Free answers and verdicts in a resolved study: who reads whom, what changes which hash, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from d4s.errors import SettingsError
from d4s.resources.job_estimates import ResourceEstimates
from d4s.study.plan import StudyPlan
from d4s.study.resolve import plain_values, resolve
from d4s.study.rule_lookups import RuleLookups
from d4s.study_settings import Study

ROOT = Path(__file__).resolve().parents[3]
GRID = [{"models": ["mini"], "datasets": ["world_qa"], "editors": ["unedited", "memit", "ft_m"], "lengths": [10, 20]}]


def study_of(**changes: Any) -> Study:
    return Study.model_validate(yaml.safe_load((ROOT / "params.yaml").read_text()) | {"grid": GRID} | changes)


def asking(judge: dict[str, Any] | None = None, measure: dict[str, Any] | None = None, **asked: Any) -> StudyPlan:
    judged = {} if judge is None else {"judge": judge}
    return resolve(study_of(measure={**(measure or {}), "free_answers": asked}, **judged))


def test_every_cell_reads_what_the_unedited_model_answered() -> None:
    plan = asking()
    by_label = {node.label: node for node in plan.of("answer")}
    unedited = by_label["mini.world_qa.unedited.s1"]
    assert len(by_label) == 3 and set(unedited.inputs) == {"model", "facts"} and unedited.outputs == ("n10.json", "n20.json")
    for editor in ("memit", "ft_m"):
        found = by_label[f"mini.world_qa.{editor}.s1"]
        assert found.inputs["unedited"].digest == unedited.digest and {"run", "model", "facts"} <= set(found.inputs)
        assert not {"text", "baseline", "targets"} & set(found.inputs)
    (cell,) = (cell for cell in plan.cells if cell.key.editor == "unedited")
    assert [node.name for node in cell.free_answers] == [unedited.name]


def test_nothing_else_of_a_study_changes_where_they_are_asked_for() -> None:
    without, with_answers = resolve(study_of()), asking()
    assert {node.name for node in without.nodes} == {node.name for node in with_answers.nodes if node.stage != "answer"}
    assert "free_answers" not in study_of().measure.model_dump() and "judge" not in plain_values(study_of())


def test_the_process_of_a_run_answers_too_and_the_unedited_model_has_a_job_of_its_own() -> None:
    lookups = RuleLookups(asking({"judge": "stand_in"}))
    for run in lookups.plan.of("edit"):
        stages = [node.stage for node in lookups.ahead(run.name)]
        assert ("answer" in stages) is (".unedited." not in run.label) and "judge" not in stages
    jobs = {job.node.stage: job for job in ResourceEstimates(lookups.plan, has_device=False).jobs}
    assert jobs["answer"].requirements.host_bytes > jobs["judge"].requirements.host_bytes > 0


def test_a_judge_reads_answers_alone_and_where_it_is_asked_enters_no_hash() -> None:
    model = {"judge": "openai", "model": "m"}
    plans = [asking(judge) for judge in ({"judge": "stand_in"}, model, {**model, "store": "elsewhere.jsonl", "concurrency": 1})]
    names = [{node.name for node in plan.of("judge")} for plan in plans]
    assert names[1] == names[2] != names[0] and all(len(found) == 3 for found in names)
    assert all(set(node.inputs) == {"answers"} for node in plans[0].of("judge"))
    assert '"store":"elsewhere.jsonl"' in plans[2].of("judge")[0].settings_text
    assert {node.name for node in plans[0].nodes if node.stage != "judge"} == {node.name for node in asking().nodes}


@pytest.mark.parametrize("chosen", [{"judge": "replay", "model": "m"}, {"judge": "file", "name": "Eva", "version": "1"}])
def test_recorded_verdicts_enter_by_their_content(chosen: dict[str, str], tmp_path: Path) -> None:
    replay = {**chosen, "store": str(tmp_path / "a.jsonl")}
    with pytest.raises(SettingsError, match=r"judge\.store.*does not exist"):
        asking(replay)
    (tmp_path / "a.jsonl").touch()
    first = asking(replay)
    (tmp_path / "b.jsonl").touch()
    same, other = asking({**replay, "store": str(tmp_path / "b.jsonl")}), tmp_path / "c.jsonl"
    other.write_text("{}\n")
    names = [{node.name for node in plan.of("judge")} for plan in (first, same, asking({**replay, "store": str(other)}))]
    assert names[0] == names[1] and not names[0] & names[2]
    assert plain_values(first.study)["judge"]["store"] == replay["store"]


def test_a_judge_needs_answers() -> None:
    with pytest.raises(SettingsError, match="nothing to judge"):
        resolve(study_of(judge={"judge": "stand_in"}))

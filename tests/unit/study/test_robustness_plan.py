"""Shifted prompts in a resolved study: which cells are asked at which shares, and by what; other studies stay as they are."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from d4s.resources.job_estimates import ResourceEstimates
from d4s.study.plan import StudyPlan
from d4s.study.resolve import resolve
from d4s.study.rule_lookups import RuleLookups
from d4s.study_settings import Study, load_study

ROOT = Path(__file__).resolve().parents[3]
ROW = {"models": ["mini"], "datasets": ["world_qa"], "editors": ["ft_m", "grace"], "lengths": [10, 20], "shares": [1.0]}


def _plan(*rows: dict[str, Any], **changes: Any) -> StudyPlan:
    study = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"editors": {}, "grid": list(rows)} | changes
    return resolve(Study.model_validate(study))


def test_a_length_is_asked_once_at_the_shares_of_all_its_rows() -> None:
    plan = _plan(ROW, ROW | {"editors": ["ft_m"], "lengths": [20, 30], "shares": [0.0, 0.5]})
    found = {(one.key.editor, one.lengths): one.answers for one in plan.answers}
    assert {(key, tuple(node.settings["shares"])) for key, node in found.items() if node.stage == "robustness"} == {
        (("ft_m", (10,)), (1.0,)),
        (("ft_m", (20,)), (0.0, 0.5, 1.0)),
        (("ft_m", (30,)), (0.0, 0.5)),
        (("grace", (10, 20)), (1.0,)),
    }
    assert [node.stage for (editor, _), node in found.items() if not editor] == ["ordinary"]
    assert "baseline" not in found["grace", (10, 20)].inputs and found["grace", (10, 20)].inputs["run"].stage == "edit"


def test_the_models_that_are_kept_change_the_model_and_its_answers_alone() -> None:
    models = {"mini": {"source": "world", "pretrain": {"keep_checkpoints": 8}}}
    plain, kept = _plan(ROW), _plan(ROW, models=models)
    assert plain.of("pretrain")[0].settings == {k: v for k, v in kept.of("pretrain")[0].settings.items() if k != "keep_checkpoints"}
    assert plain.of("corpus")[0].name == kept.of("corpus")[0].name and plain.of("ordinary")[0].name != kept.of("ordinary")[0].name
    few, many = ([*ResourceEstimates(plan, has_device=False).of(plan.of("ordinary")[0])] for plan in (plain, kept))
    assert few[0].requirements.work.single * 9 == pytest.approx(many[0].requirements.work.single)


def test_the_process_that_edits_also_asks() -> None:
    lookups = RuleLookups(_plan(ROW))
    (run,) = (node for node in lookups.plan.of("edit") if ".ft_m." in node.name)
    assert [node.stage for node in lookups.ahead(run.name)] == ["measure", "robustness"]


def test_rows_without_shares_ask_nothing_and_single_edits_cannot() -> None:
    assert _plan(ROW | {"shares": []}).answers == ()
    with pytest.raises(ValueError, match="shifted prompts are asked after sequences"):
        _plan(ROW | {"lengths": [10], "protocol": "single", "probes": ["efficacy"]})


def test_more_shares_are_more_work() -> None:
    plans = [_plan(ROW | {"editors": ["ft_m"], "shares": shares}) for shares in ([1.0], [0.0, 0.5, 1.0])]
    (few,), (many,) = ([*ResourceEstimates(plan, has_device=False).of(plan.of("robustness")[0])] for plan in plans)
    assert few.requirements.work.single < many.requirements.work.single < 3.1 * few.requirements.work.single


def test_the_study_walks_at_one_layer_and_one_length() -> None:
    plan = resolve(load_study(ROOT / "grids" / "robustness.yaml"))
    walked = {(one.key.editor, one.lengths) for one in plan.answers if len(one.answers.settings.get("shares", ())) == 11}
    assert walked == {(f"{name}@2", (50,)) for name in ("ft_free", "ft_m", "rome", "memit", "alphaedit", "d4s_even")}
    assert {one.key.editor.partition("@")[2] for one in plan.answers if one.key.editor} == {"0", "2", "3"}
    assert len(plan.of("ordinary")) == 3 and plan.of("pretrain")[0].settings["keep_checkpoints"] == 8

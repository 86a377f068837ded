"""What rules look up in a plan: inputs by role, shards, what one process makes, and in which order; and that rules and plan agree."""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from d4s.study.graph import Node
from d4s.study.plan import StudyPlan
from d4s.study.resolve import resolve
from d4s.study.rule_lookups import RuleLookups
from d4s.study.stages import STAGES
from d4s.study.validation import _needed_files
from d4s.study_settings import Study

ROOT = Path(__file__).resolve().parents[3]
RARE = {  # what no study of grids/ reads
    "models": {"mini": {"source": "hf", "path": "model", "hparams_for": "mini"}},
    "datasets": {
        "checked": {"source": "counterfact_edit", "style": "checked"},
        "ripple": {"source": "rippleedits"},
        "pep": {"source": "csk_pep3k", "style": "subset"},
        "chosen": {"source": "counterfact_edit", "style": "checked", "only": "answers.jsonl"},
        "asked": {"source": "questions", "events": "world", "form": "true_false"},
    },
    "questions": {"writer": "replay", "store": "answers.jsonl"},
    "measure": {"free_answers": {}},
    "judge": {"judge": "replay", "store": "answers.jsonl", "model": "judge"},
    "world": {"reserve": 0.1},
    "editors": {
        "encoded": {"preset": "serac", "encoder": {"kind": "folder", "path": "model"}, "answer": {"kind": "trained"}},
    },
    "grid": [
        {
            "models": ["mini"],
            "datasets": ["checked", "chosen", "ripple", "pep", "asked"],
            "editors": ["memit", "alphaedit"],
            "lengths": [3],
        },
        {"models": ["mini"], "datasets": ["asked"], "editors": ["encoded"], "lengths": [3], "benchmark": "longest"},
        {
            "models": ["mini"],
            "datasets": ["asked"],
            "editors": ["alphaedit", "d4s"],
            "lengths": [3],
            "protocol": "single",
            "probes": ["text"],
        },
    ],
}


def _lookups(**changes: Any) -> RuleLookups:
    return RuleLookups(resolve(Study.model_validate(yaml.safe_load((ROOT / "params.yaml").read_text()) | changes)))


# --- roles ------------------------------------------------------------------------------------------------------------


def _plans(folder: Path) -> list[StudyPlan]:
    """Every study of the repository and one of rare inputs, with empty files in the places of all data."""
    default = yaml.safe_load((ROOT / "params.yaml").read_text())
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "answers.jsonl").touch()
    (folder / "grids").symlink_to(ROOT / "grids")  # files of settings are named from the checkout
    found = []
    for settings in [default, default | RARE, *(yaml.safe_load(path.read_text()) for path in sorted((ROOT / "grids").glob("*.yaml")))]:
        study = Study.model_validate(settings)
        for name in _needed_files(study):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        found.append(resolve(study))
    return found


def _roles_of_rules() -> dict[str, set[str]]:
    """The roles that each rule names, by stage."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
    found: dict[str, set[str]] = {stage: set() for stage in STAGES}
    for rule in re.split(r"^rule (?=\w+:)", text, flags=re.MULTILINE)[1:]:
        stage = rule.partition(":")[0].removesuffix("_shard")
        if named := re.search(r"inputs_of\(([^)]*)\)", rule):
            roles = set(re.findall(r'"([^"]+)"', named[1]))
            assert found[stage] in (set(), roles), f"a shard of {stage} reads what the whole reads"
            found[stage] = roles
    return found


def test_rules_name_the_roles_that_the_plan_gives_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D4S_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rules, given = _roles_of_rules(), defaultdict[str, set[str]](set)
    for node in (node for plan in _plans(tmp_path) for node in plan.nodes):
        given[node.stage] |= set(node.inputs)
    for stage, named in rules.items():
        families = {role.removesuffix("*") for role in named if role.endswith("*")}
        plain = {role for role in given[stage] if not role.startswith(tuple(families))}
        assert plain == {role for role in named if not role.endswith("*")}, stage
        assert all(any(role.startswith(family) for role in given[stage]) for family in families), stage


def test_inputs_are_the_markers_of_all_parts_that_the_plan_wants() -> None:
    lookups = _lookups()
    benchmark = next(node for node in lookups.plan.of("benchmark") if ".world_qa.d4s." in node.name)
    found = lookups.inputs(benchmark.name, ["run", "items_*", "world", "text"])
    assert set(found) == {"run", "world"} and found["run"].endswith("/done/10-50-100-200-300.json")
    assert lookups.inputs(lookups.plan.of("world")[0].name, ["model"]) == {}


# --- order ------------------------------------------------------------------------------------------------------------


def test_the_first_draw_of_a_data_set_also_makes_its_objectives() -> None:
    lookups = _lookups(seeds=[1, 2])
    (objectives,) = (node for node in lookups.plan.of("objectives") if node.label == "mini.world_qa")
    (leader,) = lookups.leader(objectives.name)
    assert ".world_qa.s1-" in leader and "/baselines/" in leader
    by_stage = {name: [node.stage for node in lookups.ahead(name)] for name in (node.name for node in lookups.plan.of("baseline"))}
    assert sorted(map(tuple, by_stage.values()), key=len)[-1] == ("baseline", "targets", "objectives")
    assert sum("targets" in stages for stages in by_stage.values()) == len(lookups.plan.of("targets"))


def test_what_is_made_ahead_waits_for_its_leader_which_waits_for_what_it_reads() -> None:
    lookups = _lookups()
    for leader in (node for node in lookups.plan.nodes if lookups.ahead(node.name)):
        own = {*lookups.inputs(leader.name, ["*"]).values(), *lookups.inputs_ahead(leader.name)}
        made = {str(node.marker) for node in (leader, *lookups.ahead(leader.name))}
        for node in lookups.ahead(leader.name):
            assert str(leader.marker) in lookups.leader(node.name)
            assert set(lookups.inputs(node.name, ["*"]).values()) <= own | made


def test_a_sweep_over_layers_is_edited_in_one_process() -> None:
    row = {"models": ["mini"], "datasets": ["world_qa"], "protocol": "single", "lengths": [20], "probes": ["efficacy"]}
    swept = row | {"editors": ["rome", "ft_m"], "sweep": {"layers": [0, 2, 3]}}
    grid = {"grid": [swept, row | {"editors": ["memit", "d4s"]}], "seeds": [1, 2]}
    lookups = _lookups(**grid)
    leaders = {node.label: [one.label for one in lookups.ahead(node.name)] for node in lookups.plan.of("edit_single")}
    leaders = {leader: others for leader, others in leaders.items() if others}
    assert leaders == {
        f"mini.world_qa.{editor}@0.s{seed}": [f"mini.world_qa.{editor}@{layer}.s{seed}" for layer in (2, 3)]
        for editor in ("rome", "ft_m")
        for seed in (1, 2)
    }
    sharded = _lookups(**grid, execution={"shards": {"edit_single": 2}})
    assert not any(sharded.ahead(node.name) for node in sharded.plan.of("edit_single"))


def test_shards_have_markers_of_their_own_and_no_process_that_makes_them_ahead() -> None:
    lookups = _lookups(execution={"shards": {"targets": 3, "moments": 2}})
    (moments,) = lookups.plan.of("moments")
    assert [Path(path).name for path in lookups.shards(moments.name)] == ["0.json", "1-2.json"]
    assert {Path(path).parent for path in lookups.shards(moments.name)} == {moments.folder / "shards"}
    for targets in lookups.plan.of("targets"):
        assert len(lookups.shards(targets.name)) == 3 and not lookups.leader(targets.name)
    whole = _lookups()
    assert whole.shards(moments.name) == [] and whole.nodes[moments.name].marker == moments.marker


def test_names_match_their_own_stage_alone() -> None:
    lookups = _lookups()
    for stage in STAGES:
        matched = {name for name in lookups.nodes if re.fullmatch(lookups.names(stage), name)}
        assert matched == {node.name for node in lookups.plan.of(stage)}


def test_every_artefact_has_a_name_of_its_own() -> None:
    plan = _lookups().plan
    assert len({node.name for node in plan.nodes}) == len(plan.nodes)
    assert all(isinstance(node, Node) for node in plan.nodes)


def test_a_job_that_finds_its_parts_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'pandas', 'pyarrow', 'numpy'}"
    code = f"import sys; import d4s.cli, d4s.runs.run_settings, d4s.editors.editor_settings; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

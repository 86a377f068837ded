"""The study of collapse in a resolved plan: one model asked in two ways, hard cases of its single edits, sequences made of them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from d4s.errors import SettingsError
from d4s.resources.job_estimates import ResourceEstimates
from d4s.study.plan import StudyPlan
from d4s.study.resolve import resolve
from d4s.study_settings import Study

GRID = Path(__file__).resolve().parents[3] / "grids" / "collapse.yaml"
GIVEN: dict[str, Any] = yaml.safe_load(GRID.read_text(encoding="utf-8")) | {"seeds": [1], "ignore_code_changes": True}
DATASETS = GIVEN["datasets"]


def _plan(**changes: Any) -> StudyPlan:
    return resolve(Study.model_validate(GIVEN | changes))


@pytest.fixture(scope="module")
def plan() -> StudyPlan:
    return _plan(seeds=[1, 2])


def test_one_model_is_trained_and_asked_in_two_ways(plan: StudyPlan) -> None:
    (trained,), (asked,) = plan.of("pretrain"), plan.of("start")
    assert asked.inputs["model"].digest == trained.digest
    assert {text.inputs["text"].name for text in plan.of("moments")} == {node.name for node in plan.of("corpus") if node.label == "mini"}
    assert {node.label for node in plan.of("corpus")} == {"mini", "bare"} and len(plan.world_reports) == 1
    texts = {single.key.model: single.singles.inputs["text"].label for single in plan.singles}
    assert texts == {"mini": "mini", "bare": "bare"}


def test_sequences_are_made_of_hard_cases_and_these_of_single_edits(plan: StudyPlan) -> None:
    (cases,) = plan.of("hard_cases")
    assert cases.settings == {"count": 40, "times": 10.0, "requests": 100}
    assert {role for role in cases.inputs if role != "facts"} == {
        f"singles_{seed}_{editor}" for seed in (1, 2) for editor in ("unedited", *GIVEN["hard_cases"]["editors"])
    }
    assert {node.settings["cases"] for node in plan.of("subset")} == {"hard", "normal"}
    assert {cell.key.dataset for cell in plan.cells} == {"hard", "normal"}
    singles = {single.singles.name for single in plan.singles}
    assert {node.name for role, node in cases.inputs.items() if role != "facts"} <= singles


def test_a_list_keeps_facts_by_its_content(tmp_path: Path) -> None:
    file, names = tmp_path / "kept.txt", []
    for ids in ("world_qa:p0001.city", "world_qa:p0002.city"):
        file.write_text(f"{ids}\n", encoding="utf-8")
        plan = _plan(datasets=DATASETS | {"hard": {"source": "world", "style": "qa", "only": str(file)}})
        names.append({node.label: node.name for node in plan.of("subset")})
    assert names[0]["normal"] == names[1]["normal"] and names[0]["hard"] != names[1]["hard"]


def test_the_study_is_foreseen(plan: StudyPlan) -> None:
    estimates = ResourceEstimates(plan, has_device=False)
    assert {job.node.stage for job in estimates.jobs} > {
        "start",
        "subset",
        "hard_cases",
        "pretrain",
        "edit_single",
    } and not estimates.unknown


def test_settings_of_other_studies_say_nothing_new() -> None:
    plain = {key: value for key, value in GIVEN.items() if key != "hard_cases"} | {
        "world": {"seed": 0},
        "models": {"mini": {"source": "world"}},
        "datasets": {"world_qa": DATASETS["world_qa"]},
        "grid": [GIVEN["grid"][0] | {"models": ["mini"]}],
    }
    (world,), (corpus,) = (resolve(Study.model_validate(plain)).of(stage) for stage in ("world", "corpus"))
    assert "mononyms" not in world.settings and "bos" not in corpus.settings


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"hard_cases": None}, r"datasets\.hard\.only: 'hard' needs `hard_cases`"),
        ({"hard_cases": GIVEN["hard_cases"] | {"editors": ["d4s_even"]}}, "no row edits 'world_qa' of 'bare' by 'd4s_even'"),
        ({"models": GIVEN["models"] | {"bare": {"source": "model", "of": "maxi"}}}, r"models\.bare\.of: 'maxi' is no model"),
        (
            {"datasets": DATASETS | {"hard": {"source": "world", "style": "labels", "only": "hard"}}},
            "its facts are not those of 'world_qa'",
        ),
        ({"datasets": DATASETS | {"hard": DATASETS["hard"] | {"only": "nowhere.txt"}}}, r"nowhere\.txt does not exist"),
        ({"hard_cases": GIVEN["hard_cases"] | {"count": 30}}, "40 edits asked of 'hard', which has at most 30"),
    ],
)
def test_what_does_not_fit_is_told(changes: dict[str, Any], found: str) -> None:
    with pytest.raises(SettingsError, match=found):
        _plan(**changes)

"""The rules of SERAC's claims on made-up studies with known effects, the figure and the table of the same numbers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from d4s.analysis.claim import judge
from d4s.analysis.claim_groups import CLAIM_GROUPS
from d4s.analysis.memory_results import ERRORS, MemoryResults
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.figures import fig_memory
from d4s.figures.plot_elements import FigureSkipped
from d4s.figures.style import NARROW, WIDE
from d4s.schemas import NEAR_MISSES
from d4s.tables.tab_memory import table
from d4s.tables.table import TableSkipped
from tests.remembered import JUDGED, KEEPING, REMEMBERING, ROUTING, Routing, memory_study
from tests.synthetic import METHODS, Made, write_study

CLAIMS = {claim.claim_id: claim for claim in CLAIM_GROUPS.load("memory")}


def judged(results: Results, claim_id: str) -> dict[str, Any]:
    return judge(CLAIMS[claim_id], results)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return memory_study(tmp_path_factory.mktemp("memory"))


@pytest.mark.parametrize("claim_id", [*CLAIMS])
def test_every_claim_can_hold(whole: Results, claim_id: str) -> None:
    entry = judged(whole, claim_id)
    assert entry["verdict"] == "holds", entry["why"]
    assert entry["seeds"] == 3 and CLAIMS[claim_id].shown_in


@pytest.mark.parametrize(
    ("claim_id", "change"),
    [
        ("SE1", {"serac_trained": replace(KEEPING, start=0.2)}),
        ("SE2", {"serac_trained": replace(KEEPING, forget=0.9)}),
        ("SE5", {"serac_soft": replace(KEEPING, locality_loss=0.0), "serac_trained": replace(KEEPING, locality_loss=0.4)}),
    ],
)
def test_claims_about_scores_can_fail(tmp_path: Path, claim_id: str, change: dict[str, Any]) -> None:
    results = memory_study(tmp_path, replace(JUDGED, methods={**REMEMBERING, **change}))
    assert judged(results, claim_id)["verdict"] == "does not hold"


def test_claims_about_the_router_can_fail(tmp_path: Path) -> None:
    results = memory_study(tmp_path, JUDGED, {**ROUTING, "serac_far": Routing(near=0.02), "serac_trained": Routing(0.02, 0.0)}, wrong=0.3)
    assert [judged(results, claim)["verdict"] for claim in ("SE3", "SE4")] == ["does not hold", "does not hold"]


def test_too_few_failures_decide_nothing(tmp_path: Path) -> None:
    results = memory_study(tmp_path, JUDGED, dict.fromkeys(ROUTING, Routing(0.02, 0.0)), wrong=0.0)
    entry = judged(results, "SE4")
    assert entry["verdict"] == "undecided" and "fewer than 20 failures in a draw" in entry["why"][-1]


def test_a_study_without_serac_measures_nothing(tmp_path: Path) -> None:
    results = Results(write_study(tmp_path, Made(methods={"rome": METHODS["rome"]}, lengths=(10,), forms=False)))
    assert {judged(results, claim)["verdict"] for claim in CLAIMS} == {"not measured"}
    with pytest.raises(FigureSkipped, match=r"measure\.memory"):
        fig_memory.figure(results)
    with pytest.raises(TableSkipped, match=r"measure\.memory"):
        table(results)


def test_errors_in_scope_are_split_by_where_they_come_from(whole: Results) -> None:
    memory, run = MemoryResults(whole), RunKey("mini", "world_qa", "serac_trained", 1)
    answers = memory.answers_in_scope(run, 300)
    assert len(answers) == 600 and (answers[[*ERRORS]].sum(axis=1) == 1 - answers["right"]).all()
    assert answers["missed"].mean() == pytest.approx(0.1, abs=0.03) and answers["wrong entry"].mean() == pytest.approx(0.05, abs=0.03)
    rates = memory.rates(run, 300)
    assert rates["recall"] == pytest.approx(0.85, abs=0.04) and rates["neighborhood"] == 1.0 and rates["same_subject"] > 0.95
    assert rates["precision"] < 1.0


def test_figure_and_table_show_the_same_study(whole: Results) -> None:
    panel = Panel("mini", "world_qa")
    assert MemoryResults(whole).editors(panel) == ["serac_far", "serac_soft", "serac_trained"]
    drawing = fig_memory.figure(whole)
    for page in (WIDE, NARROW):
        assert len(drawing.draw(page).axes) == 4
    rows = table(whole).frame.set_index(["method", "edits"])
    assert rows.loc[("serac trained", 300), NEAR_MISSES] > rows.loc[("serac far", 300), NEAR_MISSES] + 0.2
    assert rows.loc[("serac trained", 300), "missed"] == pytest.approx(0.1, abs=0.03)
    assert rows["recall"].notna().sum() == 6

"""Errors of beliefs: none where a model believes what the Bayesian reader does, and what single edits of made-up studies are judged by."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from d4s.analysis.belief_errors import QUESTIONS, belief_errors, logic_errors
from d4s.analysis.belief_results import BeliefResults
from d4s.analysis.claims import claims, claims_of
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.artifacts import write_json
from d4s.config import PosteriorSettings
from d4s.figures.figure_stage import GROUP_FIGURES
from d4s.figures.plot_elements import FigureSkipped
from d4s.tables.tab_beliefs import COLUMNS, table
from d4s.tables.table import TableSkipped
from d4s.world.posterior import CASES, RequestedBelief
from tests.belief_study import EDITORS, REQUESTS, Editing, add_beliefs, believed
from tests.beliefs import small_reader, small_requests, small_world
from tests.synthetic import METHODS, Made, settings, write_study

MADE = Made(methods={"rome": METHODS["rome"]}, lengths=(10,), forms=False)
LORA = RunKey("mini", "beliefs", "lora", 1)


def study(folder: Path, editors: dict[str, Editing] | None = None, error: float = 0.02) -> Results:
    write_study(folder, MADE)
    write_json(folder / "study.json", {**settings(MADE), "claims": ["beliefs"]})
    return Results(add_beliefs(folder, editors, error))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return study(tmp_path_factory.mktemp("study"))


def verdicts(results: Results) -> dict[str, dict[str, Any]]:
    claims(results.folder)
    return {entry["id"]: entry for entry in json.loads((results.folder / "claims.json").read_text(encoding="utf-8"))}


def test_a_model_that_believes_what_the_reader_does_has_no_error() -> None:

    rows = [row for fact in small_requests()[:15] for row in _rows(fact)]
    for column in ("prior", "posterior"):
        believed = pd.DataFrame(rows).pivot(index="fact_id", columns="question", values=column)
        assert {*believed} == {*QUESTIONS}
        for when in ("before", "after"):
            assert belief_errors(believed, believed, when).to_numpy().max() == 0
        assert logic_errors(believed).to_numpy().max() < 1e-12


def _rows(fact) -> list[dict[str, Any]]:
    return [*RequestedBelief.of(small_world(), small_reader(), fact, PosteriorSettings()).rows()]


def test_every_error_sees_what_it_is_about() -> None:
    prior, _, _ = believed()
    wrong = prior.assign(**{"and": prior["and"] + 0.1})
    found = logic_errors(wrong)
    assert found["and"].to_numpy() == pytest.approx(0.1) and found["order"].to_numpy() == pytest.approx(0.1)
    assert found[["truth", "negation", "or"]].to_numpy().max() < 1e-12
    moved = prior.assign(**{"same_relation.after": prior["same_relation.after"] - 0.3})
    assert belief_errors(moved, prior).max().round(12).to_dict() == {case: 0.3 * (case == "same_relation") for case in CASES}


def test_the_error_of_and_takes_both_claims_as_probabilities_of_truth() -> None:
    """The release multiplies the probability of A's label with that of B being true, which is wrong where A's label is false."""
    prior, _, _ = believed()
    unlikely = prior[prior["truth"] < 0.2]
    by_label = (unlikely["and"] - (1 - unlikely["truth"]) * unlikely["other"]).abs()
    assert logic_errors(unlikely)["and"].max() < 1e-12 < 0.3 < by_label.min()


# --- a study ----------------------------------------------------------------------------------------------------------


def test_beliefs_come_back_by_request_and_question(results: Results) -> None:
    cell = BeliefResults.of(results).cell(LORA)
    prior, after, requests = believed()
    assert cell.prior[[*QUESTIONS]].equals(prior) and cell.posterior[[*QUESTIONS]].equals(after)
    assert cell.requests["dependent"].tolist() == requests["dependent"].tolist()
    assert cell.errors_after.loc[~requests["dependent"], "same_subject"].max() == 0
    assert cell.changes["different"].to_numpy() == pytest.approx(-0.02)
    assert cell.gate() == pytest.approx({"belief": 0.02, "truth": 0.0}, abs=1e-9)


def test_verdicts_follow_from_the_effects(results: Results) -> None:
    found = verdicts(results)
    assert [claim.claim_id for claim in claims_of(["beliefs"])] == [name for name in found if name.startswith("BR")]
    assert {name: found[name]["verdict"] for name in ("BR1", "BR2", "BR3", "BR4", "BR5")} == dict.fromkeys(
        ("BR1", "BR2", "BR3", "BR4", "BR5"), "holds"
    )
    assert [condition["name"] for condition in found["BR5"]["conditions"]] == ["ROME, Beliefs"]
    assert len(found["BR3"]["conditions"]) == 4 and any("FT-M" in why for why in found["BR1"]["why"])


@pytest.mark.parametrize(
    ("editing", "broken"),
    [
        (Editing(learns=0.5), "BR1"),
        (Editing(follows=1.0), "BR2"),
        (Editing(breaks=0.0), "BR3"),
        (Editing(spills=0.2), "BR4"),
    ],
)
def test_each_claim_can_fail(editing: Editing, broken: str, tmp_path: Path) -> None:
    found = verdicts(study(tmp_path / "study", {"lora": editing}))
    others = [name for name in ("BR1", "BR2", "BR3", "BR4") if name != broken]
    assert found[broken]["verdict"] == "does not hold" and {found[name]["verdict"] for name in others} == {"holds"}
    assert found["BR5"]["verdict"] == "not measured"


def test_nothing_is_judged_on_a_model_that_does_not_believe_what_the_reader_does(tmp_path: Path) -> None:
    found = verdicts(study(tmp_path / "study", error=0.2))
    assert {found[name]["verdict"] for name in ("BR1", "BR2", "BR3", "BR4", "BR5")} == {"not measured"}
    assert "before any edit mini is off by 20.0 pp about objects" in found["BR1"]["why"][0]


def test_a_study_without_beliefs_has_no_verdict_figure_or_table(tmp_path: Path) -> None:
    results = Results(write_study(tmp_path / "study", MADE))
    assert BeliefResults.of(results).panels == []
    with pytest.raises(TableSkipped, match="no single edits"):
        table(results)
    for name in ("fig_beliefs", "fig_dependence"):
        with pytest.raises(FigureSkipped):
            GROUP_FIGURES["beliefs"][name](results)


def test_the_table_has_every_editor_by_kind_of_request(results: Results) -> None:
    frame = table(results).frame
    assert frame[["method", "requests"]].value_counts().max() == 1 and len(frame) == 3 * (1 + len(EDITORS))
    lora = frame[frame["method"] == "LoRA"].set_index("requests")
    assert lora.loc["all", "n"] == REQUESTS == lora.loc[["dependent", "independent"], "n"].sum()
    assert lora.loc["dependent", "error_same_subject"] > 0.5 > 1e-9 > lora.loc["independent", "error_same_subject"]
    assert lora["exact_same_same"].eq(1).all() and np.isfinite(frame[[column.key for column in COLUMNS]].to_numpy(float)).all()
    assert [*frame[frame["reference"]]["method"].unique()] == ["Unedited"]


def test_editors_of_a_panel_stand_in_display_order(results: Results) -> None:
    assert BeliefResults.of(results).editors(Panel("mini", "beliefs")) == ["ft_m", "lora", "rome"]

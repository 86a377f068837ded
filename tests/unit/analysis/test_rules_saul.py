"""The rules of SAUL's claims on made-up studies with known effects, the figure and the table of the same numbers."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from d4s.analysis.claim import judge
from d4s.analysis.claims import claims_of
from d4s.analysis.edit_costs import EditCost, edit_cost
from d4s.analysis.study_results import Results, RunKey
from d4s.figures.fig_fluency import figure
from d4s.figures.plot_elements import FigureSkipped
from d4s.figures.style import NARROW, WIDE
from d4s.schemas import ENTROPY, LOOPS
from d4s.tables.tab_saul import table
from d4s.tables.table import TableSkipped
from tests.synthetic import Made, write_study
from tests.written import BOTH_ROWS, EDITORS, ENTROPIES, GENTLE, PLAIN, SECONDS, writing_study

CLAIMS = {claim.claim_id: claim for claim in claims_of(["saul"])}
MASS_ONLY = {name: method for name, method in BOTH_ROWS.items() if name.endswith("_mass") or name in ("rome", "unedited")}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return writing_study(tmp_path_factory.mktemp("study"))


def made(methods: dict[str, Any], **changes: Any) -> Made:
    editors = {name: definition for name, definition in EDITORS.items() if name in methods}
    return Made(methods=methods, editors=editors, lengths=(100,), forms=False, summed=False, **{"seeds": (1, 2), **changes})


def test_every_claim_holds_where_its_effect_is_there(results: Results) -> None:
    entries = {name: judge(claim, results) for name, claim in CLAIMS.items()}
    assert {name: entry["verdict"] for name, entry in entries.items()} == dict.fromkeys(CLAIMS, "holds")
    assert {name: len(entry["conditions"]) for name, entry in entries.items()} == {"SA1": 2, "SA2": 4, "SA3": 2, "SA4": 4, "SA5": 2}
    kept = [condition for condition in entries["SA2"]["conditions"] if condition["name"].startswith("0.30 bits − loss")]
    assert [condition["effect"] for condition in kept] == pytest.approx([0.2, 0.2]) and kept[0]["unit"] == "bits"


@pytest.mark.parametrize(
    ("claim", "entropies", "expected"),
    [
        ("SA2", {**ENTROPIES, "saul": 3.05}, "does not hold"),
        ("SA2", {**ENTROPIES, "unedited": 5.0}, "does not hold"),
        ("SA4", {**ENTROPIES, "ft_facts": 3.95}, "does not hold"),
    ],
)
def test_fluency_is_judged_against_all_three_references(claim: str, entropies: dict[str, float], expected: str, tmp_path: Path) -> None:
    found = judge(CLAIMS[claim], writing_study(tmp_path, made(dict(BOTH_ROWS), seeds=(1,)), entropies))
    assert found["verdict"] == expected


def test_specificity_and_the_average_are_judged_with_their_margins(tmp_path: Path) -> None:
    methods = {**BOTH_ROWS, "saul_mass": replace(PLAIN, start=0.4), "saul": replace(PLAIN, locality_loss=0.45)}
    found = writing_study(tmp_path, made(methods))
    assert judge(CLAIMS["SA1"], found)["verdict"] == "does not hold"
    spe = judge(CLAIMS["SA3"], found)
    assert spe["verdict"] != "holds" and {condition["margin"] for condition in spe["conditions"]} == {0.05}


def test_rows_that_were_not_run_are_not_asked_for(tmp_path: Path) -> None:
    found = writing_study(tmp_path, made(MASS_ONLY))
    assert len(judge(CLAIMS["SA2"], found)["conditions"]) == 2
    without_rivals = made({"saul_mass": GENTLE})
    entry = judge(CLAIMS["SA1"], writing_study(tmp_path / "alone", without_rivals))
    assert entry["verdict"] == "not measured" and "ROME were not both run to one length" in entry["why"][0]


def test_a_study_without_saul_or_without_texts_measures_nothing(tmp_path: Path) -> None:
    silent = Results(write_study(tmp_path, made(dict(BOTH_ROWS))))
    assert judge(CLAIMS["SA2"], silent)["verdict"] == judge(CLAIMS["SA5"], silent)["verdict"] == "not measured"
    others = Results(write_study(tmp_path / "other", made({name: BOTH_ROWS[name] for name in ("rome", "memit")})))
    assert {judge(claim, others)["verdict"] for claim in CLAIMS.values()} == {"not measured"}
    for make, skipped in ((figure, FigureSkipped), (table, TableSkipped)):
        with pytest.raises(skipped, match=r"has no `measure\.fluency`"):
            make(silent)


# --- costs --------------------------------------------------------------------------------------------------------------


def test_an_edit_costs_its_own_run_and_what_was_prepared_for_it(results: Results) -> None:
    memit, saul = (edit_cost(results, RunKey("mini", "world_qa", editor, 1)) for editor in ("memit", "saul"))
    assert (memit.editing, memit.preparation, memit.edits) == (pytest.approx(50.01), 20.0, 100)
    assert (saul.editing, saul.preparation) == (pytest.approx(10.01), 5.0)
    assert memit.per_edit == pytest.approx(0.7001) and memit.editing_per_edit == pytest.approx(0.5001)
    assert edit_cost(results, RunKey("mini", "world_qa", "nobody", 1)) is None
    entry = judge(CLAIMS["SA5"], results)
    assert entry["conditions"][0]["effect"] == pytest.approx(math.log(0.7 / 0.15), abs=1e-2)
    assert "SAUL has cost less than MEMIT from 0 edits on." in entry["why"]


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [((10, 0), (5, 0), 0.0), ((10, 0), (5, 20), 4.0), ((10, 20), (5, 0), 0.0), ((5, 0), (10, 0), math.inf), ((5, 9), (5, 3), 0.0)],
)
def test_the_break_even_is_where_total_costs_meet(own: tuple[int, int], other: tuple[int, int], expected: float) -> None:
    one, two = (EditCost(float(editing), float(preparation), 1) for editing, preparation in (own, other))
    assert one.break_even(two) == expected
    if 0 < expected < math.inf:
        assert own[1] + expected * own[0] == other[1] + expected * other[0]


def test_dearer_edits_do_not_hold_and_one_seed_is_not_enough(tmp_path: Path) -> None:
    dear = writing_study(tmp_path, made(dict(BOTH_ROWS)), seconds={**SECONDS, "saul": 2.0, "saul_mass": 2.0})
    entry = judge(CLAIMS["SA5"], dear)
    assert entry["verdict"] == "does not hold" and "SAUL has cost less than MEMIT at no number of edits." in entry["why"]
    one = judge(CLAIMS["SA5"], writing_study(tmp_path / "one", made(dict(BOTH_ROWS), seeds=(1,))))
    assert one["verdict"] == "not measured" and "one seed gives no interval" in " ".join(one["why"])


# --- figure and table -----------------------------------------------------------------------------------------------------


def test_the_figure_draws_entropy_and_loops_of_every_editor(results: Results) -> None:
    drawing = figure(results)
    for page in (WIDE, NARROW):
        fig = drawing.draw(page)
        assert [ax.get_title() for ax in fig.axes] == ["a  N-gram entropy", "b  Texts that end in a loop"]
        assert all(len(ax.lines) == len(BOTH_ROWS) for ax in fig.axes)
    entropy = {float(line.get_ydata()[0]) for line in drawing.draw(WIDE).axes[0].lines}
    assert min(entropy) == pytest.approx(3.0, abs=0.1) and max(entropy) == pytest.approx(4.0, abs=0.1)


def test_the_table_shows_scores_fluency_and_both_costs(results: Results) -> None:
    rows = table(results).frame.set_index("method")
    assert rows.loc["SAUL", ENTROPY] == pytest.approx(3.9, abs=0.05) and 0 < rows.loc["SAUL", LOOPS] < 1
    assert rows.loc["SAUL", "whole"] == pytest.approx(0.15, abs=0.01) and rows.loc["SAUL", "editing"] == pytest.approx(0.1, abs=0.01)
    assert rows.loc["SAUL", "average"] > rows.loc["FT-M", "average"] and set(rows["edits"]) == {100}

"""The rules on collapse on made-up studies with known effects, and the figures and the table of the same numbers."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from scipy import stats

from d4s.analysis.claim import judge
from d4s.analysis.claims import claims_of
from d4s.analysis.collapse import Collapse
from d4s.analysis.intervals import share_interval
from d4s.analysis.study_results import Results
from d4s.figures.figure_stage import GROUP_FIGURES
from d4s.figures.plot_elements import FigureSkipped
from d4s.figures.style import NARROW, WIDE
from d4s.tables.tab_collapse import table
from d4s.tables.table import TableSkipped
from tests.collapsing import Collapsing, first_words, never, write_collapse
from tests.synthetic import write_study

CLAIMS = {claim.claim_id: claim for claim in claims_of(["collapse"])}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results(write_collapse(tmp_path_factory.mktemp("study")))


def verdict(claim: str, folder: Path, **changes: Any) -> dict[str, Any]:
    return judge(CLAIMS[claim], Results(write_collapse(folder, Collapsing(**changes))))


def test_every_claim_holds_where_its_effect_is_there(results: Results) -> None:
    entries = {name: judge(claim, results) for name, claim in CLAIMS.items()}
    assert {name: entry["verdict"] for name, entry in entries.items()} == dict.fromkeys(CLAIMS, "holds")
    assert entries["BU1"]["effect"] == pytest.approx(0.25) and entries["BU1"]["n"] == 144
    assert entries["BU2"]["effect"] == pytest.approx(1.0) and len(entries["BU5"]["conditions"]) == 3


def test_a_share_of_nothing_has_the_exact_interval() -> None:
    none, some = share_interval(0, 50), share_interval(3, 50)
    assert (none.low, none.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 50)))
    assert stats.binom.sf(2, 50, some.low) == pytest.approx(0.025) and stats.binom.cdf(3, 50, some.high) == pytest.approx(0.025)
    assert share_interval(50, 50).high == 1.0


def test_without_a_collapse_nothing_is_said_to_hold(tmp_path: Path) -> None:
    quiet = {"rome": never, "rome_identity": never, "r_rome": never}
    found = {name: verdict(name, tmp_path / name, singles=quiet)["verdict"] for name in ("BU1", "BU2", "BU3", "BU6")}
    assert found == {"BU1": "undecided", "BU2": "does not hold", "BU3": "undecided", "BU6": "undecided"}
    still = {editor: (10**6, 10**6) for editor in ("rome", "memit", "ft_m")}
    assert {verdict(name, tmp_path / f"{name}s", sequences=still)["verdict"] for name in ("BU4", "BU5")} == {"not measured"}


def test_with_bos_in_front_the_first_position_is_empty_and_nothing_is_measured_of_it(tmp_path: Path) -> None:
    entry = verdict("BU2", tmp_path, models=("mini",))
    assert entry["verdict"] == "not measured" and "position 0" in entry["why"][0]


def test_one_key_must_repair_nearly_all_collapses(tmp_path: Path) -> None:
    editors = {"rome": never, "rome_identity": first_words, "r_rome": first_words}
    assert verdict("BU3", tmp_path, singles=editors)["verdict"] == "does not hold"


def test_an_alarm_that_says_nothing_is_none(tmp_path: Path) -> None:
    assert verdict("BU4", tmp_path, tells=False)["verdict"] == "does not hold"


def test_hard_cases_are_judged_by_editor_and_need_several_seeds(tmp_path: Path) -> None:
    assert verdict("BU5", tmp_path / "a", sequences={"rome": (20, 20), "memit": (5, 40), "ft_m": (5, 40)})["verdict"] == "does not hold"
    missing = verdict("BU5", tmp_path / "b", sequences={"rome": (5, 40), "memit": (5, 40)})
    assert missing["verdict"] == "undecided" and len(missing["conditions"]) == 2
    assert verdict("BU5", tmp_path / "c", seeds=(1,))["verdict"] == "not measured"


def test_aggregates_agree_where_all_of_the_text_is_ruined(tmp_path: Path) -> None:
    assert verdict("BU6", tmp_path, rows_ruined=4)["verdict"] == "undecided"


def test_the_place_of_a_subject_is_known_for_editors_that_do_not_log_it(results: Results) -> None:
    edits = Collapse(results).edits
    assert edits["subject_start"].notna().all() and edits.loc[edits["editor"] == "memit", "numerator_norm"].isna().all()


@pytest.mark.parametrize("page", [WIDE, NARROW])
@pytest.mark.parametrize("name", sorted(GROUP_FIGURES["collapse"]))
def test_every_figure_is_drawn(results: Results, name: str, page: Any) -> None:
    drawing = GROUP_FIGURES["collapse"][name](results)
    figure = drawing.draw(page)
    figure.draw_without_rendering()
    assert figure.axes and drawing.caption
    plt.close("all")


def test_the_table_has_a_column_for_every_cell_of_the_design(results: Results) -> None:
    blocks = dict(table(results).blocks())
    assert set(blocks) == {"World QA, mini, with BOS", "World QA, bare, without BOS"}
    of = {row.labels[0]: [cell.text for cell in row.cells] for row in blocks["World QA, bare, without BOS"]}
    assert of["ROME (C = I)"][:5] == ["100.0", "0.0", "0.0", "0.0", "25.0"] and of["MEMIT"][:5] == ["0.0"] * 5


def test_a_study_without_single_edits_has_none_of_them(tmp_path: Path) -> None:
    study = Results(write_study(tmp_path))
    for name, make in GROUP_FIGURES["collapse"].items():
        if name != "fig_alarm":  # which sequences of any kind have
            with pytest.raises(FigureSkipped):
                make(study)
    with pytest.raises(TableSkipped):
        table(study)
    assert {judge(claim, study)["verdict"] for name, claim in CLAIMS.items() if name != "BU4"} == {"not measured"}

"""The rules on robustness on made-up studies with known effects, the figures and the table of the same numbers."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from d4s.analysis.claim import judge
from d4s.analysis.claims import claims_of
from d4s.analysis.robustness_results import Cell, Robustness
from d4s.analysis.study_results import Panel, Results
from d4s.figures import fig_interpolation, fig_robustness
from d4s.figures.plot_elements import FigureSkipped
from d4s.figures.style import NARROW, WIDE
from d4s.tables.tab_robustness import table
from d4s.tables.table import TableSkipped
from tests.shifted import EDITS, STUDY, WALK, Asked, usual, write_shifted

CLAIMS = {claim.claim_id: claim for claim in claims_of(["robustness"])}
PANEL = Panel("mini", "world_qa")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results(write_shifted(tmp_path_factory.mktemp("study"), seeds=(1, 2)))


def test_every_claim_holds_where_its_effect_is_there(results: Results) -> None:
    entries = {name: judge(claim, results) for name, claim in CLAIMS.items()}
    assert {name: entry["verdict"] for name, entry in entries.items()} == dict.fromkeys(CLAIMS, "holds")
    assert {name: len(entry["conditions"]) for name, entry in entries.items()} == {"RO1": 2, "RO2": 1, "RO3": 1, "RO4": 2}
    costs = {entry["name"].partition(":")[0]: entry["effect"] for entry in entries["RO1"]["conditions"]}
    assert costs == {"ft free": pytest.approx(0.14, abs=0.01), "ROME": pytest.approx(0.1, abs=0.01)}
    assert any("GRACE" in sentence and "no weight changes" in sentence for sentence in entries["RO1"]["why"])
    assert entries["RO2"]["effect"] == pytest.approx(0.08, abs=0.04)


def test_the_better_point_is_the_share_that_is_enough(results: Results) -> None:
    way = Robustness(results).ways[Robustness(results).draws[0], Cell("ft_free", 2, EDITS)]
    assert way.operating_share == 0.5 and way.shares == list(WALK)
    entry = judge(CLAIMS["RO3"], results)
    lost = {share: usual(0.95) - (usual(0.95 - 0.15 * share) - 0.1 * share) for share in (0.5, 1.0)}
    assert entry["effect"] == pytest.approx(1 - lost[0.5] / lost[1.0], abs=0.03) and entry["unit"] == "percent"
    assert any("share of the change 0.5, 0.5" in sentence for sentence in entry["why"])


def test_a_tendency_fails_with_one_editor_for_which_it_is_not_so(tmp_path: Path) -> None:
    robust = replace(STUDY["rome@2"], cost=lambda share: -0.2 * share)
    assert judge(CLAIMS["RO1"], Results(write_shifted(tmp_path, {**STUDY, "rome@2": robust})))["verdict"] == "does not hold"


def test_equal_cells_do_not_differ(tmp_path: Path) -> None:
    equal = {name: Asked() for name in ("ft_free@0", "ft_free@2")}
    assert judge(CLAIMS["RO2"], Results(write_shifted(tmp_path, equal)))["verdict"] == "does not hold"


def test_nothing_is_saved_where_the_loss_comes_first(tmp_path: Path) -> None:
    early = Asked(WALK, clean=lambda share: 0.95, cost=lambda share: 0.2 * min(1, 4 * share))
    entry = judge(CLAIMS["RO3"], Results(write_shifted(tmp_path, {"ft_free@2": early})))
    assert entry["verdict"] == "does not hold" and entry["effect"] == pytest.approx(0, abs=0.02)


def test_a_loss_too_small_to_be_saved_is_not_measured(tmp_path: Path) -> None:
    none = Asked(WALK, clean=lambda share: 0.95, cost=lambda share: 0.0)
    entry = judge(CLAIMS["RO3"], Results(write_shifted(tmp_path, {"ft_free@2": none})))
    assert entry["verdict"] == "not measured" and "leaves nothing to save" in entry["why"][0]


def test_losses_that_turn_are_not_monotone(tmp_path: Path) -> None:
    turning = Asked(WALK, general_loss=lambda share: 1 + (share - 0.5) ** 2)
    entry = judge(CLAIMS["RO4"], Results(write_shifted(tmp_path, {"ft_free@2": turning})))
    assert entry["verdict"] == "does not hold" and entry["effect"] == pytest.approx(0.5)


def test_without_ordinary_models_there_is_no_effective_robustness(tmp_path: Path) -> None:
    results = Results(write_shifted(tmp_path, ordinary=()))
    assert {name: judge(claim, results)["verdict"] for name, claim in CLAIMS.items()} == {
        "RO1": "not measured", "RO2": "not measured", "RO3": "holds", "RO4": "holds",
    }  # fmt: skip
    frame = table(results).frame
    assert frame["effective"].isna().all() and frame["relative"].notna().all()
    fig_robustness.figure(results).draw(WIDE)


def test_the_area_is_that_under_the_front(results: Results) -> None:
    answers = Robustness(results)
    way = answers.ways[answers.draws[0], Cell("rome", 2, EDITS)]
    steps = [(way.success(share), way.shifted_accuracy(share)) for share in WALK]
    expected = sum((high - low) * accuracy for (low, _), (high, accuracy) in pairwise(steps))
    assert way.area == pytest.approx(expected, abs=1e-9)


def test_the_table_has_a_row_per_editor_and_layer(results: Results) -> None:
    frame = table(results).frame.set_index(["method", "layer"])
    assert list(frame.index) == [("ROME", "2"), ("GRACE", "2"), ("ft free", "0"), ("ft free", "2")]
    row = frame.loc[("ft free", "2")]
    assert row["success"] == 1.0 and row["share"] == 0.5 and row["clean"] == pytest.approx(0.8)
    assert row["effective"] == pytest.approx(-0.1, abs=0.01) and row["text"] == pytest.approx(1.0)
    assert frame["area"].isna().tolist() == [False, True, True, False]


@pytest.mark.parametrize("page", [WIDE, NARROW])
def test_figures_are_drawn_from_the_same_numbers(results: Results, page) -> None:
    shown = fig_robustness.figure(results)
    fig = shown.draw(page)
    assert [ax.get_title() for ax in fig.axes] == ["a  paraphrase", "b  swap"] and "after 50 edits" in shown.caption
    way = fig_interpolation.figure(results).draw(page)
    assert len(way.axes) == 3
    (ring,) = (line for line in way.axes[0].lines[1:2])
    assert ring.get_xdata()[0] == pytest.approx(1.0)


def test_a_study_without_shifted_prompts_shows_none(tmp_path: Path) -> None:
    results = Results(write_shifted(tmp_path, {}, seeds=()))
    assert {judge(claim, results)["verdict"] for claim in CLAIMS.values()} == {"not measured"}
    for make in (fig_robustness.figure, fig_interpolation.figure):
        with pytest.raises(FigureSkipped):
            make(results)
    with pytest.raises(TableSkipped):
        table(results)

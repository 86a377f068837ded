"""The leaderboard of a made-up study: rows, ranks, fronts and costs; its table and figure; published scores beside ours."""

from dataclasses import replace
from pathlib import Path

import pytest

from d4s.analysis.intervals import IntervalEstimate
from d4s.analysis.leaderboard import AVERAGE, CPU_SECONDS, STATES, Leaderboard, LeaderboardRow, Place, pareto_front
from d4s.analysis.published import OURS, beside_ours, published_scores
from d4s.analysis.shown_groups import LEADERBOARD_GROUP, shown_groups
from d4s.analysis.study_results import Results
from d4s.editors.editor_settings import resolve
from d4s.editors.families import build
from d4s.editors.presets import PRESETS
from d4s.figures.fig_pareto import figure
from d4s.figures.figure_stage import FIGURES, figures_of
from d4s.figures.plot_elements import FigureSkipped
from d4s.figures.style import NARROW, WIDE
from d4s.tables.tab_leaderboard import VALUES, table
from d4s.tables.table import TableSkipped
from d4s.tables.table_stage import TABLES, tables_of
from tests.ranked import RANKED, SECONDS, WHOLE, ranked_study
from tests.synthetic import METHODS, Made, write_study

FINAL = Place("mini", "world_qa", 100, "retained")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return ranked_study(tmp_path_factory.mktemp("ranked"))


@pytest.fixture(scope="module")
def board(results: Results) -> Leaderboard:
    return Leaderboard(results)


@pytest.fixture(scope="module")
def rows(board: Leaderboard) -> dict[str, LeaderboardRow]:
    return {row.editor: row for row in board.rows(FINAL)}


def estimates(**values: float) -> dict[str, IntervalEstimate]:
    return {name: IntervalEstimate(value, value, value, 1) for name, value in values.items()}


def test_places_are_lengths_and_protocols_the_longest_first(board: Leaderboard) -> None:
    assert [place[2:] for place in board.places] == [(100, "retained"), (100, "immediate"), (10, "retained"), (10, "immediate")]
    assert board.final(FINAL.panel) == FINAL


def test_rows_are_ranked_by_the_average_and_references_come_last(rows: dict[str, LeaderboardRow]) -> None:
    assert [*rows][-2:] == ["unedited", "one_time_batch"] and rows["unedited"].rank is None and not rows["unedited"].signs
    ranked = [row for row in rows.values() if row.rank]
    averages = [row.values[AVERAGE].value for row in ranked]
    assert averages == sorted(averages, reverse=True) and [row.rank.place for row in ranked if row.rank] == [1, 2, 3, 4, 5, 6]
    assert ranked[-1].editor == "kn" and rows["kn"].signs == "-----="
    three = [rows["d4s"].values[f"{kind}_accuracy"].value for kind in ("efficacy", "paraphrase", "locality")]
    assert rows["d4s"].values[AVERAGE].value == pytest.approx(sum(three) / 3)


def test_costs_and_sizes_stand_beside_scores(rows: dict[str, LeaderboardRow]) -> None:
    assert {name: row.values[CPU_SECONDS].value for name, row in rows.items() if CPU_SECONDS in row.values} == pytest.approx(dict(SECONDS))
    assert {row.values["state_bytes"].value for row in rows.values()} == {300_000.0}
    assert "efficacy_wild_exact" in rows["d4s"].values and "perplexity_ratio" in rows["d4s"].values


def test_a_row_names_its_runs_and_its_kind_of_state(rows: dict[str, LeaderboardRow]) -> None:
    assert rows["rome"].runs == ("mini.world_qa.rome.s1-0123456789",) and rows["rome"].seeds == (1,)
    assert [rows[name].state for name in ("unedited", "grace", "d4s")] == ["", STATES["codebook"], STATES["refit"]]


def test_every_kind_of_state_has_a_name() -> None:
    assert {build(resolve(name, {}, "mini")).kind for name in PRESETS} == STATES.keys()


def test_immediate_scores_stand_alone_and_a_batch_has_none(board: Leaderboard) -> None:
    found = {row.editor: row for row in board.rows(FINAL._replace(protocol="immediate"))}
    assert {*found} == {*RANKED} - {"unedited", "one_time_batch"}
    assert "efficacy_wild_exact" not in found["rome"].values and found["rome"].values["efficacy_accuracy"].value > 0.8


def test_a_front_holds_what_nothing_else_beats() -> None:
    points = {
        "cheap": estimates(efficacy_accuracy=0.5, locality_accuracy=0.5, cpu_s=1.0),
        "good": estimates(efficacy_accuracy=0.9, locality_accuracy=0.5, cpu_s=9.0),
        "beaten": estimates(efficacy_accuracy=0.5, locality_accuracy=0.5, cpu_s=2.0),
        "unknown": estimates(efficacy_accuracy=1.0, locality_accuracy=1.0),
    }
    assert pareto_front(points) == {"cheap", "good"}
    free = {name: {key: value for key, value in known.items() if key != CPU_SECONDS} for name, known in points.items()}
    assert pareto_front(free) == {"unknown"} and pareto_front({}) == set()


def test_the_table_has_ranks_and_is_shown_where_it_is_asked_for(results: Results) -> None:
    shown = table(results)
    frame = shown.frame.set_index("editor")
    assert frame.loc["kn", "rank"] == frame.loc["kn", "rank_low"] == 6 and bool(frame.loc["unedited", "reference"])
    assert {column.key for column in VALUES if column.key in frame} <= {column.key for column in shown.columns}
    groups = shown_groups(results)
    assert LEADERBOARD_GROUP in groups and "tab_leaderboard" in tables_of(groups) and "fig_pareto" in figures_of(groups)
    assert "tab_leaderboard" not in {**TABLES, **tables_of(["d4s"])} and "fig_pareto" not in {**FIGURES, **figures_of(["d4s"])}


def test_the_figure_has_two_panels_on_both_pages(results: Results) -> None:
    drawing = figure(results)
    for page in (WIDE, NARROW):
        assert [len(ax.lines) for ax in drawing.draw(page).axes] == [7, 7]


def test_a_study_without_sequences_has_neither(tmp_path: Path) -> None:
    empty = Results(write_study(tmp_path, Made(methods={"rome": METHODS["rome"]}, lengths=(4,), forms=False)))
    empty.__dict__["index"] = empty.index.iloc[:0]
    with pytest.raises(TableSkipped):
        table(empty)
    with pytest.raises(FigureSkipped):
        figure(empty)


# --- published --------------------------------------------------------------------------------------------------------


def test_published_cells_name_methods_of_ours_and_hold_shares() -> None:
    found = published_scores()
    assert {one.preset for one in found} <= PRESETS.keys() and {one.reading for one in found} == OURS.keys()
    assert all(0 <= value <= 1 for one in found for value in one.scores.values())
    assert len({(one.source, one.model, one.preset, one.dataset, one.reading) for one in found}) == len(found) == 64


def test_ours_stand_beside_the_same_method_on_the_same_data(board: Leaderboard, tmp_path: Path) -> None:
    assert beside_ours(board) == []
    few = replace(WHOLE, methods={name: RANKED[name] for name in ("unedited", "ft_m", "kn")}, lengths=(10,))
    other = Leaderboard(ranked_study(tmp_path, few, where=("small", "zsre")))
    found = beside_ours(other)
    assert {(one.published.preset, one.published.reading) for one in found} == {("ft_m", "forced"), ("ft_m", "free"), ("kn", "forced")}
    ours = {row.editor: row.values for row in other.rows(other.final(other.results.panels[0]))}
    forced = next(one for one in found if one.published.preset == "kn")
    assert forced.ours["locality"] == ours["kn"]["locality_accuracy"] and forced.published.scores["locality"] == 0.6543
    free = next(one for one in found if one.published.reading == "free")
    assert free.ours == {"efficacy": ours["ft_m"]["efficacy_wild_exact"]} and free.match == "exact match of the whole answer"

"""Size of batches: series found by their settings, the score S by hand, and verdicts that known effects call for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest

from d4s.analysis.batch_series import batch_series, immediate_scores, layer_sweeps, retained_scores
from d4s.analysis.claim import judge
from d4s.analysis.claims_batches import CLAIMS
from d4s.analysis.editing_score import best_difference, fact_scores, harmonic_mean, score_difference, score_interval
from d4s.analysis.intervals import IntervalEstimate, equivalence
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.figures.figure_stage import FIGURES, GROUP_FIGURES, figures_of
from d4s.figures.plot_elements import FigureSkipped
from d4s.figures.style import NARROW, RC, WIDE
from d4s.tables.table import TableSkipped
from d4s.tables.table_stage import TABLES, tables_of
from tests.batched import FORGETFUL, REMEMBERING, SIZES, editor_name, write_batches
from tests.synthetic import METHODS, Made, write_study

BY_ID = {claim.claim_id: claim for claim in CLAIMS}
PANEL = Panel("mini", "world_qa")
LARGE = 64


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results(write_batches(tmp_path_factory.mktemp("batches")))


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Results:
    made = Made(methods={name: METHODS[name] for name in ("unedited", "memit")}, lengths=(16,), forms=False)
    return Results(write_study(tmp_path_factory.mktemp("without"), made))


def verdict(claim_id: str, folder: Path, **changes: Any) -> dict[str, Any]:
    return judge(BY_ID[claim_id], Results(write_batches(folder, **changes)))


# --- the score --------------------------------------------------------------------------------------------------------


def test_s_is_the_harmonic_mean_of_three_means_over_facts() -> None:
    scores = pd.DataFrame({
        "efficacy_accuracy": [1.0, 1.0, 0.0, 1.0], "paraphrase_accuracy": [1.0, 0.0, 0.5, 0.5],
        "locality_accuracy": [0.5, 0.5, np.nan, 0.5], "other": [9.0] * 4,
    })  # fmt: skip
    found = score_interval(fact_scores(scores))
    assert found.value == pytest.approx(3 / (1 / 0.75 + 1 / 0.5 + 1 / 0.5)) and found.low < found.value < found.high
    assert harmonic_mean(np.array([[0.0, 1.0, 1.0], [0.4, 0.4, 0.4]])).tolist() == pytest.approx([0.0, 0.4])


def test_the_best_is_chosen_anew_in_every_resample_and_on_shared_facts() -> None:
    draws = np.random.default_rng(0)
    frames = [
        pd.DataFrame(draws.random((30, 3)) < share, columns=fact_scores(pd.DataFrame()).columns).astype(float) for share in (0.5, 0.9)
    ]
    alone, chosen = score_difference(frames[1], frames[0]), best_difference([frames[0], frames[1]], [frames[0]])
    assert chosen.value == pytest.approx(alone.value) and chosen.low >= min(alone.low, 0.0)
    few = score_difference(frames[1].iloc[:10], frames[0])
    assert few.n == 10 and score_difference(frames[0], frames[0]).value == 0.0


@pytest.mark.parametrize(
    ("low", "value", "high", "expected"), [(-0.01, 0.0, 0.015, 0.005), (-0.05, -0.03, -0.01, -0.03), (0.0, 0.1, 0.2, -0.18)]
)
def test_equivalence_allows_a_margin_on_both_sides(low: float, value: float, high: float, expected: float) -> None:
    found = equivalence(IntervalEstimate(value, low, high, 9), 0.02)
    assert found.low == pytest.approx(expected) and found.value == pytest.approx(0.02 - abs(value))


# --- series -----------------------------------------------------------------------------------------------------------


def test_series_are_found_by_settings_and_know_their_total(results: Results) -> None:
    found = {series.name: series for series in batch_series(results, PANEL)}
    assert set(found) == {"memit_1", "memit_seq_1", "alphaedit_1"}
    assert {name: (series.remembers, series.is_confined) for name, series in found.items()} == {
        "memit_1": (False, False),
        "memit_seq_1": (True, False),
        "alphaedit_1": (True, True),
    }
    series = found["memit_1"]
    assert series.editors == {size: editor_name("memit_1", size) for size in SIZES}
    assert series.total(results) == LARGE and series.single_batches(results) == [16, 64] and series.weight == 1000.0


def test_both_readings_have_the_same_facts(results: Results) -> None:
    run = RunKey(*PANEL, "memit_1", 1)
    now, later = immediate_scores(results, run, 64), retained_scores(results, run, 64)
    assert len(now) == len(later) == 64 and set(now.index) == set(later.index)
    assert now["efficacy_accuracy"].mean() > later["efficacy_accuracy"].mean()


def test_sweeps_count_what_was_not_done_as_nothing(results: Results) -> None:
    sweeps = {sweep.name: sweep for sweep in layer_sweeps(results)}
    assert set(sweeps) == {"rome", "memit"} and [*sweeps["rome"].scores] == list(range(6))
    assert sweeps["rome"].scores[5].loc["000003"].tolist() == [0.0, 0.0, 0.0]
    early, late = sweeps["rome"].split()
    assert (len(early), len(late)) == (2, 4)


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("best", "expected"), [(1, "holds"), (4, "does not hold")])
def test_bs1_follows_the_best_layer(tmp_path: Path, best: int, expected: str) -> None:
    found = verdict("BS1", tmp_path, best=best)
    assert found["verdict"] == expected and len(found["conditions"]) == 2 and "S of ROME by layer" in " ".join(found["why"])


def test_bs2_compares_single_batches_only(tmp_path: Path) -> None:
    found = verdict("BS2", tmp_path)
    assert found["verdict"] == "holds" and "after one batch of 16 − after one of 64" in found["conditions"][0]["name"]
    kept = {editor_name("memit_1", size): replace(FORGETFUL, locality_loss=0.0) for size in SIZES}
    assert verdict("BS2", tmp_path / "kept", changes=kept)["verdict"] == "does not hold"


def test_bs3_is_decided_by_retained_scores_and_reports_the_others(tmp_path: Path) -> None:
    worse = {
        editor_name("memit_1", 16): replace(FORGETFUL, forget=4.0),
        editor_name("memit_1", LARGE): replace(FORGETFUL, start=0.8, forget=0.0),
    }
    found = verdict("BS3", tmp_path, changes=worse)
    assert found["verdict"] == "does not hold" and "paper's reading" in found["why"][-1] and "+" in found["why"][-1].partition(": ")[2]
    better = {editor_name("memit_1", LARGE): replace(FORGETFUL, start=0.6)}
    assert verdict("BS3", tmp_path / "better", changes=better)["verdict"] == "holds"


def test_bs4_asks_key_history_alone_and_for_every_size(tmp_path: Path) -> None:
    found = verdict("BS4", tmp_path)
    assert found["verdict"] == "holds" and len(found["conditions"]) == 2 and sum("null space" in line for line in found["why"]) == 2
    worse = {editor_name("memit_seq_1", 16): replace(REMEMBERING, start=0.6)}
    assert verdict("BS4", tmp_path / "worse", changes=worse)["verdict"] == "does not hold"


def test_bs5_sets_the_two_readings_against_each_other(tmp_path: Path) -> None:
    flattered = {"memit_1": replace(FORGETFUL, forget=4.0)}
    found = verdict("BS5", tmp_path, changes=flattered)
    assert found["verdict"] == "holds" and "batches of 1, 64 requests" in found["conditions"][0]["name"]


def test_without_such_runs_nothing_is_judged_drawn_or_written(without: Results) -> None:
    assert {judge(claim, without)["verdict"] for claim in CLAIMS} == {"not measured"}
    for make in GROUP_FIGURES["batches"].values():
        with pytest.raises(FigureSkipped):
            make(without)
    with pytest.raises(TableSkipped):
        tables_of(["batches"])["tab_batches"](without)


# --- figures and table ------------------------------------------------------------------------------------------------


def test_groups_bring_their_own_figures_and_tables() -> None:
    assert set(figures_of(["d4s"])) == set(FIGURES) and set(tables_of(["d4s"])) == set(TABLES)
    shown = {name for claim in CLAIMS for name in claim.shown_in}
    assert shown <= {*figures_of(["batches"]), *tables_of(["batches"])}


@pytest.mark.parametrize("name", GROUP_FIGURES["batches"])
def test_figures_are_drawn_and_say_on_how_much(name: str, results: Results) -> None:
    drawing = GROUP_FIGURES["batches"][name](results)
    assert "seed" in drawing.caption and drawing.caption.endswith(".") and "  " not in drawing.caption
    with matplotlib.rc_context(dict(RC)):  # type: ignore[arg-type]
        wide, narrow = drawing.draw(WIDE), drawing.draw(NARROW)
        wide.draw_without_rendering()
        narrow.draw_without_rendering()
    for page in (wide, narrow):
        assert [bool(ax.lines) for ax in page.axes if ax.axison] == [True] * 4


def test_the_table_has_a_row_per_size_and_length(results: Results) -> None:
    table = tables_of(["batches"])["tab_batches"](results)
    assert len(table.frame) == 3 * len(SIZES) * 2
    row = table.frame[(table.frame["method"] == "memit 1") & (table.frame["batch"] == 16) & table.frame["block"].str.contains("64 edits")]
    scores = retained_scores(results, RunKey(*PANEL, "memit_1_b16", 1), LARGE)
    assert row["retained"].item() == pytest.approx(score_interval(scores).value)
    assert row["efficacy_accuracy"].item() == pytest.approx(scores["efficacy_accuracy"].mean()) and row["weight"].item() == 1000.0

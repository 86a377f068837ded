"""Combinations of parts: words for them, the study that runs them, the figure, and D4S by key mode against the batch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from d4s.analysis.compositions import Composition, composition, part_labels
from d4s.analysis.study_results import Results
from d4s.editors.editor_settings import resolve
from d4s.editors.presets import PRESETS
from d4s.figures import fig_composition
from d4s.figures.plot_elements import FigureSkipped
from d4s.figures.style import WIDE
from d4s.tables.table import TableSkipped
from d4s.tables.table_stage import TABLES
from tests.synthetic import METHODS, Made, write_study
from tools.lock import ROOT

STUDY = yaml.safe_load((ROOT / "grids" / "composition.yaml").read_text(encoding="utf-8"))
CELLS = [name for name in STUDY["grid"][0]["editors"] if name not in ("unedited", "one_time_batch")]


def parts(name: str, **changes: Any) -> Composition | None:
    return composition(resolve(name, changes or STUDY["editors"].get(name, {}), "mini").model_dump(mode="json"))


@pytest.fixture(scope="module")
def made_results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The study of combinations with made-up numbers."""
    methods = {name: METHODS.get(name, METHODS["memit_seq"]) for name in (*CELLS, "unedited", "one_time_batch")}
    return Results(write_study(tmp_path_factory.mktemp("cells"), Made(methods, STUDY["editors"], lengths=(60,), forms=False)))


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("editor", "expected"),
    [
        ("memit", Composition("none", ())),
        ("sphere", Composition("keys", ("null space", "SPHERE"))),
        ("encore", Composition("keys", ("ridge", "top-1 stop"))),
        ("nse", Composition("keys", ("first targets", "rounds"))),
        ("pmet", Composition("none", ("joint target", "root"))),
        ("ote_se", Composition("keys", ("RECT", "feedback"))),
        ("d4s", Composition("refit", ("static",))),
        ("d4s_refreshed", Composition("refit", ("refreshed keys",))),
        ("rome", None),
        ("prune", None),
        ("ft_l", None),
        ("one_time_batch", None),
    ],
)
def test_parts_are_named_where_they_differ_from_memit(editor: str, expected: Composition | None) -> None:
    assert parts(editor) == expected


def test_there_is_a_word_for_every_part_of_every_preset() -> None:
    found = [made for name, preset in PRESETS.items() if "mini" in preset.base and (made := parts(name)) is not None]
    assert len(found) > 10
    assert {part for made in found for part in made.parts} <= set(part_labels())
    assert all(made.sort_key for made in found)


# --- the study --------------------------------------------------------------------------------------------------------


def test_the_study_has_at_most_sixteen_cells_all_different() -> None:
    found = [parts(name) for name in CELLS]
    assert len(CELLS) <= 16
    assert len(set(found)) == len(CELLS)
    assert None not in found


def test_history_null_space_and_early_stop_are_fully_crossed() -> None:
    found = {(made.history, tuple(part for part in made.parts if part != "static")) for name in CELLS if (made := parts(name))}
    crossed = {(history, guard) for history in ("none", "keys", "refit") for guard in ((), ("null space",), ("top-1 stop",))}
    assert crossed <= found


# --- the figure -------------------------------------------------------------------------------------------------------


def test_a_group_starts_with_the_row_that_most_others_are_one_part_away_from(made_results: Results) -> None:
    panel = made_results.main_panels[0]
    found = fig_composition._combinations(made_results, panel)
    rows = fig_composition._ordered([fig_composition.Row(editor, made, {}) for editor, made in found.items()])
    first = {row.parts.history: row.editor for row in reversed(rows)}
    assert list(reversed(first)) == ["none", "keys", "refit"]
    assert first == {"none": "memit", "keys": "memit_seq", "refit": "d4s"}


def test_the_figure_has_a_row_per_cell_and_three_columns(made_results: Results) -> None:
    drawing = fig_composition.figure(made_results)
    axes = drawing.draw(WIDE).axes
    assert [ax.get_title() for ax in axes] == ["Efficacy", "Specificity", "L1 norm"]
    labels = [label.get_text() for label in axes[0].get_yticklabels()]
    assert labels[:3] == ["No history", "Earlier keys kept", "All edits refitted"]
    assert len(labels) == 3 + len(CELLS)
    assert len(set(labels)) == len(labels) - 4  # plain is in three groups, null space and top-1 stop in two
    assert "D4S (all edits refitted: static)" in drawing.caption


def test_rows_alike_in_their_parts_get_their_names(tmp_path: Path) -> None:
    twins = {"strict": {"preset": "memit", "preservation": {"weight": 9000}}}
    names = ("memit", "strict", "memit_seq", "d4s", "d4s_even")
    made = Made({name: METHODS.get(name, METHODS["memit"]) for name in names}, twins, lengths=(20,), forms=False)
    axes = fig_composition.figure(Results(write_study(tmp_path, made))).draw(WIDE).axes
    labels = {label.get_text() for label in axes[0].get_yticklabels()}
    assert {"plain (MEMIT)", "plain (strict)", "plain", "static", "even"} <= labels


def test_three_combinations_are_too_few(tmp_path: Path) -> None:
    made = Made({name: METHODS[name] for name in ("memit", "memit_seq", "d4s", "rome")}, lengths=(4,), forms=False)
    with pytest.raises(FigureSkipped, match="fewer than 4 combinations"):
        fig_composition.figure(Results(write_study(tmp_path, made)))


# --- D4S by key mode --------------------------------------------------------------------------------------------------


def test_key_modes_are_compared_with_the_batch_at_every_length(results: Results) -> None:
    table = TABLES["tab_key_modes"](results)
    frame = table.frame.set_index(["method", "edits"])
    assert list(frame.index) == [(name, length) for name in ("D4S", "D4S (frozen keys)") for length in (10, 100, 300)]
    d4s, batch = (results.retained(results.runs_of(results.main_panels[0], name)[0], 300) for name in ("d4s", "one_time_batch"))
    row = frame.loc[("D4S", 300)]
    assert row["locality_accuracy"] == pytest.approx((d4s - batch)["locality_accuracy"].mean())
    assert row["locality_accuracy_low"] < row["locality_accuracy"] < row["locality_accuracy_high"]
    assert row["change"] == pytest.approx(METHODS["d4s"].growth / METHODS["one_time_batch"].growth)
    assert "docs/key_modes.md has that distance" in table.caption


def test_key_modes_need_the_batch(tmp_path: Path) -> None:
    made = replace(Made(forms=False, lengths=(4,)), methods={"d4s": METHODS["d4s"]})
    with pytest.raises(TableSkipped, match="one-time batch"):
        TABLES["tab_key_modes"](Results(write_study(tmp_path, made)))

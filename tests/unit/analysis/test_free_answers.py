"""Free answers in the results: rows of the summary by hand, agreement and kappa by hand, and the table and figure of a study."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pytest

from d4s.analysis.free_answers import agreement, free_rows, judge_note, judged_answers
from d4s.analysis.gather import CellFolders, gather
from d4s.analysis.shown_groups import shown_groups
from d4s.analysis.study_results import Results
from d4s.artifacts import StageJob, read_table, write_json, write_table
from d4s.errors import SettingsError
from d4s.figures.fig_free import figure
from d4s.figures.figure_stage import FIGURES, figures_of
from d4s.figures.plot_elements import FigureSkipped
from d4s.figures.style import NARROW, RC, WIDE
from d4s.schemas import ANSWERS as EXAMPLES
from d4s.schemas import CELL, EDIT_LOG, FREE_ANSWERS, NORMS, PERPLEXITY, SCORES, SUMMARY, VERDICTS, with_cell_columns
from d4s.settings_base import Frozen
from d4s.tables.tab_free import table
from d4s.tables.table import TableSkipped
from d4s.tables.table_stage import TABLES, tables_of
from tests.synthetic import METHODS, Made, write_study

EXACT, CORRECT = (True, True, False, False), (True, False, True, None)


def answers(exact: tuple[bool, ...] = EXACT, step: int = 4) -> pd.DataFrame:
    """Four facts, each with an efficacy and a locality prompt."""
    rows = [
        {
            "step": step, "fact_id": f"f{number}", "kind": kind, "prompt_id": 0, "prompt": "p", "gold": "g", "before": "b", "after": "a",
            "wild_exact": hit if kind == "efficacy" else None, "contains": True if kind == "efficacy" else None,
            "repeats": number == 3, "length": number, "same_tokens": None if kind == "efficacy" else number / 4,
        }
        for number, hit in enumerate(exact)
        for kind in ("efficacy", "locality")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def verdicts(correct: tuple[bool | None, ...] = CORRECT, judge: str = "m", step: int = 4) -> pd.DataFrame:
    rows = [
        {
            "step": step, "fact_id": f"f{number}", "kind": "efficacy", "prompt_id": 0, "judge": judge, "version": "judge-1",
            "correct": value, "reason": "" if value is not None else "no letter",
        }
        for number, value in enumerate(correct)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def scores(step: int = 4) -> pd.DataFrame:
    """Teacher-forced scores: the facts that are asked about are right, the others not."""
    rows = [
        {
            "step": step, "protocol": "retained", "fact_id": f"f{number}", "edited_at": number + 1, "metric": f"{kind}_accuracy",
            "prompt_id": 0, "value": float(number < 4),
        }
        for number in range(8)
        for kind in ("efficacy", "paraphrase", "locality")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def summed(*given: Any) -> dict[str, dict[str, Any]]:
    return {row["metric"]: row for row in free_rows(*given)}


def test_rows_of_the_summary_are_means_over_the_facts_asked_about() -> None:
    rows = summed(answers(), None, scores())
    assert {name: row["mean"] for name, row in rows.items()} == pytest.approx(
        {
            "efficacy_wild_exact": 0.5, "efficacy_contains": 1.0, "efficacy_repeats": 0.25, "locality_repeats": 0.25,
            "efficacy_length": 1.5, "locality_length": 1.5, "locality_same_tokens": 0.375, "efficacy_forced": 1.0,
            "paraphrase_forced": 1.0, "locality_forced": 1.0,
        }
    )  # fmt: skip
    assert all(row["n"] == 4 and row["protocol"] == "retained" for row in rows.values())


def test_answers_without_a_verdict_are_in_no_share_and_a_rule_has_a_name_of_its_own() -> None:
    rows = summed(answers(), verdicts(), scores())
    assert rows["efficacy_judged"]["mean"] == pytest.approx(2 / 3) and rows["efficacy_judged"]["n"] == 3
    assert (rows["judge_missing"]["mean"], rows["judge_missing"]["n"]) == (1.0, 4)
    assert rows["judge_agreement"]["mean"] == pytest.approx(1 / 3) and "efficacy_stand_in" not in rows
    rule = summed(answers(), verdicts((True, True, False, False), "stand_in"), scores())
    assert rule["efficacy_stand_in"]["mean"] == 0.5 and "efficacy_judged" not in rule
    nothing = summed(answers(), verdicts((None,) * 4), scores())
    assert nothing["judge_missing"]["mean"] == 4.0 and not {"efficacy_judged", "judge_agreement", "judge_kappa"} & set(nothing)


@pytest.mark.parametrize(
    ("exact", "correct", "share", "kappa"),
    [
        ((True, True, False, False), (True, True, False, False), 1.0, 1.0),
        # p = 3/4; verdicts say yes to 3/4, exact match to 1/2: q = 3/8 + 1/8 = 1/2, so kappa = (3/4 - 1/2) / (1/2)
        ((True, True, False, False), (True, True, True, False), 0.75, 0.5),
        ((True, False, True, False), (True, True, False, False), 0.5, 0.0),
        ((True, True, True, True), (True, True, True, True), 1.0, None),  # both say yes to all: chance agrees as well
    ],
)
def test_kappa_by_hand(exact: tuple[bool, ...], correct: tuple[bool, ...], share: float, kappa: float | None) -> None:
    found = agreement(pd.DataFrame({"wild_exact": exact, "correct": correct}))
    assert (found.share, found.n, found.missing) == (share, 4, 0)
    assert pd.isna(found.kappa) if kappa is None else found.kappa == pytest.approx(kappa)


# --- a study ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Results:
    made = Made(methods={name: METHODS[name] for name in ("unedited", "memit", "d4s")}, lengths=(4,), forms=False)
    return Results(write_study(tmp_path_factory.mktemp("plain"), made))


def with_answers(plain: Results, folder: Path, *, judged: bool = True) -> Results:
    """The study with free answers of its editors, and verdicts on them."""
    made = Made(methods={name: METHODS[name] for name in ("unedited", "memit", "d4s")}, lengths=(4,), forms=False)
    write_study(folder, made)
    summary, given, said = [read_table(folder / "summary.parquet", SUMMARY)], [], []
    for editor, exact in (("memit", EXACT), ("d4s", (True, True, True, False))):
        cell = {"model": "mini", "dataset": "world_qa", "editor": editor, "seed": 1}
        rows = free_rows(answers(exact), verdicts() if judged else None, scores())
        summary.append(pd.DataFrame([{**cell, "step": 4, **row} for row in rows]))
        given.append(answers(exact).assign(**cell))
        said.append(verdicts().assign(**cell))
    write_table(folder / "summary.parquet", pd.concat(summary, ignore_index=True)[SUMMARY.names], SUMMARY)
    write_table(folder / "data" / "free_answers.parquet", pd.concat(given, ignore_index=True), with_cell_columns(FREE_ANSWERS))
    if judged:
        write_table(folder / "data" / "verdicts.parquet", pd.concat(said, ignore_index=True), with_cell_columns(VERDICTS))
    study = json.loads((folder / "study.json").read_text())
    write_json(folder / "study.json", study | {"measure": {"free_answers": {"every": 1}}})
    return Results(folder)


def test_the_table_has_a_row_per_editor_and_says_who_judged(plain: Results, tmp_path: Path) -> None:
    made = table(with_answers(plain, tmp_path / "judged"))
    rows = made.frame.set_index("method")
    assert rows["efficacy_wild_exact"].tolist() == [0.5, 0.75] and rows["efficacy_forced"].tolist() == [1.0, 1.0]
    assert rows["efficacy_judged"].tolist() == pytest.approx([2 / 3] * 2)
    keys = [column.key for column in made.columns]
    assert "efficacy_judged" in keys and "efficacy_stand_in" not in keys and "paraphrase_wild_exact" not in keys
    # exact and judged agree on 1 of 3 for memit, and on 2 of 3 for d4s
    assert "Judged by m, prompt judge-1. It agrees with exact match on 50.0 % of 6 answers" in made.caption
    assert "2 answers have no verdict" in made.caption and "  " not in made.caption
    unjudged = table(with_answers(plain, tmp_path / "unjudged", judged=False))
    assert "efficacy_judged" not in [column.key for column in unjudged.columns] and unjudged.caption.endswith("interval.")


def test_the_figure_has_a_panel_per_reading_with_a_point_per_editor(plain: Results, tmp_path: Path) -> None:
    drawing = figure(with_answers(plain, tmp_path / "judged"))
    with matplotlib.rc_context(dict(RC)):  # type: ignore[arg-type]
        for page in (WIDE, NARROW):
            drawn = drawing.draw(page)
            drawn.draw_without_rendering()
            shown = [ax for ax in drawn.axes if ax.axison]
            assert [len(ax.containers) for ax in shown] == [2, 2]
            assert [ax.get_title(loc="left").partition("  ")[2] for ax in shown] == ["Exact", "Judged"]


def test_what_a_judge_is_shown_are_the_answers_to_prompts_with_a_target(plain: Results, tmp_path: Path) -> None:
    assert judged_answers(with_answers(plain, tmp_path / "asking")) == [("p", "g", "a")] * 8
    with pytest.raises(SettingsError, match=r"no free answers to judge; set `measure\.free_answers`"):
        judged_answers(plain)


def test_a_study_shows_them_only_where_it_asks_for_them(plain: Results, tmp_path: Path) -> None:
    with pytest.raises(FigureSkipped):
        figure(plain)
    with pytest.raises(TableSkipped):
        table(plain)
    assert judge_note(plain) == "" and shown_groups(plain) == ["d4s"]
    asking = shown_groups(with_answers(plain, tmp_path / "asking"))
    assert {*figures_of(asking)} - {*FIGURES} == {"fig_free"} and {*tables_of(asking)} - {*TABLES} == {"tab_free"}


class RunLike(Frozen):
    """Settings as a run's manifest holds them."""

    editor: dict[str, Any]


def test_answers_and_verdicts_of_cells_are_gathered(tmp_path: Path) -> None:
    names = {kind: tmp_path / kind / "mini.world_qa.ft_m.s1-0123456789" for kind in ("runs", "measures", "free_answers", "verdicts")}
    norms = {"step": 4, "layer": 0, "quantity": "l1_per_element_original", "value": 1.0}
    text = {"step": 4, "text": "heldout", "quantity": "perplexity", "value": 2.0}
    none = pd.DataFrame(columns=EDIT_LOG.names)
    tables = {
        "runs": {"edit_log": (none, EDIT_LOG)},
        "measures": {
            "scores": (scores(), SCORES),
            "answers": (pd.DataFrame(columns=EXAMPLES.names), EXAMPLES),
            "norms": (pd.DataFrame([norms]), NORMS),
            "perplexity": (pd.DataFrame([text]), PERPLEXITY),
        },
        "free_answers": {"free_answers": (answers(), FREE_ANSWERS)},
        "verdicts": {"verdicts": (verdicts(), VERDICTS)},
    }
    for kind, found in tables.items():
        for name, (frame, schema) in found.items():
            write_table(names[kind] / f"n4.{name}.parquet", frame, schema)
        StageJob(kind, RunLike(editor={"family": "fine_tune"}), {}, names[kind]).write_manifest(
            [f"n4.{name}.parquet" for name in found], "n4.json"
        )
    cell = CellFolders(
        "mini", "world_qa", "ft_m", 1, (4,), names["runs"], names["measures"], None, (), None, (names["free_answers"], names["verdicts"])
    )
    gather([cell], tmp_path / "out")
    summary = read_table(tmp_path / "out" / "summary.parquet", SUMMARY).set_index("metric")["mean"]
    assert summary["efficacy_wild_exact"] == 0.5 and summary["judge_missing"] == 1.0
    for name, schema in (("free_answers", FREE_ANSWERS), ("verdicts", VERDICTS)):
        rows = read_table(tmp_path / "out" / "data" / f"{name}.parquet", with_cell_columns(schema))
        assert len(rows) == {"free_answers": 8, "verdicts": 4}[name] and set(rows["editor"]) == {"ft_m"} and set(CELL) <= set(rows)

"""Single edits gathered: what tables, figures and claims read of them, and a study that has nothing else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from d4s.analysis.claims import claims
from d4s.analysis.gather import gather
from d4s.analysis.single_edits import SingleEdits, SingleFolders
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.artifacts import StageJob, write_json, write_table
from d4s.errors import ArtifactError
from d4s.figures.figure_stage import figures
from d4s.report.page import report
from d4s.schemas import ITEMS, SINGLES
from d4s.settings_base import Frozen
from d4s.study_settings import FigureSettings, Study
from d4s.tables.table_stage import tables

ROME = RunKey("mini", "world_qa", "rome@1", 1)
Row = tuple[int, str, str, int | None, int | None, float]


class RunLike(Frozen):
    """Settings as a manifest holds them."""

    editor: dict[str, Any]


def block(first: int, gain: float) -> list[Row]:
    """Ten requests from a number on; the third of all diverged. Request n succeeds with n % 2, its text has n nats more."""
    rows: list[Row] = []
    for order in range(first + 1, first + 11):
        done = order != 3
        rows.append((order, "done" if done else "diverged", "edited", None, None, float(done)))
        if done:
            rows += [(order, "done", "key_norm", None, layer, 10.0 * layer + order) for layer in (0, 1)]
            rows.append((order, "done", "target_steps", None, None, 5.0))
            rows += [(order, "done", "paraphrase_score", prompt, None, float(prompt)) for prompt in (0, 1)]
            rows.append((order, "done", "efficacy_p_new_joint", 0, None, gain * (order % 2)))
            rows += [(order, "done", "text_nll", row, None, 4.0 + order * row) for row in (0, 1)]
            rows += [(order, "done", "text_tokens", row, None, 2.0 + row) for row in (0, 1)]
    return rows


def made(store: Path, editor: str, gain: float, requests: int = 15) -> SingleFolders:
    folder = store / "singles" / f"mini.world_qa.{editor}.s1-0123456789"
    for number in range(2):
        frame = pd.DataFrame(
            [
                {"request_id": f"{order:06d}", "fact_id": f"f{order}", "order": order, "status": status, "quantity": quantity,
                 "prompt_id": prompt, "layer": layer, "value": value}
                for order, status, quantity, prompt, layer, value in block(10 * number, gain)
            ]
        )  # fmt: skip
        frame = frame.astype({"prompt_id": "Int64", "layer": "Int64"})
        write_table(folder / f"b{number}.singles.parquet", frame, SINGLES)
        StageJob("singles", RunLike(editor={"family": "locate_then_edit"}), {}, folder, code="c0de").write_manifest(
            [f"b{number}.singles.parquet"], f"b{number}.json"
        )
    return SingleFolders("mini", "world_qa", editor, 1, requests, folder)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    singles = [made(tmp_path / "store", "rome@1", 0.5), made(tmp_path / "store", "unedited", 0.0)]
    gather([], tmp_path / "out", (), singles)
    return Results(tmp_path / "out")


def test_rows_come_back_by_request_prompt_and_layer(results: Results) -> None:
    singles = SingleEdits.of(results)
    assert singles.cells == [replace_editor("unedited"), ROME] and singles.panels == [Panel("mini", "world_qa")]
    assert singles.of_editor(Panel("mini", "world_qa"), "rome@1") == [ROME]
    statuses = singles.statuses(ROME)
    assert statuses.tolist() == ["done", "done", "diverged", *["done"] * 12] and statuses.index[-1] == "000015"
    values = singles.values(ROME)
    assert values.index.tolist() == statuses.index.tolist()
    assert set(values.columns) == {"edited", "target_steps", "paraphrase_score", "efficacy_p_new_joint"}
    assert values["paraphrase_score"].dropna().eq(0.5).all() and np.isnan(values.loc["000003", "paraphrase_score"])
    assert values["efficacy_p_new_joint"].iloc[:2].tolist() == [0.5, 0.0]
    assert singles.by_layer(ROME, "key_norm").loc["000002"].to_dict() == {0: 2.0, 1: 12.0}
    assert singles.prompts(ROME, ["paraphrase_score"]).loc["000001", "paraphrase_score"].tolist() == [0.0, 1.0]


def replace_editor(editor: str) -> RunKey:
    return ROME._replace(editor=editor)


def test_perplexities_are_aggregated_from_sums_and_counts(results: Results) -> None:
    found = SingleEdits.of(results).perplexities(ROME)
    assert "000003" not in found.index and len(found) == 14
    by_row = np.exp([4 / 2, 6 / 3])
    expected = {"perplexity": np.exp(10 / 5), "perplexity_row_mean": by_row.mean(), "perplexity_row_median": np.median(by_row)}
    assert found.loc["000002"].to_dict() == pytest.approx(expected)


def test_the_summary_averages_over_prompts_first_and_counts_what_was_done(results: Results) -> None:
    rows = results.summary.query("editor == 'rome@1'").set_index("metric")
    assert set(rows["protocol"]) == {"single"} and set(rows["step"]) == {15}
    assert rows.loc["edited", ["mean", "n"]].tolist() == [pytest.approx(14 / 15), 15]
    assert rows.loc["paraphrase_score", ["mean", "n"]].tolist() == [0.5, 14]
    assert rows.loc["efficacy_p_new_joint", "mean"] == pytest.approx(0.5 * 7 / 14)
    assert not [metric for metric in rows.index if metric.startswith("text") or metric == "key_norm"]


def test_a_draw_that_ends_early_and_a_block_that_is_altered_are_refused(tmp_path: Path) -> None:
    cell = made(tmp_path / "store", "rome@1", 0.5)
    with pytest.raises(ArtifactError, match=r"b2\.json"):
        gather([], tmp_path / "out", (), [replace(cell, requests=25)])
    path = cell.folder / "b1.singles.parquet"
    frame = pd.read_parquet(path).query("order < 14")
    write_table(path, frame, SINGLES)
    with pytest.raises(ArtifactError, match="altered"):
        gather([], tmp_path / "out", (), [cell])
    StageJob("singles", RunLike(editor={}), {}, cell.folder, code="c0de").write_manifest([path.name], "b1.json")
    with pytest.raises(ArtifactError, match="13 requests, expected 15"):
        gather([], tmp_path / "out", (), [cell])


def test_a_study_of_single_edits_alone_reaches_its_report(results: Results) -> None:
    row = {"models": ["mini"], "datasets": ["world_qa"], "editors": ["rome"], "lengths": [15], "protocol": "single", "probes": ["text"]}
    study = Study.model_validate(
        {"study": "alone", "models": {"mini": {"source": "world"}}, "datasets": {"world_qa": {"source": "world"}}, "grid": [row]}
    )
    folder = results.folder
    write_json(folder / "study.json", study.model_dump(mode="json"))
    write_table(folder / "data" / "items.parquet", [], ITEMS)
    assert (results.models, results.seeds) == (["mini"], [1])
    tables(folder)
    figures(folder, FigureSettings(format=("png",), dpi=50))
    claims(folder)
    report(folder, study)
    assert {entry["verdict"] for entry in json.loads((folder / "claims.json").read_text())} == {"not measured"}
    assert "up to 15 edits each alone" in (folder / "report.html").read_text()

"""Gathering a study from the store: what is written, that nothing altered is read, that order does not matter."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from d4s import schemas
from d4s.analysis.gather import GATHERED_TABLES, MEASURE_TABLES, MEMORY_TABLES, CellFolders, gather
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.analysis.summary_rows import benchmark_rows, perplexity_rows, retained_rows
from d4s.artifacts import StageJob, read_table, sha256_of, write_json, write_table
from d4s.errors import ArtifactError
from d4s.settings_base import Frozen

STEPS = (2, 4)


class RunLike(Frozen):
    """Settings as a run's manifest holds them."""

    editor: dict[str, Any]
    seed: int = 1


def scores(step: int) -> pd.DataFrame:
    return pd.DataFrame({
        "step": step, "protocol": "retained", "fact_id": [f"f{n // 2}" for n in range(2 * step)],
        "edited_at": [n // 2 + 1 for n in range(2 * step)], "metric": "efficacy_accuracy", "prompt_id": [n % 2 for n in range(2 * step)],
        "value": [1.0, 0.0] * step,
    })  # fmt: skip


def edit_log(steps: int) -> pd.DataFrame:
    return pd.DataFrame({
        "step": range(1, steps + 1), "request_id": [f"r{n}" for n in range(steps)], "fact_id": [f"f{n}" for n in range(steps)],
        "quantity": "efficacy_accuracy", "layer": pd.array([None] * steps, dtype="Int64"), "value": [1.0] * (steps - 1) + [0.0],
    })  # fmt: skip


def measured(step: int) -> dict[str, pd.DataFrame]:
    norms = [
        {"step": step, "layer": layer, "quantity": quantity, "value": value}
        for layer, change in ((0, 0.5), (1, 0.0))
        for quantity, value in (("l1_per_element_original", 1.0), ("l1_per_element_weight", 1.0 + change), ("l1_per_element_delta", change))
    ]
    answer = {
        "step": step,
        "fact_id": "f0",
        "kind": "efficacy",
        "prompt_id": 0,
        "prompt": "p",
        "expected": "e",
        "before": "b",
        "after": "e",
    }
    return {
        "scores": scores(step),
        "answers": pd.DataFrame([answer]),
        "norms": pd.DataFrame(norms),
        "perplexity": pd.DataFrame([{"step": step, "text": "heldout", "quantity": "perplexity_ratio", "value": 1.0 + step}]),
    }


def finish(
    folder: Path,
    kind: str,
    tables: dict[str, tuple[pd.DataFrame, object]],
    manifest: str,
    control: dict[str, Any] | None = None,
    **notes: object,
) -> None:
    """Write an artefact's files and manifest as a stage does."""
    for name, (frame, schema) in tables.items():
        write_table(folder / name, frame, schema)
    settings = RunLike(editor={"family": "locate_then_edit", "delta_transform": control})
    StageJob(kind, settings, {}, folder, code="c0de").write_manifest(list(tables), manifest=manifest, **notes)


def made_cell(store: Path, editor: str, seed: int = 1, benchmarked: bool = True) -> CellFolders:
    name = f"mini.world_qa.{editor}.s{seed}-0123456789"
    run, measure, benchmark = (store / kind / name for kind in ("runs", "measures", "benchmarks"))
    objectives = store / "objectives" / "mini.world_qa-0123456789"
    for step in STEPS:
        diverged = {"diverged_at": 3} if step > 3 and editor == "rome" else {}
        finish(run, "runs", {f"n{step}.edit_log.parquet": (edit_log(step), schemas.EDIT_LOG)}, f"n{step}.json", **diverged)
        tables = {f"n{step}.{table}.parquet": (frame, MEASURE_TABLES[table]) for table, frame in measured(step).items()}
        control = {"kind": "scramble"} if editor.endswith("_scrambled") else None
        finish(measure, "measures", tables, f"n{step}.json", control)
    tasks = pd.DataFrame({"step": 4, "task": ["mmlu", "gsm8k"], "metric": "acc", "value": [0.5, 0.7], "stderr": [0.03, np.nan], "n": 100})
    finish(benchmark, "benchmarks", {"n4.benchmark.parquet": (tasks, schemas.BENCHMARK)}, "n4.json")
    if not objectives.exists():
        target = {
            "fact_id": "f0",
            "target": "new",
            "n_tokens": 1,
            "nll_per_token": 3.0,
            "nll_first_token": 3.0,
            "nll_joint": 3.0,
            "label_mass": np.nan,
            "text": "x",
        }
        finish(objectives, "objectives", {"objectives.parquet": (pd.DataFrame([target]), schemas.OBJECTIVES)}, "manifest.json")
    return CellFolders(
        "mini", "world_qa", editor, seed, STEPS, run, measure, benchmark if benchmarked else None, (4,) if benchmarked else (), objectives
    )


@pytest.fixture
def cells(tmp_path: Path) -> list[CellFolders]:
    return [made_cell(tmp_path / "store", editor) for editor in ("rome", "memit")]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_all_tables_are_there_with_their_cell(cells: list[CellFolders], tmp_path: Path) -> None:
    gather(cells, tmp_path / "out")
    results = Results(tmp_path / "out")
    assert set(results.scores["editor"]) == {"rome", "memit"}
    assert len(results.scores) == 2 * 2 * sum(STEPS)
    assert results.answers["after"].tolist() == ["e"] * 4
    assert results.panels == [Panel("mini", "world_qa")]
    assert results.lengths(RunKey("mini", "world_qa", "rome", 1)) == [2, 4]


def test_the_edit_log_of_the_longest_length_is_kept_once(cells: list[CellFolders], tmp_path: Path) -> None:
    gather(cells, tmp_path / "out")
    assert Results(tmp_path / "out").edit_log.groupby("editor")["step"].apply(list).to_dict() == {
        "rome": [1, 2, 3, 4],
        "memit": [1, 2, 3, 4],
    }


def test_what_another_editor_answered_right_after_an_edit_is_not_filed_under_its_control(tmp_path: Path) -> None:
    base, control = (made_cell(tmp_path / "store", editor) for editor in ("memit", "memit_scrambled"))
    gather([base, replace(control, run=base.run)], tmp_path / "out")
    results = Results(tmp_path / "out")
    assert set(results.edit_log["editor"]) == {"memit"}
    assert set(results.summary.query("protocol == 'immediate'")["editor"]) == {"memit"}
    assert set(results.summary.query("protocol == 'retained'")["editor"]) == {"memit", "memit_scrambled"}


def test_targets_are_filed_once_and_under_no_editor(cells: list[CellFolders], tmp_path: Path) -> None:
    gather(cells, tmp_path / "out")
    rows = Results(tmp_path / "out").objectives
    assert rows[["editor", "seed", "fact_id"]].to_dict("records") == [{"editor": "", "seed": 0, "fact_id": "f0"}]


def test_the_summary_has_both_protocols_and_the_state(cells: list[CellFolders], tmp_path: Path) -> None:
    gather(cells, tmp_path / "out")
    summary = Results(tmp_path / "out").summary
    rome = summary[summary["editor"] == "rome"].set_index(["step", "protocol", "metric"])["mean"]
    assert rome[4, "retained", "efficacy_accuracy"] == 0.5
    assert rome[2, "immediate", "efficacy_accuracy"] == 1.0
    assert rome[4, "immediate", "efficacy_accuracy"] == 0.75
    assert rome[4, "state", "perplexity_ratio"] == 5.0
    assert rome[4, "state", "l1_per_element_delta"] == 0.5
    assert rome[4, "state", "benchmark_mean"] == pytest.approx(0.6)
    assert (2, "state", "benchmark_mean") not in rome.index


def test_what_memories_were_asked_is_gathered_where_there_is_any(cells: list[CellFolders], tmp_path: Path) -> None:
    gather(cells, tmp_path / "out")
    for name, schema in MEMORY_TABLES.items():
        assert read_table(tmp_path / "out" / "data" / f"{name}.parquet", schemas.with_cell_columns(schema)).empty
    route = {"step": 2, "fact_id": "f0", "kind": "efficacy", "prompt_id": 0, "expected": "f0", "entry": None, "similarity": 0.2}
    size = {"step": 2, "entries": 10, "quantity": "bytes", "value": 80.0}
    folder, files = cells[0].measure, json.loads((cells[0].measure / "n2.json").read_text())
    for name, row in {"routes": route, "memory": size}.items():
        write_table(folder / f"n2.{name}.parquet", [row], MEMORY_TABLES[name])
        files["files"][f"n2.{name}.parquet"] = sha256_of(folder / f"n2.{name}.parquet")
    write_json(folder / "n2.json", files)
    gather(cells, tmp_path / "more")
    found = read_table(tmp_path / "more" / "data" / "routes.parquet", schemas.with_cell_columns(schemas.ROUTES))
    assert (
        found[["editor", "expected"]].to_dict("records") == [{"editor": cells[0].editor, "expected": "f0"}] and found["entry"].isna().all()
    )


def test_the_index_names_folders_and_divergence(cells: list[CellFolders], tmp_path: Path) -> None:
    gather([cells[0], replace(cells[1], benchmark=None, benchmark_steps=())], tmp_path / "out")
    index = read_table(tmp_path / "out" / "index.parquet", schemas.INDEX).set_index(["editor", "step"])
    assert index.loc[("rome", 4), "diverged_at"] == 3
    assert pd.isna(index.loc[("rome", 2), "diverged_at"])
    assert str(index.loc[("rome", 4), "benchmark"]).endswith("rome.s1-0123456789")
    assert pd.isna(index.loc[("rome", 2), "benchmark"])
    assert pd.isna(index.loc[("memit", 4), "benchmark"])


def test_the_order_of_cells_changes_no_byte(cells: list[CellFolders], tmp_path: Path) -> None:
    gather(cells, tmp_path / "one")
    gather(cells[::-1], tmp_path / "two")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(digests(tmp_path / "one")) == len(GATHERED_TABLES) + 4


def test_versions_and_resolved_editors_are_recorded(cells: list[CellFolders], tmp_path: Path) -> None:
    gather(cells, tmp_path / "out")
    text = (tmp_path / "out" / "provenance.json").read_text()
    assert '"torch"' in text
    assert '"mini / rome": {\n   "delta_transform": null,\n   "family": "locate_then_edit"' in text


def test_an_unfinished_length_is_named_and_nothing_is_written(cells: list[CellFolders], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"n8\.json"):
        gather([replace(cells[0], steps=(2, 4, 8))], tmp_path / "out")
    assert not (tmp_path / "out" / "summary.parquet").exists()
    assert not list((tmp_path / "out" / "data").glob("*"))


def test_an_altered_table_is_refused(cells: list[CellFolders], tmp_path: Path) -> None:
    (cells[0].measure / "n2.scores.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match=r"n2\.scores\.parquet is truncated or altered"):
        gather(cells, tmp_path / "out")


def test_prompts_are_averaged_within_a_fact_before_facts_are() -> None:
    frame = scores(2)
    frame = pd.concat([frame, frame[frame["fact_id"] == "f0"].assign(prompt_id=9, value=1.0)])
    (row,) = retained_rows(frame)
    assert row["mean"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert row["n"] == 2


def test_texts_are_told_apart_only_where_there_are_several() -> None:
    one = pd.DataFrame([{"step": 1, "text": "a", "quantity": "perplexity", "value": 2.0}])
    assert [row["metric"] for row in perplexity_rows(one)] == ["perplexity"]
    assert [row["metric"] for row in perplexity_rows(pd.concat([one, one.assign(text="b")]))] == ["perplexity.a", "perplexity.b"]


def test_a_second_reading_of_a_task_and_a_second_metric_count_once() -> None:
    tasks = pd.DataFrame({
        "step": 1, "task": ["truthfulqa_mc1", "truthfulqa_mc2", "mmlu", "mmlu"], "metric": ["acc", "acc", "acc_norm", "acc"],
        "value": [0.2, 0.9, 0.7, 0.4], "stderr": 0.02, "n": 50,
    })  # fmt: skip
    (row,) = benchmark_rows(tasks)
    assert row["mean"] == pytest.approx(0.3)
    assert row["n"] == 100
    assert row["ci_high"] - row["mean"] == pytest.approx(1.96 * 0.02 / np.sqrt(2), rel=1e-3)

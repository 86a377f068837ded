"""Made-up studies that ask for a leaderboard: costs, sizes and free answers laid over those of `tests.synthetic`."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from d4s import schemas
from d4s.analysis.costs import API_USAGE
from d4s.analysis.gather import GATHERED_TABLES
from d4s.analysis.study_results import Results
from d4s.analysis.summary_rows import exact_row, mean_rows
from d4s.artifacts import read_table, write_json, write_table
from tests.synthetic import METHODS, Made, Method, write_study

RANKED = {
    **{name: METHODS[name] for name in ("unedited", "ft_m", "rome", "memit", "d4s", "one_time_batch")},
    "grace": Method(start=1.0, fall=0.0, forget=0.0, paraphrase=0.1, locality_loss=0.0),
    "kn": replace(METHODS["memit"], start=0.3),
}
SECONDS: Mapping[str, float] = {"ft_m": 0.5, "rome": 2.0, "memit": 3.0, "d4s": 1.0, "grace": 0.5, "kn": 6.0}
"""Processor time of an edit; of the references none was recorded."""
WHOLE = Made(methods=RANKED, lengths=(10, 100), forms=False, study="ranked")


def ranked_study(folder: Path, made: Made = WHOLE, seconds: Mapping[str, float] = SECONDS, where: tuple[str, ...] = ()) -> Results:
    """Such a study, on another model and data set where they are named."""
    write_study(folder, made)
    index, summary = (read_table(folder / f"{name}.parquet", schema) for name, schema in _TABLES.items())
    work = [_edit(str(run), seconds[editor], max(made.lengths)) for editor, run in _runs(index) if editor in seconds]
    write_table(folder / "costs.parquet", work, schemas.COSTS)
    cells = index[[*schemas.CELL, "step"]].to_dict(orient="records")
    more = [{**cell, **row} for cell in cells for row in (exact_row("state_bytes", 3000.0 * cell["step"]), *_free(made, cell))]
    write_table(folder / "summary.parquet", pd.concat([summary, pd.DataFrame(more)])[schemas.SUMMARY.names], schemas.SUMMARY)
    write_json(folder / "study.json", json.loads((folder / "study.json").read_text()) | {"leaderboard": True})
    if where:
        _move(folder, *where)
    return Results(folder)


_TABLES = {"index": schemas.INDEX, "summary": schemas.SUMMARY}


def _runs(index: pd.DataFrame) -> list[tuple[str, str]]:
    return [*index[["editor", "run"]].drop_duplicates().itertuples(index=False, name=None)]


def _edit(run: str, seconds: float, edits: int) -> dict:
    """The call of `edit` that made a run."""
    own = {"artifact": Path(run).name, "kind": "runs", "stage": "edit", "startup_s": 1.0, "peak_rss_mb": 500.0}
    return {**own, "wall_s": seconds * edits, "cpu_s": seconds * edits, **dict.fromkeys(API_USAGE, 0)}


def _free(made: Made, cell: dict) -> list[dict]:
    """Exact free answers to a third of the prompts that are answered at all."""
    share = made.methods[cell["editor"]].start / 3
    answered = np.random.default_rng(cell["seed"]).random(cell["step"]) < share
    return mean_rows("retained", pd.DataFrame({"efficacy_wild_exact": answered.astype(float)}))


def _move(folder: Path, model: str, dataset: str) -> None:
    tables = {f"data/{name}": schemas.with_cell_columns(schema) for name, schema in GATHERED_TABLES.items()} | _TABLES
    for name, schema in tables.items():
        frame = read_table(folder / f"{name}.parquet", schema)
        write_table(folder / f"{name}.parquet", frame.assign(model=model, dataset=dataset), schema)
    made_of = json.loads((folder / "provenance.json").read_text())
    editors = {key.replace("mini /", f"{model} /"): settings for key, settings in made_of["editors"].items()}
    write_json(folder / "provenance.json", made_of | {"editors": editors})

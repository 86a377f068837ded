"""Made-up studies of memories: routes, exact answers, near misses and sizes laid over those of `tests.synthetic`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d4s import schemas
from d4s.analysis.memory_results import IN_SCOPE, OUT_OF_SCOPE
from d4s.analysis.study_results import Results
from d4s.analysis.summary_rows import retained_rows
from d4s.artifacts import read_table, write_table
from tests.synthetic import METHODS, Made, write_study

KEEPING = replace(METHODS["d4s"], start=0.95, fall=0.0, forget=0.0, locality_loss=0.02)
SERAC_EDITORS: Mapping[str, dict[str, Any]] = {
    "serac_trained": {"preset": "serac", "answer": {"kind": "trained"}},
    "serac_soft": {"preset": "serac", "answer": {"kind": "trained"}, "switch": "soft"},
    "serac_far": {"preset": "serac", "answer": {"kind": "trained"}, "near_misses": False},
}
REMEMBERING = {
    **{name: METHODS[name] for name in ("unedited", "ft_m", "rome", "memit")},
    **{"serac_trained": KEEPING, "serac_far": KEEPING, "serac_soft": replace(KEEPING, locality_loss=0.3)},
}
WHOLE = Made(methods=REMEMBERING, editors=dict(SERAC_EDITORS), lengths=(10, 300), forms=False, seeds=(1, 2, 3))
JUDGED = replace(WHOLE, summed=False)
"""The same for claims, which read no summary: much faster to make."""


@dataclass(frozen=True)
class Routing:
    """Shares of prompts in scope that are missed and that go to a wrong entry, and of near misses that go to one."""

    missed: float = 0.1
    misplaced: float = 0.05
    near: float = 0.02


ROUTING = {"serac_trained": Routing(), "serac_soft": Routing(), "serac_far": Routing(near=0.4)}


def memory_study(folder: Path, made: Made = WHOLE, routing: Mapping[str, Routing] = ROUTING, wrong: float = 0.02) -> Results:
    """A study of memories; a share `wrong` of the prompts that reach their entry are answered wrongly all the same."""
    write_study(folder, made)
    scores = read_table(folder / "data" / "scores.parquet", schemas.with_cell_columns(schemas.SCORES))
    summary = read_table(folder / "summary.parquet", schemas.SUMMARY)
    cells = [cell for cell in scores[[*schemas.CELL, "step"]].drop_duplicates().to_dict(orient="records") if cell["editor"] in routing]
    routes, more, sizes = list[pd.DataFrame](), list[pd.DataFrame](), list[pd.DataFrame]()
    for cell in cells:
        found = _routes(scores, {str(key): value for key, value in cell.items()}, routing[cell["editor"]])
        routes.append(found)
        more += [_exact(found, wrong), _near(found)]
        sizes.append(pd.DataFrame([{**cell, "entries": n, "quantity": "query_seconds", "value": 1e-3 + n * 1e-6} for n in (10, 1000)]))
    write_table(folder / "data" / "routes.parquet", pd.concat(routes), schemas.with_cell_columns(schemas.ROUTES))
    write_table(folder / "data" / "memory.parquet", pd.concat(sizes), schemas.with_cell_columns(schemas.MEMORY))
    columns = schemas.with_cell_columns(schemas.SCORES)
    whole = pd.concat([scores, *(frame[scores.columns] for frame in more)])
    write_table(folder / "data" / "scores.parquet", whole, columns)
    rows = [
        {**{key: frame[key].iloc[0] for key in (*schemas.CELL, "step")}, **row}
        for frame in (more[1::2] if made.summed else ())
        for row in retained_rows(frame)
    ]
    if rows:
        write_table(folder / "summary.parquet", pd.concat([summary, pd.DataFrame(rows)])[schemas.SUMMARY.names], schemas.SUMMARY)
    return Results(folder)


def _routes(scores: pd.DataFrame, cell: Mapping[str, Any], routing: Routing) -> pd.DataFrame:
    """A prompt of each kind about every fact of a cell; luck is shared by editors."""
    facts = scores[np.logical_and.reduce([scores[name] == value for name, value in cell.items()])]["fact_id"].unique()
    frames = []
    for number, kind in enumerate((*IN_SCOPE, *OUT_OF_SCOPE)):
        luck = np.random.default_rng([cell["seed"], number]).random(len(facts))
        if kind in IN_SCOPE:
            entry = np.where(luck < routing.missed, None, np.where(luck < routing.missed + routing.misplaced, "other", facts))
            expected = facts
        else:
            share = routing.near if kind in ("same_subject", "shared_name") else 0.0
            entry, expected = np.where(luck < share, facts, None), None
        frames.append(pd.DataFrame({**cell, "fact_id": facts, "kind": kind, "prompt_id": 0, "expected": expected, "entry": entry}))
    return pd.concat(frames).assign(similarity=0.9)


def _exact(routes: pd.DataFrame, wrong: float) -> pd.DataFrame:
    inside = routes[routes["kind"].isin(IN_SCOPE)]
    luck = np.random.default_rng(7).random(len(inside))
    right = (inside["entry"] == inside["expected"]) & (luck >= wrong)
    return _scored(inside.assign(metric=inside["kind"] + "_exact", value=right.astype(float)))


def _near(routes: pd.DataFrame) -> pd.DataFrame:
    near = routes[routes["kind"].isin(("same_subject", "shared_name"))]
    number = 100.0 * (near["kind"] == "shared_name")
    return _scored(near.assign(metric=schemas.NEAR_MISSES, prompt_id=number.astype(int), value=near["entry"].isna().astype(float)))


def _scored(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(protocol="retained", edited_at=1)

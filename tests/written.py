"""Made-up studies in which models also write: entropies, loops and costs laid over those of `tests.synthetic`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d4s import schemas
from d4s.analysis.costs import API_USAGE
from d4s.analysis.study_results import Results
from d4s.analysis.summary_rows import retained_rows
from d4s.artifacts import read_table, write_json, write_table
from tests.synthetic import METHODS, Made, write_study

PLAIN = METHODS["ft_m"]
GENTLE = replace(PLAIN, locality_loss=0.05, forget=0.2)
EDITORS: Mapping[str, dict[str, Any]] = {
    "ft_facts": {"preset": "saul", "regularize": {"kind": "separate"}},
    "ft_m_mass": {"preset": "saul_mass", "regularize": None},
    "ft_facts_mass": {"preset": "saul_mass", "regularize": {"kind": "separate"}},
    "memit_mass": {"preset": "memit", "batch": 100},
}
BOTH_ROWS = {
    **{name: METHODS[name] for name in ("unedited", "rome", "memit")},
    **{"ft_m": PLAIN, "ft_facts": PLAIN, "saul": GENTLE, "ft_m_mass": PLAIN, "ft_facts_mass": PLAIN, "saul_mass": GENTLE},
    "memit_mass": METHODS["memit"],
}
ENTROPIES = {"unedited": 4.0, "saul": 3.9, "saul_mass": 3.9, "ft_facts": 3.5, "ft_facts_mass": 3.5}
SECONDS = {"memit": 0.5, "memit_mass": 0.5}


def writing_study(
    folder: Path, made: Made | None = None, entropies: Mapping[str, float] = ENTROPIES, seconds: Mapping[str, float] = SECONDS
) -> Results:
    """A study whose editors write texts of an entropy (3 bits where none is given), and take some processor time per edit (0.1 s)."""
    made = made or Made(methods=dict(BOTH_ROWS), editors=dict(EDITORS), lengths=(100,), forms=False, seeds=(1, 2, 3))
    write_study(folder, made)
    scores = read_table(folder / "data" / "scores.parquet", schemas.with_cell_columns(schemas.SCORES))
    summary = read_table(folder / "summary.parquet", schemas.SUMMARY)
    cells = scores[[*schemas.CELL, "step"]].drop_duplicates().to_dict(orient="records")
    texts = [_texts(scores, cell, entropies.get(cell["editor"], 3.0)) for cell in cells]
    rows = [{**cell, **row} for cell, frame in zip(cells, texts, strict=True) for row in (retained_rows(frame) if made.summed else ())]
    write_table(folder / "data" / "scores.parquet", pd.concat([scores, *texts]), schemas.with_cell_columns(schemas.SCORES))
    if rows:
        write_table(folder / "summary.parquet", pd.concat([summary, pd.DataFrame(rows)])[schemas.SUMMARY.names], schemas.SUMMARY)
    _write_costs(folder, made, seconds)
    return Results(folder)


def _texts(scores: pd.DataFrame, cell: Mapping[str, Any], entropy: float) -> pd.DataFrame:
    """Two texts about every third fact of a cell; facts are alike for all editors."""
    own = scores[np.logical_and.reduce([scores[name] == value for name, value in cell.items()])].drop_duplicates("fact_id")[::3]
    luck = np.random.default_rng(cell["seed"]).normal(0, 0.2, len(own))
    frames = [
        own.assign(metric=metric, prompt_id=number, value=values)
        for number in range(2)
        for metric, values in ((schemas.ENTROPY, entropy + luck), (schemas.LOOPS, (luck > 0.1) * 1.0))
    ]
    return pd.concat(frames)


def _write_costs(folder: Path, made: Made, seconds: Mapping[str, float]) -> None:
    """A call per run, and what is prepared for MEMIT and for SAUL once for all seeds."""
    runs = {f"mini.world_qa.{editor}.s{seed}-0123456789": (editor, seed) for editor in made.methods for seed in made.seeds}
    calls = [(name, "edit", max(made.lengths) * seconds.get(editor, 0.1) + seed * 0.01) for name, (editor, seed) in runs.items()]
    calls += [("mini-aaaa", "moments", 20.0), ("mini.saul-bbbb", "prepare", 5.0), ("mini.world_qa.saul.s1-0123456789", "measure", 99.0)]
    costs = [
        {"artifact": name, "kind": stage, "stage": stage, "wall_s": cpu, "cpu_s": cpu, "startup_s": 1.0, "peak_rss_mb": 1.0}
        | dict.fromkeys(API_USAGE, 0)
        for name, stage, cpu in calls
    ]
    write_table(folder / "costs.parquet", costs, schemas.COSTS)
    prepared = {"memit": {"moments": "aaaa"}, "memit_mass": {"moments": "aaaa"}, "saul": {"prepared": "bbbb", "model": "mmmm"}}
    inputs = {name: prepared.get(editor, {}) for name, (editor, _) in runs.items()}
    write_json(folder / "provenance.json", {**Results(folder).provenance, "inputs": inputs})

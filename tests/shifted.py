"""Made-up answers to shifted prompts with known accuracies, in the shape in which `summarize` gathers real ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d4s import schemas
from d4s.artifacts import write_json, write_table
from d4s.editors.editor_settings import resolve

SHIFTS, FACTS, EDITS = ("paraphrase", "swap"), 120, 50
INTERCEPT, SLOPE = -0.4, 0.8
ORDINARY = (0.1, 0.3, 0.5, 0.7, 0.9, 0.95)
WALK = tuple(round(0.1 * step, 1) for step in range(11))
Curve = Callable[[float], float]


def usual(clean: float) -> float:
    """Shifted accuracy of ordinary models of a clean accuracy."""
    return float(1 / (1 + np.exp(-(INTERCEPT + SLOPE * np.log(clean / (1 - clean))))))


@dataclass(frozen=True)
class Asked:
    """An edited model, at shares of its change: accuracies, success and losses as functions of the share."""

    shares: tuple[float, ...] = (1.0,)
    clean: Curve = lambda share: 0.95 - 0.15 * share
    cost: Curve = lambda share: 0.1 * share
    success: Curve = lambda share: min(1.0, 2 * share)
    edited_loss: Curve = lambda share: 3 - 2.5 * share
    general_loss: Curve = lambda share: 0.5 + share
    changes: Mapping[str, Any] = field(default_factory=lambda: {"preset": "ft_m", "bound": None})


FAR, NEAR = Asked(), Asked(cost=lambda share: 0.02 * share)
STUDY: Mapping[str, Asked] = {
    "ft_free@2": Asked(WALK),
    "ft_free@0": Asked(cost=lambda share: 0.18 * share),
    "rome@2": Asked(WALK, changes={"preset": "rome"}),
    "grace@2": Asked(clean=lambda share: 0.95, cost=lambda share: 0.0, changes={"preset": "grace"}),
}


def write_shifted(
    folder: Path, cells: Mapping[str, Asked] = STUDY, *, seeds: tuple[int, ...] = (1,), ordinary: tuple[float, ...] = ORDINARY
) -> Path:
    """A folder as `summarize` leaves it, with the answers of ordinary models and of cells."""
    parts = []
    for seed in seeds:
        for step, clean in enumerate(ordinary, 1):
            parts.append(_rows("", seed, _general(clean, usual(clean), 1.0), training_steps=step, edits=0))
        parts.append(_rows("", seed, _general(0.95, usual(0.95), 0.5), share=0.0, edits=0))
        for editor, one in cells.items():
            for share in one.shares:
                clean = one.clean(share)
                found = _general(clean, usual(clean) - one.cost(share), one.general_loss(share))
                found += _edited(one.success(share), one.edited_loss(share))
                parts.append(_rows(editor, seed, found, share=share, edits=EDITS))
    schema = schemas.with_cell_columns(schemas.ROBUSTNESS)
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=schema.names)
    write_table(folder / "data" / "robustness.parquet", frame[schema.names], schema)
    for name, table in (("index", schemas.INDEX), ("summary", schemas.SUMMARY)):
        write_table(folder / f"{name}.parquet", _summary(cells, seeds) if name == "summary" else [], table)
    write_json(folder / "study.json", {"study": "shifted", "seeds": list(seeds), "claims": ["robustness"]})
    settings = {f"mini / {editor}": resolve(editor, one.changes, "mini").model_dump(mode="json") for editor, one in cells.items()}
    write_json(folder / "provenance.json", {"editors": settings})
    return folder


def _general(clean: float, shifted: float, loss: float) -> list[dict[str, Any]]:
    """Answers about general facts: as many are right as the accuracies say, and the same ones first; text beside them."""
    found = []
    for shift, accuracy in (("clean", clean), *((shift, shifted) for shift in SHIFTS)):
        order = np.random.default_rng(len(shift)).permutation(FACTS)
        for fact in range(FACTS):
            right = bool(order[fact] < round(accuracy * FACTS))
            found.append(
                {"group": "general", "shift": shift, "fact_id": f"g{fact:03d}", "correct": right, "nll": loss + 0.001 * order[fact]}
            )
    text = [{"group": "text", "shift": shift, "fact_id": "row 0", "correct": None} for shift in ("clean", "text_shift")]
    return [*found, *(row | {"nll": 1.0 + loss * (row["shift"] == "text_shift")} for row in text)]


def _edited(success: float, loss: float) -> list[dict[str, Any]]:
    found = []
    for shift in ("clean", *SHIFTS):
        for fact in range(EDITS):
            right = fact // 5 % 10 < round(10 * success)
            found.append({"group": "edited", "shift": shift, "fact_id": f"e{fact:03d}", "correct": right, "nll": loss + 0.001 * fact})
    return found


def _rows(
    editor: str, seed: int, found: list[dict[str, Any]], *, edits: int, share: float | None = None, training_steps: int | None = None
) -> pd.DataFrame:
    frame = pd.DataFrame(found).astype({"correct": "boolean"}).assign(model="mini", dataset="world_qa", editor=editor, seed=seed)
    steps = pd.array([training_steps] * len(frame), dtype="Int64")
    return frame.assign(step=edits, share=np.nan if share is None else share, training_steps=steps)


def _summary(cells: Mapping[str, Asked], seeds: tuple[int, ...]) -> list[dict[str, Any]]:
    numbers = {"step": EDITS, "protocol": "retained", "metric": "efficacy_accuracy", "mean": 1.0, "ci_low": 1.0, "ci_high": 1.0, "n": 1}
    return [{"model": "mini", "dataset": "world_qa", "editor": editor, "seed": seed, **numbers} for editor in cells for seed in seeds]

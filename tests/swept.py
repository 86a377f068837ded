"""Made-up results of a localisation study with known effects, in the shape in which `summarize` gathers real ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d4s import schemas
from d4s.artifacts import write_json, write_table

LAYERS, WINDOWS = range(6), (1, 3)
Scores = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Scores of facts at layers from layer (n, l), tracing effect and noise."""


@dataclass(frozen=True)
class Swept:
    """An editor swept over layers: its preset with changes, the data set, the window, and what its scores are."""

    name: str
    preset: str
    scores: Scores
    dataset: str = "world_qa"
    window: int = 1
    changes: Mapping[str, Any] = ()  # type: ignore[assignment]


def early(layer: np.ndarray, effect: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """What the paper found: the layer decides, tracing says nothing."""
    return np.clip(0.9 - 0.15 * layer + 0.03 * noise, 0, 1)


def traced(layer: np.ndarray, effect: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """What tracing promised: where the answer is restored it is edited best."""
    return np.clip(effect + 0.03 * noise, 0, 1)


DATASETS: Mapping[str, Any] = {
    "world_qa": {"source": "world", "style": "qa"},
    "amplified": {"source": "world", "style": "qa", "problem": "amplification"},
}


def write_swept(folder: Path, swept: list[Swept], *, facts: int = 60, seeds: tuple[int, ...] = (1,)) -> Path:
    """A folder as `summarize` leaves it, with traces and single edits of every editor; the probability before an edit is 0.1, or 0.3."""
    singles, traces = [], []
    for seed in seeds:
        effects = {window: np.random.default_rng([seed, window]).uniform(0, 1, (facts, len(LAYERS))) for window in WINDOWS}
        traces.append(_traces(effects, seed))
        for one in swept:
            noise = np.random.default_rng([seed, *one.name.encode()]).normal(0, 1, (facts, len(LAYERS)))
            layers = np.broadcast_to(np.arange(len(LAYERS)), noise.shape)
            singles += _edits(one, one.scores(layers, effects[one.window], noise), seed)
    _write(folder, "singles", pd.concat(singles, ignore_index=True), schemas.SINGLES)
    _write(folder, "traces", pd.concat(traces, ignore_index=True), schemas.TRACES)
    for name, schema in (("index", schemas.INDEX), ("summary", schemas.SUMMARY)):
        write_table(folder / f"{name}.parquet", _summary(swept, seeds) if name == "summary" else [], schema)
    write_json(folder / "study.json", _study(swept, seeds))
    editors = {f"mini / {one.name}@{layer}": {"family": "any", **dict(one.changes)} for one in swept for layer in LAYERS}
    write_json(folder / "provenance.json", {"editors": editors})
    return folder


def _study(swept: list[Swept], seeds: tuple[int, ...]) -> dict[str, Any]:
    rows = [
        {"models": ["mini"], "datasets": [one.dataset], "editors": [one.name], "sweep": {"layers": "all", "window": one.window}}
        for one in swept
    ]
    models = {"mini": {"source": "world", "hparams_for": "mini"}}
    editors = {one.name: {"preset": one.preset, **dict(one.changes)} for one in swept if one.name != one.preset}
    return {"study": "swept", "seeds": list(seeds), "models": models, "datasets": dict(DATASETS), "editors": editors, "grid": rows}


def _summary(swept: list[Swept], seeds: tuple[int, ...]) -> list[dict[str, Any]]:
    numbers = {"step": 1, "protocol": "single", "metric": "edited", "mean": 1.0, "ci_low": 1.0, "ci_high": 1.0, "n": 1}
    return [
        {"model": "mini", "dataset": one.dataset, "editor": f"{one.name}@0", "seed": seed, **numbers} for one in swept for seed in seeds
    ]


def _traces(effects: Mapping[int, np.ndarray], seed: int) -> pd.DataFrame:
    rows = []
    for window, values in effects.items():
        for (fact, layer), effect in np.ndenumerate(values):
            common = {"request_id": f"{fact + 1:06d}:f{fact}", "fact_id": f"f{fact}", "window": window, "layer": layer}
            common |= {"p_clean": 0.9, "p_corrupt": 0.1, "model": "mini", "dataset": "world_qa", "editor": "", "seed": seed}
            rows.append(common | {"token_role": "last_subject", "position": 2, "p_restored": 0.1 + 0.8 * effect})
            rows.append(common | {"token_role": "last", "position": 5, "p_restored": 0.1 + 0.4 * effect})
    return pd.DataFrame(rows)


def _edits(one: Swept, scores: np.ndarray, seed: int) -> list[pd.DataFrame]:
    """Single edits that have these scores, and what the unedited model says of the requests."""
    erases, forces = one.changes and "objective" in one.changes, one.changes and "noise_subject" in one.changes
    before = 0.3 if one.dataset == "amplified" else 0.1
    after = before * (1 - scores) if erases else before + (1 - before) * scores
    names = ("noised_probability_before", "noised_probability_after") if forces else ("", "efficacy_p_new_joint")
    found = [_rows(one.dataset, "unedited", seed, "efficacy_p_new_joint", np.full(len(scores), before))]
    for layer in LAYERS:
        editor = f"{one.name}@{layer}"
        found.append(_rows(one.dataset, editor, seed, names[1], after[:, layer]))
        if forces:
            found.append(_rows(one.dataset, editor, seed, names[0], np.full(len(scores), before)))
    return found


def _rows(dataset: str, editor: str, seed: int, quantity: str, values: np.ndarray) -> pd.DataFrame:
    facts = [f"f{number}" for number in range(len(values))]
    frame = pd.DataFrame({"request_id": [f"{n + 1:06d}:{fact}" for n, fact in enumerate(facts)], "fact_id": facts, "value": values})
    frame = frame.assign(
        order=range(1, len(values) + 1), quantity=quantity, status="done", model="mini", dataset=dataset, editor=editor, seed=seed
    )
    prompt = pd.array([0 if quantity.startswith("efficacy") else None] * len(values), dtype="Int64")
    return frame.assign(prompt_id=prompt, layer=pd.array([None] * len(values), dtype="Int64"))


def _write(folder: Path, name: str, frame: pd.DataFrame, schema: Any) -> None:
    keys = [*schemas.CELL, "request_id", "quantity"] if name == "singles" else None
    with_cells = schemas.with_cell_columns(schema)
    whole = (frame.drop_duplicates(keys) if keys else frame) if len(frame) else pd.DataFrame(columns=with_cells.names)
    write_table(folder / "data" / f"{name}.parquet", whole, with_cells)

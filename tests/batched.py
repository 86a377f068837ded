"""A made-up study of batch sizes: sequences in batches with known effects, and single edits at one layer after another."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d4s.artifacts import write_json, write_table
from d4s.editors.editor_settings import resolve
from d4s.schemas import SINGLES, with_cell_columns
from tests.synthetic import METHODS, Made, Method, write_study

SIZES = (1, 16, 64)
PRESETS = {"memit_1": "memit", "memit_seq_1": "memit_seq", "alphaedit_1": "alphaedit"}
FORGETFUL = Method(start=0.97, fall=0.0, forget=0.5, paraphrase=0.9, locality_loss=2.0, growth=1.0)
REMEMBERING = Method(start=0.97, fall=0.0, forget=0.0, paraphrase=0.9, locality_loss=0.1, growth=0.8)


def editor_name(base: str, size: int) -> str:
    return base if size == 1 else f"{base}_b{size}"


def methods(changes: dict[str, Method]) -> dict[str, Method]:
    """One method per editor and size; `changes` replaces some."""
    plain = {base: FORGETFUL if preset == "memit" else REMEMBERING for base, preset in PRESETS.items()}
    made = {editor_name(base, size): method for base, method in plain.items() for size in SIZES}
    return {"unedited": METHODS["unedited"], **made, **changes}


def write_batches(folder: Path, changes: dict[str, Method] | None = None, best: int = 1, seeds: tuple[int, ...] = (1,)) -> Path:
    """Write the study; of single edits layer `best` is the best of six."""
    editors = {
        editor_name(base, size): {"preset": preset, "layers": [2], "target": {"layer": 2}, "batch": size}
        for base, preset in PRESETS.items()
        for size in SIZES
    }
    write_study(folder, Made(methods(changes or {}), editors, lengths=(16, 64), forms=False, study="batched", seeds=seeds))
    provenance = {"versions": {}, "code": {}, "editors": _resolved(editors)}
    write_json(folder / "provenance.json", provenance)
    study = pd.read_json(folder / "study.json", typ="series").to_dict() | {"claims": ["batches"]}
    write_json(folder / "study.json", study)
    _write_sweeps(folder, best, seeds)
    return folder


def _resolved(editors: dict[str, dict[str, Any]]) -> dict[str, Any]:
    swept = {f"{name}@{layer}": (name, layer) for name in ("rome", "memit") for layer in range(6)}
    moved = {at: {"preset": name, "layers": [layer], "target": {"layer": layer}} for at, (name, layer) in swept.items()}
    return {f"mini / {name}": resolve("made", changes, "mini").model_dump(mode="json") for name, changes in (editors | moved).items()}


def _write_sweeps(folder: Path, best: int, seeds: tuple[int, ...], requests: int = 40) -> None:
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        luck = np.random.default_rng(seed).random((requests, 3))
        for name in ("rome", "memit"):
            for layer in range(6):
                share = 0.95 - 0.15 * abs(layer - best)
                for order in range(1, requests + 1):
                    done = not (layer == 5 and order == 3)
                    cell = {"model": "mini", "dataset": "world_qa", "editor": f"{name}@{layer}", "seed": seed}
                    of = {"request_id": f"{order:06d}", "fact_id": f"f{order}", "order": order, "status": "done" if done else "diverged"}
                    values = {"edited": (None, float(done))}
                    for column, metric in enumerate(("efficacy_accuracy", "paraphrase_accuracy", "locality_accuracy") if done else ()):
                        values[metric] = (0, float(luck[order - 1, column] < share))
                    rows += [
                        {**cell, **of, "quantity": quantity, "prompt_id": prompt, "layer": None, "value": value}
                        for quantity, (prompt, value) in values.items()
                    ]
    frame = pd.DataFrame(rows).astype({"prompt_id": "Int64", "layer": "Int64"})
    write_table(folder / "data" / "singles.parquet", frame, with_cell_columns(SINGLES))

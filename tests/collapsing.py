"""A made-up study of collapse: single edits that ruin some rows of text, and sequences that last a known number of edits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d4s import schemas
from d4s.artifacts import write_json, write_table

REQUESTS, LENGTHS = 48, (2, 5, 10, 20, 40)
PLACES = ((1, 0), (1, 3), (2, 0), (2, 3))
"""Tokens of a request's subject and where it starts, in turn, where there is no BOS."""
ROWS, TOKENS = 4, 10.0
MODELS = {"mini": {"source": "world", "hparams_for": "mini"}, "bare": {"source": "model", "of": "mini"}}
ROME = ("rome", "rome_identity", "r_rome")


def never(model: str, order: int) -> bool:
    return False


def first_words(model: str, order: int) -> bool:
    """Requests whose subject is one token at position 0."""
    return model == "bare" and PLACES[order % 4] == (1, 0)


@dataclass(frozen=True)
class Collapsing:
    """Which single edits collapse the model, by editor, and how many edits sequences last, by editor and set."""

    singles: Mapping[str, Callable[[str, int], bool]] = field(
        default_factory=lambda: {"rome": never, "rome_identity": first_words, "r_rome": never, "memit": never}
    )
    sequences: Mapping[str, tuple[int, int]] = field(
        default_factory=lambda: {"rome": (5, 40), "memit": (10, 40), "ft_m": (2, 20), "d4s": (99, 99)}
    )
    seeds: tuple[int, ...] = (1, 2, 3)
    models: tuple[str, ...] = ("mini", "bare")
    tells: bool = True
    rows_ruined: int = 1


def write_collapse(folder: Path, made: Collapsing | None = None) -> Path:
    made = made or Collapsing()
    singles = pd.concat(
        [_singles(made, model, editor, seed) for model in made.models for editor in ("unedited", *made.singles) for seed in made.seeds]
    )
    _write(folder, "singles", singles.astype({"prompt_id": "Int64", "layer": "Int64"}), schemas.SINGLES)
    runs = [(dataset, editor, seed) for dataset in ("hard", "normal") for editor in ("unedited", *made.sequences) for seed in made.seeds]
    _write(folder, "perplexity", pd.DataFrame([row for run in runs for row in _perplexity(made, *run)]), schemas.PERPLEXITY)
    _write(folder, "benchmark", pd.DataFrame([row for run in runs for row in _benchmark(made, *run)]), schemas.BENCHMARK)
    index = [{**_cell("bare", *run), "step": step, "run": "r", "measure": "m"} for run in runs for step in LENGTHS]
    write_table(folder / "index.parquet", pd.DataFrame(index, columns=schemas.INDEX.names), schemas.INDEX)
    write_table(folder / "summary.parquet", [], schemas.SUMMARY)
    sets = {"source": "world", "style": "qa"}
    datasets = {"world_qa": sets, **{name: sets | {"only": name} for name in ("hard", "normal")}}
    study: dict[str, Any] = {"study": "collapse", "models": MODELS, "datasets": datasets, "claims": ["collapse"], "grid": []}
    write_json(folder / "study.json", study | {"hard_cases": {"model": made.models[-1], "dataset": "world_qa", "times": 10.0}})
    return folder


def _cell(model: str, dataset: str, editor: str, seed: int) -> dict[str, Any]:
    return {"model": model, "dataset": dataset, "editor": editor, "seed": seed}


def _singles(made: Collapsing, model: str, editor: str, seed: int) -> pd.DataFrame:
    rows = []
    for order in range(1, REQUESTS + 1):
        of = _cell(model, "world_qa", editor, seed) | {"request_id": f"{order:06d}:f{order}", "fact_id": f"f{order}", "order": order}
        of |= {"status": "done", "prompt_id": None, "layer": None}
        collapsed = editor != "unedited" and made.singles[editor](model, order)
        rows.append(of | {"quantity": "edited", "value": 1.0})
        for number in range(ROWS):
            nll = TOKENS * (1.0 + 6.0 * (collapsed and number < made.rows_ruined))
            rows += [
                of | {"quantity": name, "prompt_id": number, "value": value} for name, value in (("text_nll", nll), ("text_tokens", TOKENS))
            ]
        if editor in ROME:
            tokens, start = PLACES[order % 4]
            place = {"subject_tokens": tokens, "subject_start": start + (model == "mini")}
            rows += [of | {"quantity": name, "value": float(value)} for name, value in place.items()]
            quotient = {"numerator_norm": 1.0, "denominator": 0.01 if collapsed else 1.0, "key_cosine": 0.9}
            rows += [of | {"quantity": name, "layer": 2, "value": value} for name, value in quotient.items()]
    return pd.DataFrame(rows)


def _lasts(made: Collapsing, dataset: str, editor: str) -> int:
    return 10**6 if editor == "unedited" else made.sequences[editor][dataset == "normal"]


def _perplexity(made: Collapsing, dataset: str, editor: str, seed: int) -> list[dict[str, Any]]:
    lasts = _lasts(made, dataset, editor)
    return [
        _cell("bare", dataset, editor, seed)
        | {
            "step": step,
            "text": "heldout",
            "quantity": "perplexity_row_mean",
            "value": 5.0 * (20.0 + step if step >= lasts else 1.0 + 0.01 * step),
        }
        for step in LENGTHS
    ]


def _benchmark(made: Collapsing, dataset: str, editor: str, seed: int) -> list[dict[str, Any]]:
    lasts = _lasts(made, dataset, editor)
    luck = np.random.default_rng([seed, len(editor), len(dataset)]).random(len(LENGTHS))
    found = []
    for step, chance in zip(LENGTHS, luck, strict=True):
        score = (0.7 - 0.005 * step - 0.3 * (step >= lasts)) if made.tells else float(chance)
        numbers = {"step": step, "metric": "acc", "stderr": 0.01, "n": 40}
        found += [_cell("bare", dataset, editor, seed) | numbers | {"task": task, "value": score} for task in ("arc_challenge", "mmlu")]
    return found


def _write(folder: Path, name: str, frame: pd.DataFrame, schema: Any) -> None:
    write_table(folder / "data" / f"{name}.parquet", frame, schemas.with_cell_columns(schema))

"""Write the table of docs/tuning.md from the finished study `tuning`: every trial of every editor, and which one was kept.

snakemake --cores all --configfile grids/tuning.yaml && python -m tools.tuning_page
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "tuning"
GRID = ROOT / "grids" / "tuning.yaml"
PAGE = ROOT / "docs" / "tuning.md"
SCORES = ("efficacy_accuracy", "paraphrase_accuracy", "locality_accuracy")
TABLE = "| editor | trial |"
"""How the table begins; what stands before it is written by hand."""


def main() -> None:
    """Write the table; the text above it stays."""
    editors = yaml.safe_load(GRID.read_text(encoding="utf-8"))["editors"]
    summary = pd.read_parquet(RESULTS / "summary.parquet")
    (report,) = json.loads((RESULTS / "criteria.json").read_text(encoding="utf-8")).values()
    singles = {entry["subject"]: entry for entry in report["criteria"] if entry["criterion"] == "single_edit"}
    text = PAGE.read_text(encoding="utf-8")
    before, (names, line) = text[: text.index(TABLE)], text[text.index(TABLE) :].splitlines()[:2]
    PAGE.write_text(f"{before}{names}\n{line}\n" + "".join(rows(editors, summary, singles)), encoding="utf-8")


def rows(editors: Mapping[str, Mapping[str, Any]], summary: pd.DataFrame, singles: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line per trial, the best of each editor in bold, among those whose single edits succeed."""
    table = summary.pivot_table(index="editor", columns="metric", values="mean", aggfunc="first")
    table["mean"] = table[list(SCORES)].mean(axis=1)
    lines = []
    for family in dict.fromkeys(name.rpartition("_")[0] for name in editors):
        trials = [name for name in editors if name.rpartition("_")[0] == family and name in table.index]
        eligible_facts = [name for name in trials if singles[name]["passed"]] or trials
        best = max(eligible_facts, key=lambda name: table.loc[name, "mean"])
        lines += [_line(name, editors[name], table.loc[name], singles[name]["value"], kept=name == best) for name in trials]
    return lines


def _line(name: str, settings: Mapping[str, Any], scores: "pd.Series[float]", single: float, *, kept: bool) -> str:
    family, _, trial = name.rpartition("_")
    changed = ", ".join(_flat({key: value for key, value in settings.items() if key != "preset"})) or "nothing"
    cells = (
        [f"{single:.2f}"]
        + [f"{scores[metric]:.3f}" for metric in (*SCORES, "mean")]
        + [f"{scores.get('perplexity_ratio', float('nan')):.2f}"]
    )
    cells[-2] = f"**{cells[-2]}**" if kept else cells[-2]
    return f"| {family} | {f'**{trial}**' if kept else trial} | {changed} | {' | '.join(cells)} |\n"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in settings.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [f"`{prefix}{key}` {value}"]
    return found


if __name__ == "__main__":
    main()

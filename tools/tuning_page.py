"""Write docs/tuning.md from the finished study `tuning`: every trial of every editor, and which one was kept.

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
HEAD = """# Tuning of the editors on the embedded model

This page lists every trial by which the editors were tuned, with the chosen ones in bold. Run the trials again with

```sh
snakemake --cores all --configfile grids/tuning.yaml && python -m tools.tuning_page     # writes this page
```

Every editor had the same budget, at most six trials on seed 0 alone, and one criterion for all: the mean of retained
efficacy, paraphrase and specificity (`efficacy_accuracy`, `paraphrase_accuracy`, `locality_accuracy`) after 100 edits of `world_qa`.
Only trials whose single edits succeed were eligible (at least 0.95 of 50 edits, each made alone, the criterion of the world report;
where no trial of an editor meets it, all are): a method that hardly edits forgets nothing. The best eligible trial is the
editor's column `mini` in `src/d4s/editors/hparams.py` and `presets.py`; all other results use seeds from 1 on.

Methods derived from MEMIT share one list of trials, five preservation weights. The others vary their own settings: ROME the clamp of the
hidden shift and the layer, fine-tuning the rate and the bound, AlphaEdit the threshold and the weight within its null space, PMET clamp
and weight, NSE weight, rounds and neurons, GRACE radius and layer, KN the threshold. Settings not named in a trial are those of the preset.
Other presets use the values of the method from which they derive.
FT-L and FT-M differ in which token predicts the target; every `world_qa` target is one token, where the two are equal.
The best trials are **bold** and were chosen, with one exception: the one-time batch is a reference and has the weight of D4S (trial 2,
equal to its best), so that the two solve the same problem.

| editor | trial | what was changed | single edits | efficacy | paraphrase | specificity | mean | perplexity ratio |
|---|---|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    """Write the page."""
    editors = yaml.safe_load(GRID.read_text(encoding="utf-8"))["editors"]
    summary = pd.read_parquet(RESULTS / "summary.parquet")
    (report,) = json.loads((RESULTS / "criteria.json").read_text(encoding="utf-8")).values()
    singles = {entry["subject"]: entry for entry in report["criteria"] if entry["criterion"] == "single_edit"}
    PAGE.write_text(HEAD + "".join(rows(editors, summary, singles)), encoding="utf-8")


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

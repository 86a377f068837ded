"""Write the tables of results in README.md and the docs from the small files of recorded studies, results/recorded/STUDY.

`--take STUDY` first takes over those of a finished study; `--check` writes nothing and fails if a page differs. A table stands between
two comments that name it and its study.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from d4s.analysis.display_names import HEADLINE_METRICS, method_name, method_order
from d4s.analysis.intervals import IntervalEstimate
from d4s.analysis.verdicts import show_estimate
from tools.field_table import field

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
RESULTS = ROOT / "results"
RECORDED = RESULTS / "recorded"
SMALL = ("claims.json", "criteria.json", "curves.csv", "metrics.json", "study.json", "tables/*.csv")
"""What is taken over: verdicts, the model's criteria, scores by length, the study's settings, and every table."""
BEGIN = r"<!-- table (?P<name>\w+) of results/recorded(?:/(?P<study>\w+))?: written by `make pages` -->\n"
MARKED = re.compile(f"(?P<begin>{BEGIN})(?P<body>.*?)(?P<end><!-- end -->)", re.DOTALL)
LENGTHS = (100, 300)
"""Numbers of edits that tables of scores show; the last two of a study that has others."""


def verdicts(folder: Path) -> str:
    """Each claim with its verdict, and the effect of its weakest condition."""
    rows = ["| | claim | verdict | weakest effect [95 % interval] |", "|---|---|---|---|"]
    for claim in json.loads((folder / "claims.json").read_text(encoding="utf-8")):
        rows.append(f"| {claim['id']} | {claim['statement']} | **{claim['verdict']}** | {_effect(claim)} |")
    return "\n".join(rows) + "\n"


def _effect(claim: Mapping[str, Any]) -> str:
    if claim["effect"] is None:
        return "–"
    low, high = claim["ci"]
    return show_estimate(IntervalEstimate(claim["effect"], low, high, claim["n"], claim["seeds"]), claim["unit"])


def scores(folder: Path) -> str:
    """Retained scores and perplexity of every editor of the study's facts, at two lengths."""
    curves = pd.read_csv(folder / "curves.csv")
    facts = curves[~curves["dataset"].str.startswith("mqd_")]
    measured = sorted({*facts["step"]})
    lengths = LENGTHS if {*LENGTHS} <= {*measured} else measured[-2:]
    head = " | ".join(f"after {length} edits" for length in lengths)
    rows = [f"| method | {head} |", "|---|" + "---|" * len(lengths)]
    for editor in sorted(facts["editor"].unique(), key=method_order):
        found = facts[facts["editor"] == editor].groupby("step").mean(numeric_only=True)
        if not {*lengths} <= {*found.index}:  # controls
            continue
        rows.append(f"| {method_name(editor)} | " + " | ".join(_cell(found.loc[length]) for length in lengths) + " |")
    return "\n".join(rows) + "\n"


def _cell(row: pd.Series) -> str:
    shown = " / ".join(f"{row[metric]:.2f}".removeprefix("0") for metric in HEADLINE_METRICS)
    perplexity = row["perplexity"]
    return f"{shown}, {perplexity:.1f}" if perplexity < 1000 else f"{shown}, {perplexity:.0f}"


TABLES: Mapping[str, Callable[[Path], str]] = {"verdicts": verdicts, "scores": scores, "field": field}


def rewrite_tables(text: str) -> str:
    """A page with its tables as the studies' files say."""
    return MARKED.sub(lambda found: found["begin"] + TABLES[found["name"]](RECORDED / (found["study"] or "")) + found["end"], text)


def take(study: str) -> None:
    """Take over the small files of a finished study."""
    if not (RESULTS / study / "report.html").is_file():
        sys.exit(f"results/{study} holds no finished study; run it first")
    shutil.rmtree(RECORDED / study, ignore_errors=True)
    for path in sorted(path for pattern in SMALL for path in (RESULTS / study).glob(pattern)):
        kept = RECORDED / study / path.relative_to(RESULTS / study)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, kept)


def main() -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a page is not what it would be")
    parser.add_argument("--take", metavar="STUDY", help="take over the small files of this study in results/ first")
    options = parser.parse_args()
    if options.take:
        take(options.take)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = rewrite_tables(text)
        if options.check and found != text:
            sys.exit(f"{page.name} does not match results/recorded: run `make pages`")
        if found != text:
            page.write_text(found, encoding="utf-8")


if __name__ == "__main__":
    main()

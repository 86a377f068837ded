"""Write the tables of docs/performance.md from what `make bench` measured; the text around them is written by hand.

python -m tools.performance_page build/benchmarks.json
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- measured: begin, written by `make bench` -->", "<!-- measured: end -->"
HEAD = "| what | against | measured | goal | remarks |\n|---|---|---|---|---|\n"
DIGITS = 3


def main() -> None:
    """Replace what stands between the markers."""
    parser = argparse.ArgumentParser(description="Write the tables of docs/performance.md.")
    parser.add_argument("found", type=Path, help="JSON that pytest-benchmark wrote")
    found = json.loads(parser.parse_args().found.read_text(encoding="utf-8"))
    try:
        PAGE.write_text(insert_between(PAGE.read_text(encoding="utf-8"), tables(found)), encoding="utf-8")
    except ValueError as error:
        sys.exit(str(error))


def insert_between(page: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """The page with a text between its markers.

    Raises:
        ValueError: if the page does not hold both markers once, in order.
    """
    before, begun, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended or begin in rest or end in before + after:
        raise ValueError(f"the page must hold {begin!r} and then {end!r}, once each; put them where the tables belong")
    return f"{before}{begin}\n\n{text}\n{end}{after}"


def tables(found: Mapping[str, Any]) -> str:
    """What the numbers were measured on, and a table per part, in the order of the benchmarks.

    Raises:
        ValueError: if nothing was measured.
    """
    rows = [row for benchmark in found["benchmarks"] for row in benchmark["extra_info"].get("rows", ())]
    if not rows:
        raise ValueError("the benchmarks noted no rows; run all of them with `make bench`")
    texts = [machine(found["machine_info"])]
    for part in dict.fromkeys(row["part"] for row in rows):
        texts.append(f"## {part}\n\n{HEAD}{''.join(line(row) for row in rows if row['part'] == part)}")
    return "\n".join(texts)


def machine(info: Mapping[str, Any]) -> str:
    """The processor and the versions, without the name of the machine."""
    versions = ", ".join(f"{name} {info[name]}" for name in ("torch", "transformers") if name in info)
    cpu = info.get("cpu", {}).get("brand_raw", "unknown processor")
    return f"One thread of {cpu}; Python {info['python_version']}{f', {versions}' if versions else ''}.\n"


def line(row: Mapping[str, Any]) -> str:
    """A row of a table."""
    cells = (row["what"], row["against"] or "–", measured(row), goal(row), row["note"])
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |\n"


def measured(row: Mapping[str, Any]) -> str:
    """The median with its unit; with several values also their range and number."""
    text = f"**{number(row['value'])}** {row['unit']}".rstrip()
    if row["count"] == 1 or row["low"] == row["high"]:
        return text
    return f"{text} ({number(row['low'])} to {number(row['high'])}, {row['count']} times)"


def goal(row: Mapping[str, Any]) -> str:
    """A goal, and whether it was reached.

    Raises:
        ValueError: if a goal is not ≥ or ≤ and a number.
    """
    if not row["goal"]:
        return "–"
    sense, _, bound = row["goal"].partition(" ")
    if sense not in ("≥", "≤"):
        raise ValueError(f"goal {row['goal']!r} of {row['what']!r} must be ≥ or ≤, a space and a number")
    reached = row["value"] >= float(bound) if sense == "≥" else row["value"] <= float(bound)
    return f"{row['goal']}: {'reached' if reached else '**short**'}"


def number(value: float) -> str:
    """Three digits; a power of ten where it is very small."""
    if value and abs(value) < 10**-DIGITS:
        return f"{value:.0e}"
    decimals = max(0, DIGITS - len(str(int(abs(value)))))
    return f"{value:.{decimals}f}"


if __name__ == "__main__":
    main()

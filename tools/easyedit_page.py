"""Write the tables of docs/from_easyedit.md from the table of EasyEdit's algorithms: python -m tools.easyedit_page.

`--check` writes nothing and fails where the page differs. The text around the tables is written by hand.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from d4s.apply.easyedit.algorithms import ABSENT, ALGORITHMS, COMMON
from tools.performance_page import insert_between

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "from_easyedit.md"
NAMES = ("<!-- names: begin -->", "<!-- names: end -->")
KEYS = ("<!-- keys: begin -->", "<!-- keys: end -->")


def names() -> str:
    """A row per algorithm: what it is here, and what to know of it."""
    lines = ["| `alg_name` | here | what to know |", "|---|---|---|"]
    for name, algorithm in ALGORITHMS.items():
        presets = ", ".join(f"[`{preset}`](methods.md#{preset})" for preset in algorithm.presets)
        lines.append(f"| `{name}` | {presets} | {'; '.join(algorithm.differs) or '–'} |")
    for name, absent in ABSENT.items():
        near = f"; nearest: [`{absent.nearest}`](methods.md#{absent.nearest})" if absent.nearest else ""
        lines.append(f"| `{name}` | not translated{near} | {absent.reason} |")
    return "\n".join(lines) + "\n"


def keys() -> str:
    """A row per key and what becomes of it, with the algorithms for which it does."""
    rows: dict[tuple[str, str], list[str]] = {}
    for name, algorithm in ALGORITHMS.items():
        for key, rule in algorithm.rules.items():
            rows.setdefault((key, rule.describe()), []).append(name)
    return "\n".join(["| key | of | becomes |", "|---|---|---|", *_rows(rows)]) + "\n"


def _rows(rows: dict[tuple[str, str], list[str]]) -> Iterator[str]:
    """Keys of few algorithms first, and all meanings of a key together."""
    order = {key: number for number, key in enumerate(dict.fromkeys(key for key, _ in rows))}
    for key, meaning in sorted(rows, key=lambda row: (row[0] in COMMON, order[row[0]])):
        yield f"| `{key}` | {_together(rows[key, meaning])} | {meaning} |"


def _together(found: list[str]) -> str:
    """Algorithms, those that locate and then edit as one."""
    locating = [name for name, algorithm in ALGORITHMS.items() if "fact_token" in algorithm.rules]
    if len(found) == len(ALGORITHMS):
        return "all"
    if set(locating) <= set(found):
        return ", ".join([*(name for name in found if name not in locating), "*locate then edit*"])
    return ", ".join(found)


def page() -> str:
    """The page with its tables."""
    return insert_between(insert_between(PAGE.read_text(encoding="utf-8"), names(), *NAMES), keys(), *KEYS)


def main() -> None:
    """Write the page, or with --check fail where it differs."""
    parser = argparse.ArgumentParser(description="Write the tables of docs/from_easyedit.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not up to date")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"{PAGE.name} does not match src/d4s/apply/easyedit: run `make pages` and commit it")


if __name__ == "__main__":
    main()

"""docs/pitfalls.md: all of them, in order, and every test that it names is there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "pitfalls.md"
COUNT = 38
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ROW = re.compile(r"^\| *\d")


def rows_of(text: str) -> list[list[str]]:
    """The cells of each numbered row."""
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines() if ROW.match(line)]


@cache
def defined_in(path: Path) -> frozenset[str]:
    """Names of the tests that a file defines, at its top or in a class; none where there is no file."""
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    return frozenset(node.name for body in bodies for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test"))


def problems(text: str, root: Path = ROOT) -> list[str]:
    """What is wrong with a page, a sentence each."""
    rows = rows_of(text)
    numbers = [row[0] for row in rows]
    found = [] if numbers == [str(number) for number in range(1, COUNT + 1)] else [f"the entries are numbered {numbers}"]
    for row in rows:
        if len(row) != 4 or not all(row):
            found.append(f"entry {row[0]} has {len(row)} cells, or an empty one")
        elif not NAMED.search(row[3]) and "cannot" not in row[3]:
            found.append(f"entry {row[0]} names no test and does not say why it cannot happen")
    return found + [f"there is no {file}::{name}" for file, name in NAMED.findall(text) if name not in defined_in(root / file)]


def test_all_pitfalls_stand_in_order_and_their_tests_exist() -> None:
    assert problems(PAGE.read_text(encoding="utf-8")) == []


def test_a_mention_of_a_test_can_be_read() -> None:
    """Whatever looks like a test on the page is one of those that are looked up."""
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("::test_") == len(NAMED.findall(text)) >= COUNT


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "::test_dropout_never_acts`",
            "::test_dropout_sometimes_acts`",
            "there is no tests/oracle/test_pitfalls.py::test_dropout_s",
        ),
        (
            "`tests/oracle/test_pitfalls.py::test_dropout",
            "`tests/oracle/test_pits.py::test_dropout",
            "there is no tests/oracle/test_pits.py",
        ),
        ("| 29 | Quantised", "| 30 | Quantised", "the entries are numbered"),
        ("| 29 | Quantised", "29. Quantised", "the entries are numbered"),
        ("`tests/oracle/test_pitfalls.py::test_dropout_never_acts`", "some test", "entry 28 names no test"),
        ("`tests/oracle/test_pitfalls.py::test_dropout_never_acts`", "", "entry 28 has 4 cells, or an empty one"),
    ],
)
def test_a_page_that_is_wrong_is_told_how(old: str, new: str, problem: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert old in text
    assert any(found.startswith(problem) for found in problems(text.replace(old, new, 1)))

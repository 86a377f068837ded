"""Tables of docs/performance.md from the JSON of a run."""

import json
from pathlib import Path
from typing import Any

import pytest

from tools import performance_page
from tools.performance_page import BEGIN, END, goal, insert_between, measured, number, tables

ROW: dict[str, Any] = {
    "part": "Solver", "what": "one more edit", "against": "a fresh solve", "unit": "×", "goal": "≥ 100", "note": "",
    "value": 177.3, "low": 150.0, "high": 203.25, "count": 5,
}  # fmt: skip
INFO = {"python_version": "3.11.9", "node": "secret-name", "cpu": {"brand_raw": "Some CPU"}, "torch": "2.13.0"}


def run(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"machine_info": INFO, "benchmarks": [{"extra_info": {"rows": [row]}} for row in rows] + [{"extra_info": {}}]}


def test_a_table_per_part_in_the_order_of_the_benchmarks() -> None:
    text = tables(run(ROW, ROW | {"part": "Moments", "note": "a | b"}, ROW | {"what": "undo"}))
    assert text.startswith("One thread of Some CPU; Python 3.11.9, torch 2.13.0.\n")
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Solver", "## Moments"]
    lines = [line for line in text.splitlines() if line.startswith("| one") or line.startswith("| undo")]
    assert lines[0] == "| one more edit | a fresh solve | **177** × (150 to 203, 5 times) | ≥ 100: reached |  |"
    assert lines[1].startswith("| undo") and lines[2].endswith("| a / b |")


def test_the_name_of_the_machine_stays_out() -> None:
    assert "secret-name" not in tables(run(ROW))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "≥ 100: reached"),
        ({"value": 99.9}, "≥ 100: **short**"),
        ({"goal": "≤ 1e-6", "value": 2e-10}, "≤ 1e-6: reached"),
        ({"goal": "≤ 1.1", "value": 1.2}, "≤ 1.1: **short**"),
        ({"goal": ""}, "–"),
    ],
)
def test_a_goal_says_whether_it_was_reached(changes: dict[str, Any], expected: str) -> None:
    assert goal(ROW | changes) == expected


def test_a_goal_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="'fast' of 'one more edit' must be ≥ or ≤"):
        goal(ROW | {"goal": "fast"})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, "0.00"), (8.86, "8.86"), (14.77, "14.8"), (177.3, "177"), (1234.5, "1234"), (0.974, "0.97"), (1.67e-10, "2e-10")],
)
def test_numbers_have_three_digits(value: float, expected: str) -> None:
    assert number(value) == expected


def test_a_single_value_has_no_range() -> None:
    assert measured(ROW | {"count": 1}) == "**177** ×"
    assert measured(ROW | {"low": 177.3, "high": 177.3, "unit": ""}) == "**177**"


def test_text_around_the_markers_stays_and_writing_twice_changes_nothing() -> None:
    once = insert_between(f"# Speed\n{BEGIN}\nold\n{END}\nend\n", "new")
    assert once == f"# Speed\n{BEGIN}\n\nnew\n{END}\nend\n"
    assert insert_between(once, "new") == once


@pytest.mark.parametrize("page", ["no markers", f"{END}\n{BEGIN}", f"{BEGIN}\n", f"{BEGIN}\n{END}\n{BEGIN}\n{END}"])
def test_a_page_without_its_markers_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        insert_between(page, "new")


def test_the_command_writes_the_page_or_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, found = tmp_path / "performance.md", tmp_path / "found.json"
    page.write_text(f"{BEGIN}\n{END}\n")
    monkeypatch.setattr(performance_page, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["performance_page", str(found)])
    found.write_text(json.dumps(run(ROW)))
    performance_page.main()
    assert "one more edit" in page.read_text()
    found.write_text(json.dumps(run()))
    with pytest.raises(SystemExit, match="noted no rows"):
        performance_page.main()


def test_the_page_of_the_repository_holds_measured_tables() -> None:
    text = performance_page.PAGE.read_text()
    assert insert_between(text, "") and "| what | against |" in text

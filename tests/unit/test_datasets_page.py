"""docs/datasets.md names every data set with its licence, and its table of counts is written by one command."""

import re
from pathlib import Path

import pytest

from d4s.facts.readers import READERS, READINGS
from tools import datasets_page
from tools.datasets_page import BEGIN, END, PAGE, page, sources

DATA = Path(__file__).resolve().parents[1] / "fixtures" / "data"
ROW = re.compile(r"^\| (`.*) \| (ours|read|unverified) \|$", re.MULTILINE)


def described() -> dict[str, tuple[list[str], str, str]]:
    """Of each data set on the page: its styles, its licence and what is known of its schema."""
    found = {}
    for cells, known in ROW.findall(PAGE.read_text(encoding="utf-8")):
        names, styles, _, _, licence = cells.split(" | ")
        found |= dict.fromkeys(re.findall(r"`(\w+)`", names), (re.findall(r"`(\w+)`", styles), licence, known))
    return found


def test_every_data_set_stands_on_the_page_with_its_styles_and_licence() -> None:
    known = described()
    for name in READERS:
        styles, licence, _ = known[name]
        assert licence
        assert name == "world" or styles == [style for style in READINGS.get(name, ()) if style]


def test_read_sets_are_those_with_counts() -> None:
    counted = set(re.findall(r"^\| `(\w+)` ", PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0], re.MULTILINE))
    assert counted == {name for name, (_, _, known) in described().items() if known == "read" and name in READERS}


def test_the_table_has_a_row_per_reading() -> None:
    text = page(f"before\n{BEGIN}old\n{END}after\n", DATA)
    assert text.startswith("before\n" + BEGIN + datasets_page.HEAD)
    assert text.endswith(END + "after\n")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == len(list(sources(DATA))) == sum(len(READINGS.get(name, ("",))) for name in READERS if name != "world")
    [row] = [row for row in rows if row.startswith("| `csk_20q` | `set`")]
    assert row == "| `csk_20q` | `set` | 3 | 1 | 2 | 0 | 1 | 1 | 0, 0 | 0 | 0 | 0 | 1 / 0 / 0 |"
    [row] = [row for row in rows if row.startswith("| `mquake_hard`")]
    assert row == "| `mquake_hard` | – | 3 | 3 | 0 | 0 | 6 | 6 | 0, 1 | 6 | 0 | multihop 18 | 6 / 0 / 0 |"


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no part between"):
        page(f"{BEGIN} but no end", DATA)


def test_the_page_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.md"
    path.write_text(BEGIN + END, encoding="utf-8")
    monkeypatch.setattr(datasets_page, "PAGE", path)
    monkeypatch.setenv("D4S_DATA", str(DATA))
    datasets_page.main()
    assert "| `elken` | `event` | 4 | 2 | 0 | 2 |" in path.read_text(encoding="utf-8")

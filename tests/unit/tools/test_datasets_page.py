"""docs/datasets.md names every data set with its licence, and its table of counts is written by one command."""

import re
from pathlib import Path

import pytest

from d4s.facts.readers import MADE_UP, READERS, STYLE_FILES
from tools import datasets_page
from tools.datasets_page import BEGIN, END, HEAD, PAGE, sources, table

DATA = Path(__file__).resolve().parents[2] / "fixtures" / "data"
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
        assert name in MADE_UP or styles == [style for style in STYLE_FILES.get(name, ()) if style]


def test_read_sets_are_those_with_counts() -> None:
    counted = set(re.findall(r"^\| `(\w+)` ", PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0], re.MULTILINE))
    assert counted == {name for name, (_, _, known) in described().items() if known == "read" and name in READERS}


def test_the_table_has_a_row_per_reading() -> None:
    text = table(DATA)
    assert text.startswith(HEAD)
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == len(list(sources(DATA))) == sum(len(STYLE_FILES.get(name, ("",))) for name in READERS if name not in MADE_UP)
    [row] = [row for row in rows if row.startswith("| `csk_20q` | `set`")]
    assert row == "| `csk_20q` | `set` | 3 | 1 | 2 | 0 | 1 | 1 | 0, 0 | 0 | 0 | 0 | 1 / 0 / 0 |"
    [row] = [row for row in rows if row.startswith("| `mquake_hard`")]
    assert row == "| `mquake_hard` | – | 3 | 3 | 0 | 0 | 6 | 6 | 0, 1 | 6 | 0 | multihop 18 | 6 / 0 / 0 |"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page to be written from the fixtures."""
    path = tmp_path / "page.md"
    monkeypatch.setattr(datasets_page, "PAGE", path)
    monkeypatch.setenv("D4S_DATA", str(DATA))
    return path


def test_the_page_is_written(written: Path) -> None:
    written.write_text(f"before\n{BEGIN}old\n{END}after\n", encoding="utf-8")
    datasets_page.main()
    text = written.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{BEGIN}\n\n{HEAD}| `") and text.endswith(f"|\n\n{END}after\n")
    assert "| `elken` | `event` | 4 | 2 | 0 | 2 |" in text


@pytest.mark.parametrize("text", [f"{BEGIN} but no end", f"{BEGIN}{BEGIN}{END}", f"{END}{BEGIN}{END}"])
def test_a_page_with_other_marks_is_refused(text: str, written: Path) -> None:
    written.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match="once each"):
        datasets_page.main()
    assert written.read_text(encoding="utf-8") == text

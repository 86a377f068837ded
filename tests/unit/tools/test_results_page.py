"""The tables of results in README.md and docs/results.md are what the recorded studies say."""

import re
from pathlib import Path

import pytest

from d4s.analysis.claims import claims
from d4s.analysis.dvc_metrics import write_metrics
from tests.synthetic import write_study
from tools import results_page

MARKS = "before\n<!-- table {} of results/recorded/synthetic: written by `make pages` -->\nOLD\n<!-- end -->\nafter\n"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page with both tables, of a finished study."""
    folder = write_study(tmp_path / "results" / "synthetic")
    write_metrics(folder)
    claims(folder)
    (folder / "report.html").touch()
    page = tmp_path / "page.md"
    page.write_text("".join(map(MARKS.format, results_page.TABLES)))
    for name, value in {"PAGES": (page,), "RESULTS": tmp_path / "results", "RECORDED": tmp_path / "results" / "recorded"}.items():
        monkeypatch.setattr(results_page, name, value)
    monkeypatch.setattr(results_page, "LENGTHS", (100, 200))
    return page


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["results_page", *arguments])
    results_page.main()


def test_tables_are_taken_over_written_and_checked(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "--take", "synthetic")
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("<!-- end -->\nafter\n") and "OLD" not in text
    assert "| C1 |" in text and re.search(r"\| MEMIT \| [\d./ ]+, [\d.]+ \| [\d./ ]+, [\d.]+ \|", text)
    run(monkeypatch, "--check")
    page.write_text(text.replace("| C1 |", "| C0 |"))
    with pytest.raises(SystemExit, match=r"page\.md does not match results/recorded: run `make pages`"):
        run(monkeypatch, "--check")
    run(monkeypatch)
    assert page.read_text() == text


def test_an_unfinished_study_is_not_taken(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="results/nothing holds no finished study"):
        run(monkeypatch, "--take", "nothing")

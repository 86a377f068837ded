"""The leaderboard's page: self-contained and escaped, and in a browser sorted, filtered and opened by mouse, keys and on a phone."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from d4s.analysis.display_names import REFERENCES, method_name
from d4s.analysis.study_results import Results
from d4s.cli import app
from d4s.report.leaderboard import write_leaderboard
from d4s.report.page import LEADERBOARD_FILE, report
from d4s.settings_base import validate
from d4s.study_settings import Study
from tests.browser import BROWSER, Tab, browsing
from tests.ranked import RANKED, WHOLE, ranked_study
from tests.synthetic import METHODS

SMALL = replace(WHOLE, lengths=(4, 40))
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium found: the page is not rendered here")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    folder = tmp_path_factory.mktemp("studies")
    few = {name: RANKED[name] for name in ("unedited", "ft_m", "rome")}
    other = replace(SMALL, methods=few, lengths=(4,), study="other")
    return [ranked_study(folder / "one", SMALL), ranked_study(folder / "two", other, where=("small", "zsre"))]


@pytest.fixture(scope="module")
def page(studies: list[Results]) -> Path:
    path = studies[0].folder / "index.html"
    write_leaderboard(path, studies)
    return path


@pytest.fixture(scope="module")
def source(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_nothing_is_fetched_and_only_the_page_s_own_script_runs(source: str) -> None:
    assert not re.search(r"url\((?!#)|@import|\son\w+=|\ssrc=", source)
    scripts = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    (named,) = re.findall(r"script-src 'sha256-([^']+)'", source)
    assert [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts] == [named]
    assert "default-src 'none'" in source


def test_the_page_holds_every_row_with_its_settings_and_runs(source: str) -> None:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', source, re.DOTALL)
    content = json.loads(text)
    rome = [row for row in content["rows"] if row["editor"] == "rome"]
    assert [(row["model"], row["edits"], row["protocol"]) for row in rome] == [
        *(("mini", edits, protocol) for edits in (40, 4) for protocol in ("retained", "immediate")),
        *(("small", 4, protocol) for protocol in ("retained", "immediate")),
    ]
    assert "family: locate_then_edit" in content["settings"][rome[0]["settings"]]
    assert rome[0]["runs"] == ["mini.world_qa.rome.s1-0123456789"] and rome[0]["address"].startswith("https://")
    against = rome[0]["against"]
    assert sum(map(len, against.values())) == 5 and "ROME" not in str(against)


def test_published_scores_stand_beside_ours_with_both_protocols(source: str) -> None:
    assert "The Mirage of Model Editing" in source and "greedy, at most 50 tokens" in source
    assert "retained after 4 edits in sequence, exact match of the whole answer" in source


def test_names_from_a_study_cannot_break_out(tmp_path: Path) -> None:
    made = replace(SMALL, methods={"</script><i>x": METHODS["rome"], "rome": METHODS["rome"]}, lengths=(4,))
    study = ranked_study(tmp_path / "study", made)
    write_leaderboard(tmp_path / "page.html", [study])
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<i>x" not in text and "\\u003c/script>\\u003ci>x" in text


def test_the_report_writes_it_where_it_is_asked_for(studies: list[Results], tmp_path: Path) -> None:
    folder = ranked_study(tmp_path / "study", replace(SMALL, methods={"rome": METHODS["rome"]}, lengths=(4,))).folder
    (folder / "figures").mkdir()
    (folder / "figures" / "figures.json").write_text("{}")
    (folder / "claims.json").write_text("[]")
    study = validate(Study, json.loads((folder / "study.json").read_text()), "the study")
    report(folder, study.model_copy(update={"leaderboard": False}))
    assert not (folder / LEADERBOARD_FILE).exists()
    report(folder, study)
    assert "Nothing that was read in a source has ours beside it" in (folder / LEADERBOARD_FILE).read_text(encoding="utf-8")


def test_the_command_joins_studies(studies: list[Results], page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {results.study["study"]: results.folder for results in studies}
    monkeypatch.setattr("d4s.study.resolve.results_folder", lambda study: folders[study.study])
    files = [tmp_path / f"{name}.json" for name in folders]
    for path, results in zip(files, studies, strict=True):
        path.write_text(json.dumps(dict(results.study)))
    done = CliRunner().invoke(app, ["leaderboard", *map(str, files), "--out", str(tmp_path / "both.html")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "both.html").read_text(encoding="utf-8") == page.read_text(encoding="utf-8")


# --- browser ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browsing(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def editors(tab: Tab) -> list[str]:
    return tab.ask("[...document.querySelectorAll('#board td.name button')].map((one) => one.textContent)")


def choose(tab: Tab, name: str, value: str) -> None:
    tab.ask(f"(() => {{ const s = document.getElementById('{name}'); s.value = '{value}'; s.dispatchEvent(new Event('change')); }})()")


@needs_browser
def test_headings_sort_by_click_and_by_keys(tab: Tab, page: Path) -> None:
    tab.open(page.as_uri(), 1280)
    assert {*editors(tab)[-2:]} == {method_name(name) for name in REFERENCES}
    tab.ask("document.querySelector('th[data-key=cpu_s] button').click()")
    cheap = editors(tab)
    assert {*cheap[:2]} == {"FT-M", "GRACE"} and cheap[5] == "KN"
    assert tab.ask("document.querySelector('th[data-key=cpu_s]').ariaSort") == "ascending"
    tab.press("Enter")
    assert editors(tab)[0] == "KN" and {*editors(tab)[-2:]} == {*cheap[-2:]}, "the focus stays on the heading; missing values stay last"
    assert tab.ask("document.querySelector('th[data-key=cpu_s]').ariaSort") == "descending"
    assert tab.ask("document.querySelectorAll('th[aria-sort=ascending], th[aria-sort=descending]').length") == 1
    assert "ordered by CPU-s per edit, descending" in tab.ask("document.getElementById('status').textContent")


@needs_browser
def test_filters_choose_rows_and_the_address_keeps_them(tab: Tab, page: Path) -> None:
    tab.open(page.as_uri(), 1280)
    choose(tab, "protocol", "immediate")
    assert "Unedited" not in editors(tab)
    choose(tab, "model", "small")
    assert {*editors(tab)} == {"FT-M", "ROME"} and tab.ask("document.getElementById('dataset').value") == "zsRE"
    address = tab.ask("location.href")
    tab.open(address, 1280)
    assert {*editors(tab)} == {"FT-M", "ROME"} and tab.ask("document.getElementById('protocol').value") == "immediate"
    choose(tab, "model", "all")
    choose(tab, "dataset", "all")
    choose(tab, "edits", "all")
    assert editors(tab).count("ROME") == 3
    tab.ask("(() => { const s = document.getElementById('search'); s.value = 'rom'; s.dispatchEvent(new Event('input')); })()")
    assert {*editors(tab)} == {"ROME"}


@needs_browser
def test_an_editor_is_held_against_the_others(tab: Tab, page: Path) -> None:
    tab.open(page.as_uri(), 1280)
    choose(tab, "against", "kn")
    told = tab.ask("[...document.querySelectorAll('#board tbody tr')].map((one) => one.querySelector('td.against').textContent)")
    by_editor = dict(zip(editors(tab), told, strict=True))
    assert by_editor["KN"] == by_editor["Unedited"] == "–" and by_editor["D4S"] == "better"


@needs_browser
def test_details_open_by_key_and_name_settings_and_runs(tab: Tab, page: Path) -> None:
    tab.open(page.as_uri(), 1280)
    tab.ask("document.querySelector('#board td.name button').focus()")
    tab.press("Enter")
    text = tab.ask("document.querySelector('#board tr.more').textContent")
    assert "Not told apart from" in text and "mini.world_qa." in text and "family:" in text
    assert tab.ask("document.activeElement.getAttribute('aria-expanded')") == "true"
    tab.press("Enter")
    assert tab.ask("document.querySelector('#board tr.more')") is None


@needs_browser
def test_a_phone_shows_what_is_ordered_by_and_nothing_beside_the_screen(tab: Tab, page: Path) -> None:
    tab.open(page.as_uri(), 390)
    headings = "[...document.querySelectorAll('#board thead tr:last-child th')]"
    seen = f"{headings}.filter((one) => one.offsetWidth).map((one) => one.innerText.trim())"
    assert tab.ask(seen) == ["Editor", "Rank", "Average"]
    choose(tab, "order", "cpu_s")
    assert tab.ask(seen) == ["Editor", "Rank", "Average", "CPU-s per edit"]
    assert tab.ask("document.documentElement.scrollWidth") <= 390
    assert tab.ask("Math.min(...[...document.querySelectorAll('select')].map((one) => one.offsetHeight))") >= 40


@needs_browser
def test_the_browser_complains_about_nothing(tab: Tab) -> None:
    assert tab.complaints == []

"""The page: complete, self-contained, escaped, and fit for a browser."""

import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from d4s.analysis.claim_groups import PAPERS
from d4s.analysis.claims_d4s import CLAIMS
from d4s.analysis.example_answers import examples
from d4s.analysis.shortcomings import shortcomings
from d4s.analysis.study_results import Results
from d4s.errors import ArtifactError
from d4s.figures.figure_stage import FIGURES
from d4s.figures.style import GRID, INK, MUTED, PAPER
from d4s.report.embed import data_uri, inline_svg
from d4s.report.page import report
from d4s.settings_base import validate
from d4s.study_settings import Study
from tests.synthetic import METHODS, Made, write_study

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")


def study_of(folder: Path) -> Study:
    return validate(Study, json.loads((folder / "study.json").read_text()), "the study")


class Page(HTMLParser):
    """Tags, ids, links and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("href", "src", "xlink:href", "srcset", "data", "action") and value:
                self.targets.append(value)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.fixture(scope="module")
def source(finished_dir: Path) -> str:
    report(finished_dir, study_of(finished_dir))
    return (finished_dir / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_verdicts_come_first_then_figures_tables_examples_costs_settings(source: str) -> None:
    order = [source.index(f'<section id="{name}"') for name in ("verdicts", "doubts", "figures", "tables", "examples", "costs", "settings")]
    assert order == sorted(order)


def test_every_claim_and_figure_and_table_is_there(page: Page) -> None:
    expected = {claim.claim_id for claim in CLAIMS} | {name for claim in CLAIMS for name in claim.shown_in}
    assert expected <= set(page.ids)
    assert page.tags["figure"] == len(FIGURES)
    assert page.tags["table"] >= 6 + 4


def test_links_inside_the_page_lead_somewhere(page: Page) -> None:
    inside = {target[1:] for target in page.targets if target.startswith("#")}
    assert inside <= set(page.ids)


def test_nothing_is_fetched_and_nothing_runs(page: Page, source: str) -> None:
    assert [target for target in page.targets if not target.startswith(("#", "data:"))] == []
    assert page.tags["script"] == page.tags["iframe"] == page.tags["link"] - 1 == 0
    assert not re.search(r"url\((?!#)", source)
    assert "default-src 'none'" in source
    assert not re.search(r"@import|\son\w+=", source)


def test_ids_are_unique(page: Page) -> None:
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []


def test_figures_follow_the_theme(source: str) -> None:
    drawings = "".join(re.findall(r"<figure.*?</figure>", source, re.DOTALL))
    assert "var(--ink)" in drawings
    assert [ink for ink in (INK, MUTED, GRID, PAPER) if ink in drawings] == []


def test_what_comes_from_data_is_escaped(page: Page, source: str) -> None:
    assert "to buy a &lt;red&gt; kite &amp; run" in source
    assert source.count("asked of mqd_tf?") == 10 and "Is &lt;3&gt; asked of mqd_tf?" in source
    assert "True/false (template)" in source and "World QA (read)" in source
    assert page.tags["red"] == 0
    assert "to buy a <red> kite & run" in page.text


def test_numbers_costs_and_one_seed_are_told(page: Page) -> None:
    for words in (
        "One seed",
        "Start-up, % of wall",
        "bootstrap over facts",
        "docs/tuning.md",
        "seed 0 is for tuning",
    ):
        assert words in page.text


def test_the_settings_are_those_of_the_study(page: Page, finished_dir: Path) -> None:
    assert "study: synthetic" in page.text
    assert study_of(finished_dir).study == "synthetic"


def test_the_same_study_gives_the_same_page(source: str, finished_dir: Path) -> None:
    report(finished_dir, study_of(finished_dir))
    assert (finished_dir / "report.html").read_text(encoding="utf-8") == source


def test_a_page_without_verdicts_says_what_to_run(tmp_path: Path) -> None:
    study = write_study(tmp_path, Made(methods={"rome": METHODS["rome"]}, lengths=(4,), forms=False))
    with pytest.raises(ArtifactError, match="run `d4s claims` first"):
        report(study, study_of(study))


def test_names_from_a_study_cannot_break_out(tmp_path: Path) -> None:
    settings = study_of(write_study(tmp_path / "plain", Made(methods={"rome": METHODS["rome"]}, lengths=(4,), forms=False)))
    study = write_study(tmp_path, Made(methods={"<script>alert(1)</script>": METHODS["rome"]}, lengths=(4,), forms=False))
    (study / "figures").mkdir()
    (study / "figures" / "figures.json").write_text('{"fig_curves": {"title": "<b>t</b>", "caption": "<i>c</i>"}}')
    (study / "claims.json").write_text("[]")
    report(study, settings.model_copy(update={"study": "</title><script>"}))
    parsed = Page((study / "report.html").read_text(encoding="utf-8"))
    assert parsed.tags["script"] == parsed.tags["i"] == 0


def test_figures_that_a_page_cannot_show_are_named(tmp_path: Path) -> None:
    study = write_study(tmp_path, Made(methods={"rome": METHODS["rome"]}, lengths=(4,), forms=False))
    (study / "figures").mkdir()
    (study / "figures" / "figures.json").write_text('{"fig_curves": {"title": "t", "caption": "c"}}')
    (study / "figures" / "fig_curves.pdf").touch()
    (study / "claims.json").write_text("[]")
    report(study, study_of(study))
    assert "Drawn as figures/fig_curves.pdf." in (study / "report.html").read_text(encoding="utf-8")


def test_a_study_of_another_paper_asks_that_papers_question(tmp_path: Path) -> None:
    study = write_study(tmp_path, Made(methods={"rome": METHODS["rome"]}, lengths=(4,), forms=False))
    (study / "figures").mkdir()
    (study / "figures" / "figures.json").write_text("{}")
    (study / "claims.json").write_text("[]")
    settings = json.loads((study / "study.json").read_text()) | {"claims": ["saul", "memory"]}
    (study / "study.json").write_text(json.dumps(settings))
    report(study, study_of(study))
    text = Page((study / "report.html").read_text(encoding="utf-8")).text
    assert all(PAPERS[group].title in text for group in ("saul", "memory"))
    assert PAPERS["saul"].question in text and PAPERS["d4s"].question not in text


# --- parts ------------------------------------------------------------------------------------------------------------


def test_an_inlined_figure_keeps_glyphs_and_shortens_paths(tmp_path: Path) -> None:
    path = tmp_path / "f.svg"
    path.write_text(
        '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<!-- a comment --><svg width="10pt" height="5pt" viewBox="0 0 10 5"><metadata>m</metadata>'
        f'<path id="a" d="M 1.23456 2.5" style="fill: {INK}"/><use xlink:href="#a" transform="scale(0.0075123)" clip-path="url(#a)"/></svg>'
    )
    text = str(inline_svg(path, "x", 'say "hi"'))
    assert text.startswith('<svg role="img" aria-label="say &#34;hi&#34;" viewBox="0 0 10 5">')
    assert '<path id="x-a" d="M 1.23 2.5" style="fill: var(--ink)"/>' in text
    assert 'href="#x-a" transform="scale(0.0075123)" clip-path="url(#x-a)"' in text
    assert not re.search(r"comment|metadata|DOCTYPE", text)


def test_a_png_becomes_a_data_uri(tmp_path: Path) -> None:
    (tmp_path / "f.png").write_bytes(b"\x89PNG")
    assert data_uri(tmp_path / "f.png") == "data:image/png;base64,iVBORw=="


def test_examples_compare_the_oldest_edits_by_their_recorded_scores(results: Results) -> None:
    groups = examples(results)
    assert [group.place for group in groups][:2] == ["World QA, mini", "True/false, mini"]
    first = groups[0]
    assert first.methods == ("ROME", "MEMIT", "D4S")
    assert first.length == 300
    scores = results.scores.query("dataset == 'world_qa' and editor == 'rome' and step == 300 and metric == 'efficacy_generated'")
    expected = bool(scores.set_index("fact_id")["value"]["person0000:r0"])
    assert first.items[0].after[0].is_right == expected


def test_collapse_divergence_and_better_rivals_are_told(tmp_path: Path) -> None:
    some = {name: METHODS[name] for name in ("unedited", "rome", "d4s", "memit_seq")}
    study = write_study(tmp_path, Made(methods=some, lengths=(300,), forms=False).having(memit_seq=METHODS["d4s_even"]))
    summary, index = (pd.read_parquet(study / f"{name}.parquet") for name in ("summary", "index"))
    results = Results(study)
    at = (summary["editor"] == "rome") & (summary["metric"] == "perplexity_ratio")
    results.__dict__["summary"] = summary.assign(mean=summary["mean"].mask(at, 40.0))
    results.__dict__["index"] = index.assign(diverged_at=index["editor"].eq("rome").map({True: 17.0, False: None}))
    row = {"criterion": "base_accuracy", "subject": "true_false, withheld", "value": 0.943, "threshold": 0.95}
    criteria = {"mini": {"passed": False, "criteria": [{**row, "passed": False}, {**row, "subject": "world_qa", "passed": True}]}}
    text = " ".join(shortcomings(results, [{"id": "X1", "verdict": "not measured"}], criteria))
    assert "The model mini fails a criterion: base accuracy (true_false, withheld) is 0.943, below 0.95." in text and "world_qa" not in text
    assert "Not measured in this study: X1." in text
    assert "ROME on World QA collapsed (perplexity above 10 times the unedited model's) at 300 edits." in text
    assert "ROME on World QA diverged at edit 17" in text
    assert "On World QA the best average after 300 edits, the longest length that all methods share, is that of MEMIT + history" in text


def test_methods_are_compared_at_the_length_that_all_of_them_share(tmp_path: Path) -> None:
    """ROME, run for 10 edits alone, has lost least there; after 10 edits of both, D4S is the best."""
    some = {"unedited": METHODS["unedited"], "rome": METHODS["rome"], "d4s": replace(METHODS["d4s"], locality_loss=1.0)}
    results = Results(write_study(tmp_path, Made(methods=some, lengths=(10, 300), forms=False)))
    for name in ("index", "summary"):
        table = getattr(results, name)
        results.__dict__[name] = table[(table["editor"] != "rome") | (table["step"] == 10)]
    assert [text for text in shortcomings(results, []) if "best average" in text] == []


def test_several_models_are_told_apart(tmp_path: Path) -> None:
    some = {name: METHODS[name] for name in ("unedited", "rome", "d4s")}
    results = Results(write_study(tmp_path, Made(methods=some, lengths=(10, 300), forms=False)))
    for name in ("index", "summary"):
        table = getattr(results, name)
        results.__dict__[name] = pd.concat([table, table.assign(model="other")])
    summary, index = results.summary, results.index
    is_rome = summary["editor"].eq("rome") & summary["metric"].eq("perplexity_ratio")
    collapsed = is_rome & summary["step"].eq(summary["model"].map({"mini": 300, "other": 10}))
    results.__dict__["summary"] = summary.assign(mean=summary["mean"].mask(is_rome, 1.0).mask(collapsed, 40.0))
    at = index["model"].map({"mini": 17.0, "other": 5.0}).where(index["editor"].eq("rome"))
    results.__dict__["index"] = index.assign(diverged_at=at)
    text = " ".join(shortcomings(results, []))
    for model, length, step in (("mini", 300, 17), ("other", 10, 5)):
        assert f"ROME on World QA ({model}) collapsed (perplexity above 10 times the unedited model's) at {length} edits." in text
        assert f"ROME on World QA ({model}) diverged at edit {step};" in text


# --- browser ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.skipif(BROWSER is None, reason="no Chromium found: the page is not rendered here")
def test_a_browser_renders_the_page_without_complaint(source: str, finished_dir: Path, tmp_path: Path, width: int) -> None:
    shot = tmp_path / "page.png"
    done = subprocess.run(
        [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},1600", "--virtual-time-budget=2000", "--enable-logging=stderr", f"--screenshot={shot}",
            (finished_dir / "report.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert shot.stat().st_size > 20_000

"""The documentation site: links to files of the repository, anchors, broken links, and nothing from elsewhere."""

from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

from tools.lock import ROOT

PAGE = """# A page

See [the code](../src/part.py), [how to help](../HELP.md#set-up) and [below](#true--false-yesno).

## True < false: yes/no
"""
HELP = "# Help\n\n[Back](docs/index.md) or [deeper](src/other.yaml).\n\n## Set-up\n"
SETTINGS = """\
site_name: tried
strict: true
theme: {{name: material, font: false}}
plugins: [search]
hooks: [{hook}]
markdown_extensions: [pymdownx.superfences, pymdownx.highlight]
validation: {{nav: {{omitted_files: warn}}, links: {{not_found: warn, anchors: warn, unrecognized_links: warn}}}}
nav: [index.md]
"""


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")


def built(folder: Path, page: str, settings: str = SETTINGS) -> Path:
    (folder / "docs").mkdir()
    (folder / "src").mkdir()
    for name, text in {"docs/index.md": page, "HELP.md": HELP, "src/part.py": "part = 1\n", "src/other.yaml": "a: 1\n"}.items():
        (folder / name).write_text(text)
    (folder / "mkdocs.yml").write_text(settings.format(hook=ROOT / "tools" / "site.py"))
    build(load_config(str(folder / "mkdocs.yml"), site_dir=str(folder / "site"), use_directory_urls=False))
    return folder / "site"


def test_links_to_files_of_the_repository_lead_to_pages_that_show_them(tmp_path: Path) -> None:
    site = built(tmp_path, PAGE)
    page = (site / "index.html").read_text()
    assert 'href="source/src/part.py.html"' in page and 'href="source/HELP.md.html#set-up"' in page
    assert "part" in (site / "source" / "src" / "part.py.html").read_text()
    shown = (site / "source" / "HELP.md.html").read_text()
    assert 'href="../index.html"' in shown and 'href="src/other.yaml.html"' in shown
    assert (site / "source" / "src" / "other.yaml.html").is_file()


def test_anchors_are_those_of_a_code_host(tmp_path: Path) -> None:
    assert 'id="true--false-yesno"' in (built(tmp_path, PAGE) / "index.html").read_text()


@pytest.mark.parametrize("link", ["gone.md", "../src/gone.py", "#nowhere", "../HELP.md#nowhere", "../../outside.md"])
def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path, link: str) -> None:
    (tmp_path.parent / "outside.md").write_text("not of this repository")
    with pytest.raises(Abort, match="strict"):
        built(tmp_path, f"# A page\n\n[a link]({link})\n")


def test_a_page_outside_the_navigation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Abort, match="strict"):
        built(tmp_path, PAGE, SETTINGS.replace("nav: [index.md]", "nav: [{{Elsewhere: https://example.org}}]"))


@pytest.mark.parametrize("fetched", ['<script src="https://example.org/a.js"></script>', "![picture](//example.org/a.png)"])
def test_a_page_that_would_fetch_something_is_refused(tmp_path: Path, fetched: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Abort):
        built(tmp_path, f"# A page\n\n{fetched}\n")
    assert "index.md would fetch from elsewhere" in caplog.text


def test_the_site_has_every_page_and_fetches_nothing_by_its_settings() -> None:
    config = load_config(str(ROOT / "mkdocs.yml"))
    assert config.strict and config.theme["font"] is False
    named = {path for path in _paths(config.nav) if path}
    assert named == {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


def _paths(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else []
    return [path for part in parts for path in _paths(part)]

"""docs/settings.md and docs/settings.schema.json are what the settings models say, and the schema accepts what they accept."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from d4s.editors.editor_settings import resolve
from d4s.editors.presets import PRESETS
from d4s.settings_base import validate
from d4s.study_settings import Study
from tools import settings_page
from tools.lock import ROOT

STUDIES = [ROOT / "params.yaml", *sorted((ROOT / "grids").glob("*.yaml"))]
PART = {
    "description": "A part.",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "description": "What it is called."},
        "size": {"type": "integer", "default": 2, "description": "How large."},
        "inner": {"$ref": "#/$defs/Inner", "default": {"deep": 5, "flat": 1}},
    },
}
INNER = {"description": "Deeper.", "properties": {"deep": {"type": "integer", "default": 1}, "flat": {"type": "integer", "default": 1}}}


def examples() -> list[dict[str, Any]]:
    """The YAML blocks of the page: a complete study, then parts of one."""
    return [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", settings_page.PAGE.read_text(), re.DOTALL | re.MULTILINE)]


# --- the files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [settings_page.PAGE, settings_page.SCHEMA], ids=lambda path: path.name)
def test_generated_files_are_up_to_date(path: Path) -> None:
    assert path.read_text() == settings_page.files()[path], "run `make pages` and commit it"


def test_drift_is_reported_by_name_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(settings_page, "ROOT", tmp_path)
    monkeypatch.setattr(settings_page, "files", lambda: {tmp_path / "docs" / "a.md": "new\n"})
    monkeypatch.setattr("sys.argv", ["settings_page", "--check"])
    with pytest.raises(SystemExit, match=r"docs/a\.md does not match src/d4s: run `make pages`"):
        settings_page.main()
    monkeypatch.setattr("sys.argv", ["settings_page"])
    settings_page.main()
    assert (tmp_path / "docs" / "a.md").read_text() == "new\n"


def test_every_key_of_a_study_and_every_preset_is_on_the_page() -> None:
    text = settings_page.PAGE.read_text()
    for name in (*Study.model_fields, *PRESETS):
        assert f"| `{name}` |" in text


def test_links_within_the_page_lead_somewhere() -> None:
    text = settings_page.PAGE.read_text()
    headings = {"#" + re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    links = set(re.findall(r"\]\((#[^)]+)\)", text))
    assert links and links <= headings


def test_examples_are_valid_settings() -> None:
    whole, *parts = examples()
    assert len(parts) == 4
    validate(Study, whole, "the example of the page")
    for part in parts:
        validate(Study, whole | part, f"the example of {', '.join(part)}")
        for name, overrides in part.get("editors", {}).items():
            resolve(name, overrides, "mini")


# --- the schema -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_the_schema_accepts_every_study_of_the_repository(path: Path) -> None:
    Draft202012Validator.check_schema(settings_page.study_schema())
    problems = [error.message for error in Draft202012Validator(settings_page.study_schema()).iter_errors(yaml.safe_load(path.read_text()))]
    assert problems == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seedz": [1]}, "seedz"),
        ({"seeds": "one"}, "one"),
        ({"grid": []}, "non-empty"),
        ({"editors": {"mine": {"preset": "memitt"}}}, "memitt"),
        ({"models": {"not a name": {"source": "world"}}}, "not a name"),
    ],
)
def test_the_schema_refuses_what_the_settings_refuse(change: dict[str, Any], expected: str) -> None:
    study = examples()[0] | change
    problems = [error.message for error in Draft202012Validator(settings_page.study_schema()).iter_errors(study)]
    assert len(problems) == 1 and expected in problems[0]


# --- the tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"type": "integer", "exclusiveMinimum": 0}, "integer"),
        ({"type": "array", "items": {"type": "integer"}}, "array of integer"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string"),
        ({"anyOf": [{"type": "integer"}, {"const": "all"}]}, "integer or `all`"),
        ({"enum": ["a", "b"]}, "`a`, `b`"),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "by name: number"),
        ({"type": "object", "additionalProperties": True}, "object"),
        ({"$ref": "#/$defs/Part"}, "[Part](#part)"),
    ],
)
def test_types_are_those_of_the_schema(value: dict[str, Any], expected: str) -> None:
    assert settings_page.type_of(value) == expected


def test_defaults_of_nested_settings_show_only_what_differs() -> None:
    assert settings_page.table_of_keys(PART, {"Inner": INNER}).splitlines()[2:] == [
        "| `name` | string | **required** | What it is called. |",
        "| `size` | integer | `2` | How large. |",
        "| `inner` | [Inner](#inner) | `{deep: 5}` | Deeper. |",
    ]


def test_a_key_without_a_description_is_an_error() -> None:
    with pytest.raises(ValueError, match="'deep' has no description"):
        settings_page.table_of_keys(INNER, {})


def test_values_are_written_as_in_one_line_of_yaml() -> None:
    assert [settings_page.one_line(value) for value in ("a", "", 4e-3, True, {"a": [1]}, (1,))] == [
        "a",
        "''",
        "0.004",
        "true",
        "{a: [1]}",
        "[1]",
    ]

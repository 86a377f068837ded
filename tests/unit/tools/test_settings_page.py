"""docs/settings.md and docs/settings.schema.json are what the settings models say, and the schema accepts what they accept."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from d4s.config import Study
from d4s.editors.presets import PRESETS
from d4s.errors import SettingsError
from tools import settings_page
from tools.lock import ROOT
from tools.schema_words import Words, anchor, flow

STUDIES = [ROOT / "params.yaml", *sorted((ROOT / "grids").glob("*.yaml"))]
MODEL = {
    "description": "A part.",
    "properties": {"size": {"type": "integer", "default": 2}, "inner": {"$ref": "#/$defs/Inner", "default": {"deep": 1}}},
}
INNER = {"description": "Deeper.", "properties": {"deep": {"type": "integer", "default": 1}}}
WORDS = Words({"Part": MODEL, "Inner": INNER}, {"Part": "A part", "Inner": "`inner`"})


# --- the files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [settings_page.PAGE, settings_page.SCHEMA], ids=lambda path: path.name)
def test_generated_files_are_up_to_date(path: Path) -> None:
    assert path.read_text() == settings_page.files()[path], "run `make pages` and commit it"


def test_drift_is_reported_by_name_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    headings = {anchor(title) for title in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)}
    links = set(re.findall(r"\]\((#[^)]+)\)", text))
    assert links and links <= headings


def test_a_model_without_a_place_on_the_page_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_page, "sections", lambda: (settings_page.Section("All", {"Study": "Top level"}),))
    with pytest.raises(ValueError, match="GridRow"):
        settings_page.page(settings_page.study_schema())


def test_an_example_that_is_no_valid_study_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_page, "GRID_EXAMPLE", "grid:\n  - {models: [mini], lenghts: [1]}\n")
    with pytest.raises(SettingsError, match="did you mean 'lengths'"):
        settings_page.files()


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
    study = yaml.safe_load(settings_page.EXAMPLE) | change
    problems = [error.message for error in Draft202012Validator(settings_page.study_schema()).iter_errors(study)]
    assert len(problems) == 1 and expected in problems[0]


# --- the words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"type": "integer", "exclusiveMinimum": 0}, "whole number > 0"),
        ({"type": "number", "minimum": 0, "maximum": 1}, "number from 0 to 1"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "number > 0 and ≤ 1"),
        ({"type": "boolean"}, "`true`, `false`"),
        ({"type": "string", "pattern": "^x"}, "name"),
        ({"type": "array", "items": {"type": "integer", "minimum": 0}}, "list of whole numbers ≥ 0"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "text"),
        ({"anyOf": [{"type": "integer"}, {"const": "all"}]}, "whole number or `all`"),
        ({"enum": ["a", "b"]}, "`a`, `b`"),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "by name: number"),
        ({"type": "object", "additionalProperties": True}, "settings"),
        ({"$ref": "#/$defs/Part"}, "[a part](#a-part)"),
    ],
)
def test_types_are_said_in_words(value: dict[str, Any], expected: str) -> None:
    assert WORDS.type(value) == expected


def test_a_type_without_words_is_an_error() -> None:
    with pytest.raises(ValueError, match="no words"):
        WORDS.type({"type": "null"})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"type": "integer", "default": 3}, "`3`"),
        ({"type": "array", "default": ["a", "b"]}, "`[a, b]`"),
        ({"type": "string", "default": None}, ""),
        ({"type": "object"}, "`{}`"),
        ({"$ref": "#/$defs/Part", "default": {"size": 2, "inner": {"deep": 1}}}, ""),
        ({"$ref": "#/$defs/Part", "default": {"size": 2, "inner": {"deep": 5}}}, "`{inner: {deep: 5}}`"),
    ],
)
def test_defaults_of_nested_settings_show_only_what_differs(value: dict[str, Any], expected: str) -> None:
    assert WORDS.default(value, required=False) == expected


def test_required_keys_say_so() -> None:
    assert WORDS.default({"type": "integer"}, required=True) == "**required**"


def test_a_key_without_a_description_is_an_error_unless_its_type_tells() -> None:
    assert WORDS.meaning("part", {"$ref": "#/$defs/Part"}) == "A part."
    with pytest.raises(ValueError, match="'size' has no description"):
        WORDS.table("Part")


def test_values_are_written_as_in_one_line_of_yaml() -> None:
    assert [flow(value) for value in ("a", "", 4e-3, True, {"a": [1]})] == ["a", "''", "0.004", "true", "{a: [1]}"]

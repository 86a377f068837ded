"""docs/methods.md is what the presets say, knows every part that settings can name, and its tests are there."""

from typing import Any, get_args

import pytest

from d4s.editors.least_squares_settings import LocateThenEdit, all_choices
from d4s.editors.parts.key_rule import KeySettings
from d4s.editors.parts.target_rule import TargetSettings
from d4s.editors.presets import Preset
from tools import methods_page


def test_the_page_is_up_to_date() -> None:
    assert methods_page.PAGE.read_text() == methods_page.page(), "run `make pages` and commit it"


def test_drift_is_reported(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods_page, "PAGE", tmp_path / "methods.md")
    monkeypatch.setattr("sys.argv", ["methods_page", "--check"])
    with pytest.raises(SystemExit, match=r"methods\.md does not match src/d4s/editors: run `make pages`"):
        methods_page.main()
    monkeypatch.setattr("sys.argv", ["methods_page"])
    methods_page.main()
    assert (tmp_path / "methods.md").read_text() == methods_page.page()


def test_every_choice_of_settings_has_a_formula() -> None:
    known = {(choice.name, choice.kind) for choice in all_choices()}
    fields = {"target": (TargetSettings, ("hook", "at")), "keys": (KeySettings, ("average", "mode"))}
    for part, (model, names) in fields.items():
        for name in names:
            assert {(f"{part}.{name}", choice) for choice in get_args(model.model_fields[name].annotation)} <= known
    assert {("solver", choice) for choice in get_args(LocateThenEdit.model_fields["solver"].annotation)} <= known
    assert all(choice.formula for choice in all_choices())


def test_a_new_preset_comes_with_its_parts_and_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Preset("Mine", "Nobody 2099", "https://example.org/2099", "It is mine.", "locate_then_edit", {"mini": {}})
    settings = methods_page.resolve("nse", {}, "mini")
    monkeypatch.setattr(methods_page, "PRESETS", {"nse_mine": mine})
    monkeypatch.setattr(methods_page, "_resolved", lambda name: (settings,))
    text = methods_page.page()
    assert "### `nse_mine`\n\nMine. It is mine.\n\n* **From**: [Nobody 2099](https://example.org/2099)" in text
    assert "`rounds: bounded`" in text


def test_methods_name_the_tests_that_speak_of_them() -> None:
    section = methods_page.page().partition("### `d4s`\n")[2].partition("\n### ")[0]
    assert "[`test_d4s_is_the_released_loop`](../tests/oracle/test_editors.py)" in section


def test_every_line_of_the_algorithm_names_code_that_is_there() -> None:
    for line, functions in methods_page.ALGORITHM:
        assert functions, line
        for name, path in functions.items():
            code = (methods_page.ROOT / path).read_text(encoding="utf-8")
            assert f"def {name}(" in code, f"{path} has no {name}"

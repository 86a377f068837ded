"""docs/methods.md is what the presets say, knows every part that settings can name, and its tests are there."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from d4s.editors.part_settings import DeltaTransform, KeySettings, Preservation, StepTransform, TargetSettings
from d4s.editors.residual_schedule import ResidualSchedule
from pydantic import BaseModel

from d4s.editors.editor_settings import LocateThenEdit
from d4s.editors.presets import PRESETS, Preset
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


def choices() -> Iterator[tuple[str, str]]:
    """Every choice of a part that has several, as settings spell it."""
    for part, model in {"target": TargetSettings, "keys": KeySettings}.items():
        for field in {"target": ("hook", "at"), "keys": ("average", "mode")}[part]:
            yield from ((f"{part}.{field}", choice) for choice in get_args(model.model_fields[field].annotation))
    for part in ("solver", "history"):
        yield from ((part, choice) for choice in get_args(LocateThenEdit.model_fields[part].annotation))
    yield from (("residual_schedule", choice) for choice in get_args(ResidualSchedule))
    for part, union in {"preservation": Preservation, "step_transform": StepTransform, "delta_transform": DeltaTransform}.items():
        kinds: tuple[type[BaseModel], ...] = get_args(get_args(union)[0])
        yield from ((part, kind.model_fields["kind"].default) for kind in kinds)


def test_every_choice_of_a_part_has_a_formula() -> None:
    assert set(choices()) <= set(methods_page.PARTS)


def test_a_part_without_a_formula_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods_page, "PARTS", {part: text for part, text in methods_page.PARTS.items() if part != ("history", "refit")})
    with pytest.raises(ValueError, match="preset 'd4s' has history `refit`"):
        methods_page.page()


def test_a_new_preset_comes_with_its_parts_and_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Preset("Nobody 2099", "Mine.", "locate_then_edit", {"mini": PRESETS["nse"].base["mini"]})
    settings = methods_page.resolve("nse", {}, "mini")
    monkeypatch.setattr(methods_page, "PRESETS", {"nse_mine": mine})
    monkeypatch.setattr(methods_page, "_resolved", lambda name: (settings,))
    text = methods_page.page()
    assert "### `nse_mine`\n\nMine.\n\n* **From**: Nobody 2099" in text and "`rounds: bounded`" in text


def test_methods_name_the_tests_that_speak_of_them() -> None:
    section = methods_page.page().partition("### `d4s`\n")[2].partition("\n### ")[0]
    assert "[`test_d4s_is_the_released_loop`](../tests/oracle/test_editors.py)" in section


def test_every_line_of_the_algorithm_names_code_that_is_there() -> None:
    for line, functions in methods_page.ALGORITHM:
        assert functions, line
        for name, path in functions.items():
            code = (methods_page.ROOT / path).read_text(encoding="utf-8")
            assert f"def {name}(" in code, f"{path} has no {name}"

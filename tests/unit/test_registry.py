"""The registry of named, lazily imported objects."""

import sys

import pytest

from d4s.errors import SettingsError
from d4s.registry import Registry, nearest


@pytest.fixture
def colours():
    return Registry("colour", {"red": "json:loads", "green": "json:dumps", "grey": "colorsys:rgb_to_hsv"})


def test_it_is_a_mapping_of_names_to_targets(colours):
    assert list(colours) == ["red", "green", "grey"]
    assert len(colours) == 3
    assert "red" in colours
    assert "blue" not in colours
    assert colours["green"] == "json:dumps"
    assert colours.module("green") == "json"


def test_it_imports_on_first_use_only(colours):
    sys.modules.pop("colorsys", None)
    assert colours.module("grey") == "colorsys"
    assert "colorsys" not in sys.modules
    assert colours.load("grey")(0.0, 0.0, 1.0)[2] == 1.0
    assert "colorsys" in sys.modules


def test_a_name_is_taken_once(colours):
    with pytest.raises(ValueError, match="colour 'red' is already registered as json:loads"):
        colours.add("red", "json:load")
    assert colours["red"] == "json:loads"


@pytest.mark.parametrize("target", ["json.loads", "a:b:c", ""])
def test_a_target_names_module_and_attribute(colours, target):
    with pytest.raises(ValueError, match="not of the form 'module:attribute'"):
        colours.add("new", target)
    assert "new" not in colours


@pytest.mark.parametrize(("name", "hint"), [("gren", "did you mean 'green'"), ("mauve_taupe", "known: green, grey, red")])
def test_an_unknown_name_gets_a_hint(colours, name, hint):
    with pytest.raises(SettingsError, match=f"unknown colour '{name}'; {hint}"):
        colours.load(name)


def test_the_nearest_name_of_many():
    assert nearest("lengthz", ["length", "lengths", "width"]) == "did you mean 'length'?"
    assert nearest("zzz", ("b", "a")) == "known: a, b"

from typing import Any

import pytest

from d4s.apply.easyedit.key_rules import (
    Choice,
    Factor,
    Found,
    Ignored,
    Lacking,
    OfEveryLayer,
    PresetChoice,
    Rule,
    Same,
    TargetModel,
    To,
    ToSeveral,
    nested,
    written,
)

MODEL = TargetModel("gpt2-xl", ("gpt2", 48, 1600, 6400))
BY_VALUE = Choice({True: {"a": {"b": 1}}, False: {"c": None}}, "one or the other")


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        (To("target.lr"), 0.5, Found("translated", "target.lr: 0.5", {"target": {"lr": 0.5}})),
        (To("bound", or_none=True), False, Found("translated", "bound: null", {"bound": None})),
        (To("batch", as_read="of a turn"), 3, Found("translated", "batch: 3 (of a turn)", {"batch": 3})),
        (ToSeveral(("a", "b")), [1, 2.5], Found("translated", "a: 1, b: 2.5", {"a": 1, "b": 2.5})),
        (OfEveryLayer("a.b"), [2.0, 2.0], Found("translated", "a.b: 2.0", {"a": {"b": 2.0}})),
        (Ignored("never read"), [1], Found("without effect", "never read")),
        (Lacking("no such key"), 1, Found("not representable", "no such key")),
        (Same((1,), "is one"), 1.0, Found("without effect", "is one")),
        (Same((1,), "is one"), True, Found("not representable", "is one")),
        (Same((False,), "is off", "cannot be on"), True, Found("not representable", "cannot be on")),
        (BY_VALUE, True, Found("translated", "a.b: 1", {"a": {"b": 1}})),
        (BY_VALUE, [1], Found("not representable", "one or the other")),
        (PresetChoice({"x": "memit"}), "x", Found("translated", "the preset memit", preset="memit")),
        (Factor(("a", "b.c")), 3, Found("translated", "a factor of a and a factor of b.c", factors={"a": 3.0, "b.c": 3.0})),
    ],
)
def test_what_a_value_becomes(rule: Rule, value: Any, expected: Found) -> None:
    assert rule.read(value, MODEL) == expected


@pytest.mark.parametrize(
    ("rule", "value", "told"),
    [
        (To("steps"), "many", "expected a number, found 'many'"),
        (To("steps"), True, "expected a number, found True"),
        (To("bound", or_none=True), True, "expected a number, found True"),
        (ToSeveral(("a", "b")), [1], r"expected 2 numbers, found \[1\]"),
        (ToSeveral(("a",)), ["x"], "expected a number, found 'x'"),
        (OfEveryLayer("a"), [1, 2], r"expected the same number for every layer, found \[1, 2\]"),
        (OfEveryLayer("a"), 3, "expected the same number for every layer, found 3"),
        (Factor(("a",)), None, "expected a number, found None"),
        (PresetChoice({"x": "memit", "y": "rome"}), 3, "expected x or y, found 3"),
    ],
)
def test_a_value_that_is_none_is_refused(rule: Rule, value: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        rule.read(value, MODEL)


def test_settings_by_dotted_names_and_back() -> None:
    assert nested("a.b.c", 1) == {"a": {"b": {"c": 1}}}
    assert written({"a": {"b": (1, 2), "c": True}, "d": None}) == "a.b: [1, 2], a.c: true, d: null"


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (To("bound", or_none=True), "`bound`, `false` as `null`"),
        (Same((1,), "is one"), "`1`: without effect, is one; else not representable"),
        (Same((1,), "is one", "others are not"), "`1`: without effect, is one; else not representable: others are not"),
        (BY_VALUE, "`true`: `a.b: 1`; `false`: `c: null`"),
        (Factor(("a", "b")), "a factor of `a` and `b`"),
    ],
)
def test_what_pages_say_of_a_rule(rule: Rule, text: str) -> None:
    assert rule.describe() == text

"""docs/from_easyedit.md: its tables are those of the code, its values those of our columns, and every command on it can be typed."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer

from d4s.apply.easyedit.algorithms import ABSENT, ALGORITHMS
from d4s.apply.easyedit.translation import translate
from d4s.cli import app
from d4s.editors.editor_settings import resolve
from d4s.editors.presets import model_kinds_of
from tests.easyedit_files import FILES, written
from tools import easyedit_page

TEXT = easyedit_page.PAGE.read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([\w-]+)` \| `([\w.-]+)` \| (.+) \|$", re.MULTILINE)
COMMANDS = [line.partition(" #")[0] for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted names."""
    for key, value in settings.items():
        yield from flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> set[str]:
    """Names of settings that differ; of a part of another kind its kind alone."""
    ours, theirs = dict(flat(found)), dict(flat(expected))
    names = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
    kinds = {name.removesuffix("kind") for name in names if name.endswith(".kind")}
    return {name for name in names if name.endswith(".kind") or not name.startswith(tuple(kinds))}


def test_the_tables_are_up_to_date() -> None:
    assert easyedit_page.page() == TEXT, "run `make pages` and commit it"


def test_the_table_of_names_is_the_codes() -> None:
    table = TEXT.partition(easyedit_page.NAMES[0])[2].partition(easyedit_page.NAMES[1])[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)[1:] == [*ALGORITHMS, *ABSENT]
    for name, algorithm in ALGORITHMS.items():
        row = next(line for line in table.splitlines() if line.startswith(f"| `{name}` |"))
        assert re.findall(r"\[`(\w+)`\]", row) == list(algorithm.presets)


def test_files_differ_from_our_columns_in_the_keys_that_the_page_names(tmp_path: Path) -> None:
    section = TEXT.partition("## Shipped files against our columns")[2].partition("\n## ")[0]
    named = {(name, column): set(re.findall(r"`([\w.]+)`", keys)) for name, column, keys in ROW.findall(section)}
    found = {}
    for (name, column), text in FILES.items():
        settings = translate(written(tmp_path, text), column).settings
        preset = next(iter(settings.editors))
        if column not in model_kinds_of(preset):
            continue  # a file for a model that the method has no column of
        ours, theirs = (resolve(preset, {}, source).model_dump() for source in (column, settings))
        found[name, column] = differences(theirs, ours)
    assert found == named


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_can_be_typed(line: str) -> None:
    program, name, *words = shlex.split(line)
    group = typer.main.get_command(app)
    assert program == "d4s"
    command = group.get_command(typer.Context(group), name)  # type: ignore[attr-defined]
    assert command is not None, name
    assert command.make_context(name, words).params


def test_every_question_is_answered_by_a_command_or_said_to_be_open() -> None:
    questions = re.split(r"^### \d+\. ", TEXT, flags=re.MULTILINE)[1:]
    assert len(questions) == 10
    assert all("```sh\nd4s " in question for question in questions)


def test_drift_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = written(tmp_path, TEXT.replace("| `ROME` |", "| `ROMES` |"), "from_easyedit.md")
    monkeypatch.setattr(easyedit_page, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["easyedit_page", "--check"])
    with pytest.raises(SystemExit, match=r"from_easyedit\.md does not match src/d4s/apply/easyedit: run `make pages`"):
        easyedit_page.main()
    monkeypatch.setattr("sys.argv", ["easyedit_page"])
    easyedit_page.main()
    assert page.read_text() == easyedit_page.page()

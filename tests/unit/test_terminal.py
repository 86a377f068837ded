"""What people read on standard output: users' words as they are, in any encoding, and never read as markup."""

import ast
import io
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from d4s.apply import show
from d4s.apply.ask import ask
from d4s.apply.edited_folder import EditedFolder
from d4s.apply.history import EditSpec, RecordedEdit
from d4s.apply.outcome import EditResult, Outcome
from d4s.cli import app
from d4s.models.doctor import ModelReport
from d4s.models.doctor import show as show_examination
from d4s.terminal import arrow, console, tolerate_any_text
from tests.applying import FACTS, applied, fact_file, saved_model

SOURCES = Path(__file__).parents[2] / "src" / "d4s"
WORDS = "[bold]Ada[/bold] [/x] :smile: [link=http://x]"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An edited folder whose name looks like markup."""
    folder = tmp_path_factory.mktemp("[red]base [") / "[b]out[/b]"
    applied(saved_model(folder.parent / "model"), fact_file(folder.parent / "facts.csv", FACTS[:1]), folder, "rome")
    return folder


def plain(text: str) -> str:
    return " ".join("".join(letter for letter in text if letter not in "│┃┏┓┗┛━─┌┐└┘├┤┡╇┩┼").split())


def test_no_markup_is_read_in_users_words(out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = EditSpec(subject="Ada", template=f"{{}} {WORDS}", target=WORDS)
    monkeypatch.setattr(EditedFolder, "edits", lambda folder: [RecordedEdit(1, spec, WORDS)])
    show.history(EditedFolder.open(out))
    show.outcome(out, Outcome([EditResult(RecordedEdit(1, spec), ":smile:", "[/x]", 0.5, 0.5)] * (show.MAX_ROWS + 1), {}, 0))
    show.truncation_errors({"h.[0].[/b]": 0.1})
    show_examination(ModelReport({"name": WORDS}, []))
    found = plain(capsys.readouterr().out)
    for part in ("[bold]Ada[/bold]", ":smile:", "[link=http://x]", "h.[0].[/b]", "[b]out[/b]"):
        assert part in found


def test_consoles_are_made_in_one_place() -> None:
    makers = set()
    for path in SOURCES.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        if any(ast.unparse(call.func).split(".")[-1] == "Console" for call in calls):
            makers.add(str(path.relative_to(SOURCES)))
    assert makers == {"terminal.py"}, "print through d4s.terminal.console, which takes users' words as they are"
    assert not console(80)._markup


@pytest.mark.parametrize(("encoding", "sign"), [("latin-1", "->"), ("ascii", "->"), ("cp1252", "->"), ("utf-8", "→"), ("shift_jis", "→")])
def test_an_answer_reaches_any_terminal(out: Path, encoding: str, sign: str) -> None:
    asked = f"{FACTS[0].prompt} é東京…"
    found = CliRunner(charset=encoding).invoke(app, ["ask", str(out), asked, "--tokens", "1"])
    assert found.exit_code == 0, found.exception
    expected = f"{asked} {sign} ".encode("utf-8" if encoding == "ascii" else encoding, "backslashreplace")  # click writes UTF-8 for ASCII
    assert found.stdout_bytes.startswith(expected)


def test_tables_reach_any_terminal(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "latin-1", "strict"))
    monkeypatch.setattr(EditedFolder, "edits", lambda folder: [RecordedEdit(1, EditSpec(subject="東京", template="{}は", target="日本"))])
    tolerate_any_text()
    show.history(EditedFolder.open(out))
    sys.stdout.flush()
    assert b"\\u6771\\u4eac" in raw.getvalue() and arrow() == "->"


def test_bytes_that_are_no_text_are_refused(out: Path) -> None:
    for words in (["ask", str(out), "Ada \udcff"], ["replace", str(out), "--edit", "1", "--target", "R\udcff"]):
        found = CliRunner().invoke(app, words)
        assert found.exit_code == 2 and "holds bytes that are no text" in found.output
    assert len(ask(out, [FACTS[0].prompt], 1, "cpu")) == 1

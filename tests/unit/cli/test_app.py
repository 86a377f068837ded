"""What is mistyped on a command line ends the command with one sentence that helps, never with a traceback."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from d4s.artifacts import MANIFEST, Artifact
from d4s.cli import app
from d4s.config import WorldSettings
from tests.samples import made_world

APPLY = ["apply", "--model", "none", "--facts", "none.csv", "--out", "out"]
WORLD = WorldSettings(people=8, first_names=4, last_names=4, bystanders=0.25, events=24, benchmark_items=4)


def told(*words: object, fails: int = 2) -> str:
    """The one line of error that a command ends with."""
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert found.exit_code == fails and isinstance(found.exception, SystemExit), found.exception
    assert found.stderr.startswith("error: ")
    return found.stderr


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return made_world(tmp_path / "world", WORLD)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["layers=[1,2"], r"--set layers=[1,2: the value cannot be read as YAML: while parsing a flow sequence"),
        (["seed=2020-13-45"], "--set seed=2020-13-45: the value cannot be read as YAML: month must be in 1..12"),
        (["preservation=3", "preservation.weight=1"], "--set preservation.weight=1: preservation is set to 3 already, which has no keys"),
    ],
)
def test_a_mistyped_change_of_settings(pairs: list[str], message: str) -> None:
    assert message in told(*APPLY, *(word for pair in pairs for word in ("--set", pair)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--settings", '{"source":'], "--settings: '{\"source\":' cannot be read as JSON: Expecting value"),
        (["--settings", "[1]"], "--settings: '[1]' holds list, expected a mapping"),
        (["--settings", "nowhere.yaml"], "--settings: 'nowhere.yaml' is neither JSON nor a file"),
        (["--settings", '{"sorce": "x"}'], "sorce: unknown key; did you mean 'source'?"),
        (["nowhere"], "inputs are given as ROLE=PATH, each role once; found 'nowhere'"),
        (["world=a", "world=b"], "inputs are given as ROLE=PATH, each role once; found 'world=b'"),
        (["world=nowhere"], "input nowhere is neither a file nor a finished artefact"),
        (
            ["--ahead", '[{"stage": "facts"}]'],
            "--ahead takes a JSON list of calls with stage, output, settings, inputs and code: KeyError('output')",
        ),
    ],
)
def test_mistyped_settings_and_inputs_of_a_stage(options: list[str], message: str, tmp_path: Path) -> None:
    known = [] if "--settings" in options else ["--settings", '{"source": "world"}']
    assert message in told("facts", tmp_path / "made" / MANIFEST, *known, *options)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "message"), [("a: [1", "cannot be read as YAML"), ("a: 2020-13-45", "cannot be read as YAML"), ("", "holds NoneType")]
)
def test_a_broken_file_of_settings(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(content, encoding="utf-8")
    assert message in told("facts", tmp_path / "made" / MANIFEST, "--settings", tmp_path / "settings.yaml")


def test_a_torn_manifest_of_an_input(world: Path, tmp_path: Path) -> None:
    (world / MANIFEST).write_text('{"kind": "wor', encoding="utf-8")
    words = ("facts", tmp_path / "made" / MANIFEST, f"world={world}", "--settings", '{"source": "world"}')
    assert f"{world / MANIFEST} is truncated or no JSON" in told(*words, fails=1)


@pytest.mark.parametrize("command", ["plan", "tables"])
def test_a_mistyped_study(command: str) -> None:
    assert "the study: '{bad' cannot be read as JSON" in told(command, "--study", "{bad")
    assert "cannot be read as YAML" in told(command, "--study", "nowhere.yaml")


def test_check_says_what_an_artefact_is_or_what_is_wrong_with_it(world: Path, tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["check", str(world)])
    files = Artifact.open(world, "worlds").manifest.files
    assert found.exit_code == 0 and f"{world / MANIFEST}: worlds, {len(files)} files, settings {{" in found.stdout
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "nowhere", tmp_path / "empty"):
        assert f"{folder} holds no artefact" in told("check", folder, fails=1)
    with (world / next(iter(files))).open("ab") as stream:
        stream.write(b"x")
    assert "is truncated or altered" in told("check", world, fails=1)
    (world / MANIFEST).write_text('{"digest": "x"}', encoding="utf-8")
    assert "is no manifest" in told("check", world, fails=1)
    (world / MANIFEST).write_text('{"kind": "wor', encoding="utf-8")
    assert f"{world / MANIFEST} is truncated or no JSON" in told("check", world, fails=1)


def test_an_input_that_was_not_given_is_named(tmp_path: Path) -> None:
    assert "corpus needs an input with the role 'text'" in told("corpus", tmp_path / "made" / "manifest.json")


def test_what_is_not_there_is_told_in_the_words_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "facts.csv").write_text("subject,prompt,target_new\nAda,Ada is a,baker\n", encoding="utf-8")
    row = {"models": ["mini"], "datasets": ["world_qa"], "editors": ["memit"], "lengths": [10]}
    study = json.dumps(
        {"study": "none", "models": {"mini": {"source": "world"}}, "datasets": {"world_qa": {"source": "world"}}, "grid": [row]}
    )
    assert "neither a folder, a GGUF file" in told("apply", "--model", "/nope/x", "--facts", "facts.csv", "--out", "out", fails=1)
    assert "run the study" in told("tables", "--study", study, fails=1)

"""The commands as a person types them, one after another on one folder."""

from pathlib import Path

from typer.testing import CliRunner

from d4s.apply.edited_folder import EditedFolder
from d4s.cli import app
from tests.applying import FACTS, fact_file, saved_model

SETTINGS = "--hparams-for mini --set layers=[0,1] --set target.layer=1 --set target.steps=2 --moment-tokens 500".split()


def call(*words: object, fails: int = 0) -> str:
    """What a command prints; `fails` is the exit status expected."""
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert found.exit_code == fails, found.output
    return " ".join(found.output.split())


def test_a_walk_through_every_command(tmp_path: Path) -> None:
    base, out = saved_model(tmp_path / "base"), tmp_path / "out"
    facts, others = fact_file(tmp_path / "facts.csv", FACTS[:2]), fact_file(tmp_path / "others.csv", FACTS[2:4])
    edit = ["apply", "--model", base, "--facts", facts, "--out", out, *SETTINGS]
    shown = call(*edit)
    assert "2 to be edited, 0 there already, 0 set aside" in shown and "self-written with seed 1, 500 tokens" in shown
    assert "all 2 present edits: efficacy accuracy" in shown and str(out / "edits.jsonl") in shown
    assert "nothing to do: every fact" in call(*edit)
    call("apply", "--model", base, "--facts", others, "--out", tmp_path / "second", *SETTINGS)
    assert "all 4 present edits" in call("merge", out, tmp_path / "second", "--out", tmp_path / "both")
    assert "all 1 present edits" in call("undo", out, "--edit", 1)
    assert "Oslo" in call("replace", out, "--edit", 2, "--target", "Oslo")
    shown = call("history", out)
    assert "undone" in shown and "replaced by 3" in shown and "present" in shown
    assert "transformer.h.0.mlp.c_proj" in call("export", out, "--format", "lora", "--out", tmp_path / "lora", "--rank", 1)
    assert (tmp_path / "lora" / "adapter_config.json").is_file()
    assert call("ask", out, FACTS[0].prompt, "--tokens", 2).startswith(f"{FACTS[0].prompt} → ")
    assert "error: undo: " in call("undo", out, "--edit", 1, "--edit", 7, fails=2)
    assert len(EditedFolder.open(out).active_edits()) == 1

"""`d4s settings --from-easyedit`: printed, written, and used."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from d4s.apply.edited_folder import EditedFolder
from d4s.cli import app
from d4s.editors.settings_file import read_settings_file
from tests.applying import FACTS, fact_file, saved_model
from tests.easyedit_files import FILES, written

TINY = """\
alg_name: ROME
model_name: ./models/tiny
layers: [1]
v_num_grad_steps: 3
v_lr: 5e-1
v_loss_layer: 2
v_weight_decay: 0.5
clamp_norm_factor: 4
kl_factor: 0.0625
mom2_adjustment: false
rewrite_module_tmp: transformer.h.{}.mlp.c_proj
"""


def call(*words: object, fails: int = 0) -> str:
    """What a command prints, on either stream; `fails` is the exit status expected."""
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert found.exit_code == fails, found.output
    return found.output


def test_what_is_printed_is_a_settings_file(tmp_path: Path) -> None:
    path = written(tmp_path, FILES["ROME", "gpt2-xl"])
    text = call("settings", "--from-easyedit", path, "--model", "gpt2-xl")
    assert yaml.safe_load(text)["editors"]["rome"]["solver"] == "hard_constraint"
    (tmp_path / "printed.yaml").write_text(text)
    assert read_settings_file(tmp_path / "printed.yaml").model.layers == 48


def test_a_translated_file_edits_a_model(tmp_path: Path) -> None:
    base, out, ours = saved_model(tmp_path / "base"), tmp_path / "out", tmp_path / "rome.yaml"
    shown = call("settings", "--from-easyedit", written(tmp_path, TINY), "--model", base, "--out", ours)
    assert "target.steps: 3" in shown and f"written: {ours}" in shown and "--editor rome" in shown
    facts = fact_file(tmp_path / "facts.csv", FACTS[:1])
    call("apply", "--model", base, "--facts", facts, "--settings", ours, "--editor", "rome", "--out", out)
    edited = EditedFolder.open(out)
    assert edited.manifest.settings.model_dump()["target"]["steps"] == 3 and len(edited.active_edits()) == 1
    assert call("ask", out, FACTS[0].prompt, "--tokens", 2).startswith(FACTS[0].prompt)
    call("undo", out, "--edit", 1)
    assert not EditedFolder.open(out).active_edits()
    refused = call("apply", "--model", base, "--facts", facts, "--settings", ours, "--out", tmp_path / "other", fails=2)
    assert "the settings file has none for 'd4s'" in refused


@pytest.mark.parametrize("editor", ["MELO", "Romme"])
def test_an_algorithm_that_is_not_here_ends_with_one_message(editor: str, tmp_path: Path) -> None:
    path = written(tmp_path, TINY.replace("ROME", editor))
    shown = call("settings", "--from-easyedit", path, fails=2)
    assert shown.startswith("error: ") and "has 2 problem(s)" in shown and "alg_name: " in shown and "model_name: ./models/tiny" in shown

"""The command `doctor`: one screen about a model folder, and an exit status that can be relied on."""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from d4s.cli import app
from d4s.models.adapter_conformance import CHECKS
from d4s.models.adapters import ADAPTERS
from d4s.models.doctor import inspect_model
from tests.tiny import bpe_tokenizer, tiny_model


def saved(folder: Path, family: str, **options: object) -> Path:
    model = tiny_model(family, **options)
    model.network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def doctor(folder: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["doctor", "--model", str(folder), *more])


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_a_sound_folder_is_described_on_one_screen(family: str, tmp_path: Path) -> None:
    done = doctor(saved(tmp_path, family, mlp_width=40))
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert len(lines) < 40
    assert max(map(len, lines)) <= 120
    described = {line[2:].split("│")[0].strip(): line.split("│")[2].strip() for line in lines if line.count("│") == 3}
    assert described["model type"] == family
    assert described["adapter"] == "row of d4s.models.adapters"
    assert described["d_in, d_out"] == "40, 16"
    assert described["dtype"] == "float32"
    assert described["tokenizer"].startswith("69 tokens; <bos> before a text, nothing after it")
    assert described["offsets"] == "cover every letter in order"
    assert [*described.values()].count("pass") == len(CHECKS)
    norm = "post_feedforward_layernorm: locate-then-edit works before it" if family == "gemma2" else "none"
    assert described["norm after the MLP"] == norm
    assert ("capped at 8.0" in described["logits"]) == (family == "gemma2")


def test_precision_and_tokenizer_are_as_asked_and_found(tmp_path: Path) -> None:
    found = inspect_model(saved(tmp_path, "mistral", tokenizer=bpe_tokenizer(), positions=96), "bfloat16")
    assert found.is_valid, found.check_results
    assert found.facts["dtype"] == "bfloat16"
    assert found.facts["positions"] == "96, attention window 4096"
    assert "nothing before a text, nothing after it; an empty text is <bos>" in found.facts["tokenizer"]


def test_an_unsound_folder_says_why_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path, "llama")
    monkeypatch.setitem(ADAPTERS, "llama", replace(ADAPTERS["llama"], final_norm="model.layers.0.input_layernorm"))
    done = doctor(folder)
    assert done.exit_code == 1
    assert "does not read what the last block writes" in " ".join(done.stdout.replace("│", " ").split())


def test_a_model_without_a_row_is_said_to_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path, "llama")
    monkeypatch.delitem(ADAPTERS, "llama")
    done = doctor(folder)
    assert done.exit_code == 0
    assert "found by inspection; no row" in done.stdout


def test_a_folder_that_is_no_model_is_one_error(tmp_path: Path) -> None:
    done = doctor(tmp_path)
    assert done.exit_code == 1
    assert f"error: {tmp_path} cannot be loaded as a causal language model" in done.stderr
    assert "Traceback" not in done.output

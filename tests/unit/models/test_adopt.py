"""Models from elsewhere: the pointer is followed, checked, and refused when what it points to has changed."""

from pathlib import Path

import pytest
import torch

from d4s.artifacts import StageJob
from d4s.config import AdoptSettings
from d4s.errors import ArtifactError
from d4s.models.adopt import adopt
from d4s.models.loading import load
from tests.tiny import tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tiny_model("gpt2")
    model.network.save_pretrained(tmp_path / "plain")
    model.tokenizer.save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def _adopted(folder: Path, out: Path) -> Path:
    out.mkdir()
    adopt(StageJob("models", AdoptSettings(path=str(folder)), {}, out))
    return out


def test_an_adopted_model_is_the_model_it_points_to(folder: Path, tmp_path: Path) -> None:
    adopted = load(_adopted(folder, tmp_path / "adopted"))
    plain = load(folder)
    assert torch.equal(adopted.weight(0), plain.weight(0))


def test_a_changed_file_is_named(folder: Path, tmp_path: Path) -> None:
    adopted = _adopted(folder, tmp_path / "adopted")
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    with pytest.raises(ArtifactError, match=r"config\.json is not the file"):
        load(adopted)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"no config\.json"):
        _adopted(tmp_path / "empty", tmp_path / "out")

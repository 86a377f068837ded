"""Second moments that are there already: a folder of them is known by its content, and held against the model."""

import json
from pathlib import Path

import pytest
import torch

from d4s.apply.edited_folder import EditedFolder
from d4s.apply.input_preparation import TextSource
from d4s.artifacts import MANIFEST, StageJob, write_tensors
from d4s.config import MomentsSettings
from d4s.errors import ArtifactError, SettingsError
from tests.applying import FACTS, applied, fact_file, saved_model

KEYS = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(tmp_path_factory.mktemp("base") / "gpt2")


def moments(folder: Path, scale: float = 1.0, sizes: tuple[int, ...] = (KEYS, KEYS)) -> TextSource:
    """Second moments of the first layers in a folder."""
    for layer, size in enumerate(sizes):
        job = StageJob("moments", MomentsSettings(), {}, folder, digest="0" * 10)
        tensors = {"sum_kk": scale * torch.eye(size, dtype=torch.float64), "n_tokens": torch.tensor(9)}
        write_tensors(folder / f"l{layer}.safetensors", tensors)
        job.write_manifest([f"l{layer}.safetensors"], f"l{layer}.json", source="text")
    return TextSource(name=str(folder))


def test_moments_of_keys_of_another_size_are_refused(model: Path, tmp_path: Path) -> None:
    wide = moments(tmp_path / "wide", sizes=(KEYS, 96))
    with pytest.raises(SettingsError, match=r"wide holds second moments of keys of other sizes \(layer 1: 96 there, 64 in this model\)"):
        applied(model, fact_file(tmp_path / "facts.csv", FACTS[:1]), tmp_path / "out", text=wide)


def test_folders_of_one_name_are_told_by_their_content(model: Path, tmp_path: Path) -> None:
    first, same, other = moments(tmp_path / "a" / "m"), moments(tmp_path / "b" / "m"), moments(tmp_path / "c" / "m", scale=2.0)
    facts, more = fact_file(tmp_path / "facts.csv", FACTS[:1]), fact_file(tmp_path / "more.csv", FACTS[:2])
    applied(model, facts, tmp_path / "out", text=first)
    with pytest.raises(SettingsError, match=r'moments: "moments m [0-9a-f]{10}" there, "moments m [0-9a-f]{10}" now'):
        applied(model, more, tmp_path / "out", text=other)
    folder, _ = applied(model, more, tmp_path / "out", text=same)
    assert len(folder.active_edits()) == 2


def test_further_layers_of_a_folder_change_no_name(tmp_path: Path) -> None:
    source = moments(tmp_path / "m")
    before = source.label(1, (0, 1))
    moments(tmp_path / "m", sizes=(KEYS, KEYS, KEYS))
    assert source.label(1, (0, 1)) == before != source.label(1, (0, 1, 2))
    with pytest.raises(ArtifactError, match=r"holds no l3\.json"):
        source.label(1, (3,))


def test_a_folder_that_knows_its_moments_by_name_alone_goes_on(model: Path, tmp_path: Path) -> None:
    text = moments(tmp_path / "m")
    facts, more = fact_file(tmp_path / "facts.csv", FACTS[:1]), fact_file(tmp_path / "more.csv", FACTS[:2])
    applied(model, facts, tmp_path / "out", text=text)
    manifest = tmp_path / "out" / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"moments": "moments m"}))
    assert len(EditedFolder.open(tmp_path / "out").active_edits()) == 1
    folder, _ = applied(model, more, tmp_path / "out", text=text)
    assert (len(folder.active_edits()), folder.manifest.moments) == (2, "moments m")
    with pytest.raises(SettingsError, match='moments: "moments m" there, "moments n '):
        applied(model, more, tmp_path / "out", text=moments(tmp_path / "n"))

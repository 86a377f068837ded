"""The same model asked without BOS: equal weights, texts that start with their first word."""

from pathlib import Path

import pytest
import torch

from d4s.artifacts import StageJob
from d4s.config import AdoptSettings, StartSettings
from d4s.errors import SettingsError
from d4s.models.loading import load
from d4s.models.start import start, without_bos
from d4s.models.tokens import encode, encode_pair, start_of_text
from tests.tiny import tiny_model, word_tokenizer


def saved(folder: Path, bos: bool = True) -> Path:
    model = tiny_model(tokenizer=word_tokenizer(bos))
    model.network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    names = sorted(path.name for path in folder.iterdir())
    StageJob("models", AdoptSettings(path="tiny"), {}, folder).write_manifest(names)
    return folder


def test_weights_stay_and_texts_start_with_their_first_word(tmp_path: Path) -> None:
    source = saved(tmp_path / "model")
    start(StageJob("models", StartSettings(), {"model": source}, tmp_path / "asked"))
    before, now = load(source), load(tmp_path / "asked")
    for (name, left), (same, right) in zip(before.network.state_dict().items(), now.network.state_dict().items(), strict=True):
        assert name == same and torch.equal(left, right)
    text = "Ada Moss works as a"
    assert encode(before, text) == [start_of_text(before), *encode(now, text)] and now.tokenizer.bos_token is None
    assert encode_pair(now, "", "baker") == encode_pair(before, "", "baker") and start_of_text(now) == start_of_text(before)


def test_a_model_without_bos_is_asked_as_it_is() -> None:
    with pytest.raises(SettingsError, match="ask the model itself"):
        without_bos(word_tokenizer(bos=False))

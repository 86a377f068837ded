"""What the configuration of a model suffices for is refused before its weights are hashed or loaded; odd names of folders are none."""

import json
from pathlib import Path
from typing import Any

import pytest

from d4s.apply.apply_pipeline import apply
from d4s.apply.base_model import BaseModelSource
from d4s.apply.edited_folder import EditedFolder
from d4s.apply.hparams_match import shape_from_config
from d4s.apply.input_preparation import TextSource
from d4s.artifacts import StageJob
from d4s.config import AdoptSettings
from d4s.errors import D4SError
from d4s.locks import folder_lock
from d4s.models.adopt import adopt
from tests.applying import FACTS, FROZEN, applied, fact_file, options, reloaded, saved_model

BEYOND = {"layers": [1, 9], "target": {"layer": 9}}
ODD = """o'dd "näme" [1] {x} $HOME"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(tmp_path_factory.mktemp("base") / "gpt2")


@pytest.fixture
def adopted(base: Path, tmp_path: Path) -> Path:
    adopt(StageJob("models", AdoptSettings(path=str(base)), {}, tmp_path / "adopted"))
    return tmp_path / "adopted"


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("the model was loaded first")

    monkeypatch.setattr(BaseModelSource, "load", load)


@pytest.mark.usefixtures("unloadable")
@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"editor": "memitt"}, r"no preset is called 'memitt'.*memit"),
        ({"editor": "unedited", "overrides": {}}, "changes nothing"),
        ({"overrides": {"preservation": {"wieght": 3}}}, "wieght"),
        ({"overrides": {}, "hparams_for": "gpt2-xx"}, r"no settings for models like 'gpt2-xx'.*gpt2-xl"),
        ({"editor": "pmet", "overrides": {}, "hparams_for": None}, "tuning finds no settings for 'pmet'"),
        ({"overrides": {}, "hparams_for": "nowhere.yaml"}, r"nowhere\.yaml cannot be read as a settings file"),
        ({"overrides": BEYOND}, r"the settings edit layers \[9\], but the model has layers 0 to 2"),
        ({"text": TextSource(file=Path("nowhere.txt"))}, r"nowhere\.txt is no file"),
    ],
)
def test_settings_are_refused_before_the_model_is_loaded(
    base: Path, adopted: Path, tmp_path: Path, overrides: dict[str, Any], told: str
) -> None:
    for model in (base, adopted):
        with pytest.raises(D4SError, match=told):
            applied(model, fact_file(tmp_path / "facts.csv"), tmp_path / "out", **overrides)
    assert not (tmp_path / "out").exists()


def test_a_folder_made_otherwise_is_refused_before_the_model_is_loaded(base: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    facts, out = fact_file(tmp_path / "facts.csv", FACTS[:1]), tmp_path / "out"
    applied(base, facts, out, overrides=FROZEN)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    request.getfixturevalue("unloadable")
    with pytest.raises(D4SError, match="was made otherwise"):
        applied(base, facts, out, seed=2, overrides=FROZEN)
    with pytest.raises(D4SError, match="is no edited folder"):
        applied(base, facts, tmp_path / "other")
    with folder_lock(out), pytest.raises(D4SError, match="another command is at work in"):
        applied(base, facts, out, overrides=FROZEN)


def test_what_a_configuration_does_not_say_the_model_does(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({name: value for name, value in config.items() if name != "n_head"}))
    assert shape_from_config(str(base), "main") == ("gpt2", 3, 16, 64) and shape_from_config(str(tmp_path), "main") is None
    monkeypatch.setattr("d4s.apply.apply_pipeline.shape_from_config", lambda *_: None)
    with pytest.raises(D4SError, match="the model has layers 0 to 2"):
        applied(base, fact_file(tmp_path / "facts.csv"), tmp_path / "out", overrides=BEYOND)
    assert not (tmp_path / "out").exists()


def test_names_with_spaces_quotes_brackets_and_umlauts_are_names_like_others(base: Path, tmp_path: Path) -> None:
    (tmp_path / ODD).mkdir()
    model = saved_model(tmp_path / ODD / f"model {ODD}")
    facts, out = fact_file(tmp_path / ODD / f"{ODD}.csv", FACTS[:1]), tmp_path / ODD / f"out {ODD}"
    folder, found = applied(model, facts, out, "rome")
    assert found is not None and folder.manifest.model.source == str(model)
    plan: list[Any] = []
    assert apply(options(model, facts, out, "rome"), plan.append) is None
    assert EditedFolder.open(out).is_written and reloaded(out, FACTS[0].prompt)[0]

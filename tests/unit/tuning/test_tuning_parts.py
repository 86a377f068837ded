"""A tuning of a tiny random model: what is measured, kept, resumed and written."""

import json
from pathlib import Path

import pytest
import torch

from d4s.editors.editor_settings import resolve
from d4s.editors.settings_file import SequenceTrial, best_trials, read_settings_file
from d4s.errors import SettingsError
from d4s.tuning.tune import SETTINGS_FILE, TRIALS, tune, tune_shortly
from d4s.tuning.tuned_columns import LEADS
from d4s.tuning.tuning_parts import TuneOptions, Tuning, TuningMaterial
from tests.tiny import tiny_facts, tiny_model

OPTIONS = TuneOptions(editors=("d4s", "memit"), sweep_facts=3, edits=4, blocks=3, moment_tokens=600)
MODEL = tiny_model("llama", layers=4)


def rows(tokens: int) -> torch.Tensor:
    return torch.randint(2, 60, (-(-tokens // 16), 16), generator=torch.Generator().manual_seed(1))


def material() -> TuningMaterial:
    return TuningMaterial(MODEL, tiny_facts(8), rows, "tiny", "tiny facts", "random tokens")


def test_every_preset_with_settings_resolves_and_a_killed_tuning_takes_the_same_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Tuning, "search_weights", stop)
        tune(material(), OPTIONS, tmp_path, {"model": "tiny"})
    before = json.loads((tmp_path / TRIALS).read_text())["trials"]
    found = tune(material(), OPTIONS, tmp_path, {"model": "tiny"})
    after = json.loads((tmp_path / TRIALS).read_text())["trials"]
    assert before and before.items() <= after.items(), "what was measured before the kill stands"
    assert read_settings_file(tmp_path / SETTINGS_FILE) == found
    assert set(found.measured) == {"d4s", "memit"}
    for preset in found.editors:
        settings = resolve(preset, {}, str(tmp_path / SETTINGS_FILE))
        assert all(layer < MODEL.n_layers for layer in settings.layers)
    assert resolve("d4s", {}, found).layers[-1] == found.target_layer
    assert resolve("memit", {}, found).preservation.weight == found.measured["memit"].weight
    assert tune(material(), OPTIONS, tmp_path, {"model": "tiny"}) == found
    with pytest.raises(SettingsError, match="of another tuning"):
        tune(material(), OPTIONS, tmp_path, {"model": "another"})


def test_a_model_without_a_column_is_tuned_with_every_editor_that_is_tried(tmp_path: Path) -> None:
    model = tiny_model("gpt_neox", layers=4)
    options = OPTIONS.model_copy(update={"editors": tuple(LEADS)})
    there = TuningMaterial(model, tiny_facts(8), rows, "tiny", "tiny facts", "random tokens")
    found = tune(there, options, tmp_path, {"model": "tiny neox"})
    assert found.model.shape == ("gpt_neox", 4, 16, 64) and {*found.measured} == {*LEADS}
    for editor, best in found.measured.items():
        assert resolve(editor, {}, found, ("gpt_neox", 4, 16, 64)).preservation.weight == best.weight > 0
    with pytest.raises(SettingsError, match="the settings file was made for a gpt_neox of 4 layers"):
        resolve("d4s", {}, found, ("gpt_neox", 4, 16, 32))


def test_without_time_the_rule_alone_decides(tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={"budget_minutes": 1e-9})
    found = tune(material(), options, tmp_path, {})
    assert len(found.trials) == 1, "one sequence says what the rule is worth"
    assert len(found.sweep) == len(found.first_scores) == 3, "the coarse sweep is always whole"


def test_an_editor_without_trials_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"editors \['rome'\] are not tried"):
        tune(material(), OPTIONS.model_copy(update={"editors": ("rome",)}), tmp_path, {})


def test_the_short_version_repeats_itself_and_gives_the_editor_asked_for() -> None:
    found = tune_shortly(material(), "alphaedit", 1)
    assert found.trials == ()
    assert {*LEADS} <= {*found.editors} and {"rome", "emmet", "ft_l"} <= {*found.editors}
    again = tune_shortly(material(), "alphaedit", 1)
    assert again.editors == found.editors
    assert "alphaedit" not in tune_shortly(material(), "d4s", 1).editors, "a null space costs an eigendecomposition"


def test_of_equal_trials_the_larger_weight_is_taken() -> None:
    equal = {"editor": "d4s", "layers": (0, 1), "edits": 4, "efficacy": 1.0, "paraphrase": 0.5, "locality": 0.5, "seconds": 1.0}
    trials = [SequenceTrial(weight=weight, **equal) for weight in (3.0, 9.0, 1.0)]  # type: ignore[arg-type]
    worse = trials[0].model_copy(update={"weight": 99.0, "locality": 0.4})
    elsewhere = trials[0].model_copy(update={"layers": (1, 2), "locality": 0.9})
    assert best_trials([*trials, worse, elsewhere], (0, 1))["d4s"].weight == 9.0
    assert best_trials([*trials, worse, elsewhere], (1, 2)) == {"d4s": elsewhere}


def test_the_file_tells_the_trials_at_the_layers_that_it_gives(tmp_path: Path) -> None:
    found = tune(material(), OPTIONS, tmp_path, {})
    assert found.measured == best_trials(found.trials, resolve("d4s", {}, found).layers)

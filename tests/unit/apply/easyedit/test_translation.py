"""Files of EasyEdit as settings files of ours: every algorithm, against our columns, and everything that can be wrong with a file."""

import json
from pathlib import Path

import pytest

from d4s.apply.easyedit.translation import KeyReading, Translation, translate, write_translation
from d4s.editors.editor_settings import resolve
from d4s.editors.presets import PRESETS
from d4s.editors.settings_file import read_settings_file
from d4s.errors import SettingsError
from tests.easyedit_files import FILES, SIMIE, written

SHIPPED = sorted(FILES)


def translated(folder: Path, name: str, column: str) -> Translation:
    """One of the files, translated for its column's kind of model."""
    return translate(written(folder, FILES[name, column]), column)


def reading(found: Translation, key: str) -> KeyReading:
    """What became of a key."""
    return next(one for one in found.keys if one.key == key)


@pytest.mark.parametrize(("name", "column"), SHIPPED)
def test_every_file_resolves_after_a_round_trip_through_its_settings_file(name: str, column: str, tmp_path: Path) -> None:
    found = translated(tmp_path, name, column)
    assert found.name == name and not [one for one in found.keys if one.outcome == "unknown"]
    write_translation(found, tmp_path / "ours.yaml")
    assert read_settings_file(tmp_path / "ours.yaml").model_dump(mode="json") == found.settings.model_dump(mode="json")
    for preset in found.settings.editors:
        settings = resolve(preset, {}, str(tmp_path / "ours.yaml"), found.settings.model.shape)
        assert settings.family == PRESETS[preset].family


def test_no_key_is_dropped(tmp_path: Path) -> None:
    text = FILES["MEMIT", "gpt2-xl"]
    found = translated(tmp_path, "MEMIT", "gpt2-xl")
    assert [one.key for one in found.keys] == [line.partition(":")[0] for line in text.splitlines()]
    listed = list(found.lines())
    assert all(any(line.lstrip().startswith(f"{one.key}:") and one.note in line for line in listed) for one in found.keys)
    assert found.text().startswith("# Settings of memit, memit_seq, d4s, d4s_even from EasyEdit's of MEMIT")


def test_memits_settings_are_those_of_the_methods_that_took_them(tmp_path: Path) -> None:
    found = translated(tmp_path, "MEMIT", "gpt-j-6b")
    for preset in ("memit", "memit_seq", "d4s", "d4s_even"):
        assert resolve(preset, {}, found.settings) == resolve(preset, {}, "gpt-j-6b")


def test_the_objective_of_fine_tuning_says_the_preset(tmp_path: Path) -> None:
    text = FILES["FT", "llama3-8b"]
    assert [*translate(written(tmp_path, text), "llama3-8b").settings.editors] == ["ft_l"]
    found = translate(written(tmp_path, text.replace("prompt_last", "target_new")), "llama3-8b")
    assert resolve("ft_m", {}, found.settings) == resolve("ft_m", {}, "llama3-8b")


def test_factors_are_multiplied(tmp_path: Path) -> None:
    text = FILES["EMMET", "gpt2-xl"].replace("mom2_update_weight: 1\n", "mom2_update_weight: 30\n").replace("lambda: 0\n", "lambda: 5\n")
    settings = resolve("emmet", {}, translate(written(tmp_path, text), "gpt2-xl").settings)
    assert settings.preservation.model_dump() == {"kind": "moments", "weight": pytest.approx(3.0), "ridge": pytest.approx(0.5)}


def test_what_is_not_representable_is_said_and_the_rest_translated(tmp_path: Path) -> None:
    found = translated(tmp_path, "LoRA", "llama3-8b")
    lacking = {one.key for one in found.keys if one.outcome == "not representable"}
    assert lacking == {"lora_type", "lora_dropout", "target_modules"}
    assert resolve("lora", {}, found.settings).parameters.rank == 8
    assert reading(translated(tmp_path, "ULTRAEDIT", "gpt-j-6b"), "token").outcome == "not representable"
    assert "c_fc" in reading(translated(tmp_path, "GRACE", "gpt2-xl"), "inner_params").note
    assert reading(translated(tmp_path, "ROME", "gpt2-xl"), "context_template_length_params").outcome == "not representable"


def test_core_and_eamet_are_our_columns_but_for_what_the_page_tells(tmp_path: Path) -> None:
    core = resolve("core", {}, translated(tmp_path, "CORE", "llama3-8b").settings)
    assert core.batch == 2000 and core.model_copy(update={"batch": 1}) == resolve("core", {}, "llama3-8b")
    assert reading(translated(tmp_path, "CORE", "llama3-8b"), "context").outcome == "not representable"
    found = translated(tmp_path, "EAMET", "qwen2.5-7b")
    eamet, ours = resolve("eamet", {}, found.settings), resolve("eamet", {}, "qwen2.5-7b")
    assert eamet.target.align is not None and eamet.target.align.model_dump(include={"kl", "mse", "clamp_to"}) == {
        "kl": 1.0, "mse": 1.0, "clamp_to": "hidden",
    }  # fmt: skip
    assert eamet.target.align.model_copy(update={"kl": 2.0, "mse": 8.0, "clamp_to": "key"}) == ours.target.align
    assert (eamet.target.clamp, eamet.preservation.weight, eamet.batch) == (4.0, 15_000.0, ours.batch)


def test_ike_has_as_many_demonstrations(tmp_path: Path) -> None:
    found = translated(tmp_path, "IKE", "llama3-8b")
    assert resolve("ike", {}, found.settings).demonstrations.count == 16
    assert reading(found, "sentence_model_name").outcome == "not representable"


def test_trained_editors_take_their_training_too(tmp_path: Path) -> None:
    found = translated(tmp_path, "MEND", "gpt2-xl")
    ours, column = resolve("mend", {}, found.settings), resolve("mend", {}, "gpt2-xl")
    assert ours == column.model_copy(update={"network": column.network.model_copy(update={"seed": 42})})
    assert [one.key for one in found.keys if one.outcome == "not representable"] == ["inner_params"]
    network = resolve("malmen", {}, translated(tmp_path, "MALMEN", "gpt2-xl").settings).network
    assert (network.lr, network.rate_lr, network.edits, network.steps, network.blocks) == (1e-5, 1e-5, 1, 10_000, 2)


def test_a_mistyped_key_is_listed_with_the_nearest(tmp_path: Path) -> None:
    found = translate(written(tmp_path, FILES["ROME", "gpt2-xl"] + "v_wight_decay: 1\nzzz: 2\n"), "gpt2-xl")
    assert reading(found, "v_wight_decay").note == "did you mean 'v_weight_decay'?"
    assert reading(found, "zzz").outcome == "unknown" and "not a key of this algorithm, so not translated:" in found.lines()


def test_simie_reads_the_file_of_what_it_stands_around(tmp_path: Path) -> None:
    path = written(tmp_path / "SimIE", SIMIE, "gpt2-xl.yaml")
    with pytest.raises(SettingsError, match=r"the file of MEMIT is read from .*MEMIT/gpt2-xl\.yaml, and is not there"):
        translate(path, "gpt2-xl")
    base = written(tmp_path / "MEMIT", FILES["MEMIT", "gpt2-xl"], "gpt2-xl.yaml")
    found = translate(path, "gpt2-xl")
    assert resolve("simie", {}, found.settings) == resolve("simie", {}, "gpt2-xl")
    assert reading(found, "MEMIT/v_lr").note == "target.lr: 0.5" and reading(found, "init_model").outcome == "not representable"
    written(tmp_path / "MEMIT", base.read_text().replace("v_lr: 5e-1\n", "v_lr: fast\n"), "gpt2-xl.yaml")
    with pytest.raises(SettingsError, match=r"gpt2-xl\.yaml: v_lr: expected a number, found 'fast'"):
        translate(path, "gpt2-xl")
    with pytest.raises(SettingsError, match="base_method: 'GRACE' is not changed by it here; ROME or MEMIT can be"):
        translate(written(tmp_path / "SimIE", SIMIE.replace("MEMIT", "GRACE")), "gpt2-xl")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ROME": "ROMME"}, "EasyEdit has no algorithm 'ROMME'; did you mean 'ROME'? (among our presets: did you mean 'rome'?)"),
        ({"ROME": "Nothing"}, "of its algorithms we have FT, LoRA, ROME"),
        (
            {"ROME": "InstructEdit"},
            "files of InstructEdit are not translated: MEND trained with instructions, of which a study has none; what comes nearest is",
        ),
        ({"ROME": "dpo"}, "files of DPO are not translated: preferences are not facts (docs/from_easyedit.md)"),
        ({'alg_name: "ROME"\n': ""}, "alg_name: is missing"),
        ({"v_lr: 5e-1\n": "", "v_num_grad_steps: 20": "v_num_grad_steps: some"}, "v_lr: is missing, and no default is taken in its place"),
        ({"v_lr: 5e-1\n": "", "v_num_grad_steps: 20": "v_num_grad_steps: some"}, "v_num_grad_steps: expected a number, found 'some'"),
        ({"[17]": "[48]"}, "layers: layers [48] are not in the model, which has 0 to 47"),
        ({"[17]": "[16, 17]"}, "needs one layer, found 2"),
        ({"v_lr: 5e-1": "v_lr: -1"}, "target.lr: Input should be greater than 0"),
    ],
)
def test_whatever_is_wrong_is_told(changes: dict[str, str], told: str, tmp_path: Path) -> None:
    text = FILES["ROME", "gpt2-xl"]
    for before, after in changes.items():
        text = text.replace(before, after)
    with pytest.raises(SettingsError) as caught:
        translate(written(tmp_path, text), "gpt2-xl")
    assert told in str(caught.value) and "hparams.yaml has " in str(caught.value)


def test_one_of_two_keys_is_enough(tmp_path: Path) -> None:
    text = FILES["LoRA", "llama3-8b"]
    found = translate(written(tmp_path, text.replace("\nrank: 8", "\nlora_r: 4")), "llama3-8b")
    assert resolve("lora", {}, found.settings).parameters.rank == 4
    with pytest.raises(SettingsError, match="rank or lora_r: is missing"):
        translate(written(tmp_path, text.replace("\nrank: 8", "")), "llama3-8b")


def test_the_model_is_named_by_a_kind_a_folder_or_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, FILES["ROME", "gpt2-xl"])
    with pytest.raises(SettingsError, match=r"model_name: \./models/gpt2-xl is no model on this machine; pass --model .*gpt2-xl, gpt-j-6b"):
        translate(path, None)
    with pytest.raises(SettingsError, match="--model nobody/nothing is no model on this machine"):
        translate(path, "nobody/nothing")
    config = {"model_type": "gpt2", "n_layer": 48, "n_embd": 1600, "n_head": 25, "vocab_size": 50257, "n_positions": 1024}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert translate(path, str(tmp_path)).settings.model == translate(path, "gpt2-xl").settings.model.model_copy(
        update={"source": str(tmp_path)}
    )
    own = written(tmp_path, path.read_text().replace("./models/gpt2-xl", str(tmp_path)))
    assert translate(own, None).settings.model.layers == 48
    with pytest.raises(SettingsError, match="model_name: is missing"):
        translate(written(tmp_path, 'alg_name: "ROME"\n'), None)


@pytest.mark.parametrize(("text", "told"), [("a: [1", "cannot be read as a hyperparameter file"), ("- 1", "holds list, expected keys")])
def test_a_file_that_is_none(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=told):
        translate(written(tmp_path, text), "gpt2-xl")
    with pytest.raises(SettingsError, match="cannot be read"):
        translate(tmp_path / "nowhere.yaml", "gpt2-xl")


def test_a_file_of_ours_is_not_overwritten_by_another(tmp_path: Path) -> None:
    found, out = translated(tmp_path, "KN", "gpt2-xl"), tmp_path / "ours.yaml"
    write_translation(found, out)
    write_translation(found, out)
    out.write_text(out.read_text().replace("steps: 20", "steps: 3"))
    with pytest.raises(SettingsError, match="is there already and says something else"):
        write_translation(found, out)
    with pytest.raises(SettingsError, match=r"a settings file's name ends in \.yaml or \.yml"):
        write_translation(found, tmp_path / "ours.json")

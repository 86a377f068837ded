import subprocess
import sys
from typing import Any

import pytest

from d4s.editors.editor_settings import FAMILY_SETTINGS, resolve
from d4s.editors.families import FAMILIES, build, modules_of
from d4s.editors.first_edit import first_edit_settings
from d4s.editors.hparams import merge_hparams
from d4s.editors.parts.input_settings import BasisSettings, PrepareSettings
from d4s.editors.presets import PRESETS, hparams_of, model_kinds_of
from d4s.errors import SettingsError

EVERY = [(name, column) for name in PRESETS for column in model_kinds_of(name)]


@pytest.mark.parametrize(("name", "column"), EVERY)
def test_every_preset_is_valid_in_every_column(name: str, column: str) -> None:
    settings = resolve(name, {}, column)
    assert settings.family == PRESETS[name].family
    assert type(settings).model_validate(settings.model_dump(mode="json")) == settings
    assert modules_of(settings)[0] == FAMILIES.module(settings.family)


def test_every_preset_has_a_paper_a_note_and_the_embedded_column() -> None:
    assert all(row.paper and row.note.endswith(".") and "mini" in row.base for row in PRESETS.values())


def test_families_and_their_settings_go_together() -> None:
    assert set(FAMILIES) == set(FAMILY_SETTINGS)
    for name in PRESETS:
        settings = resolve(name, {}, "mini")
        assert build(settings).settings == settings


def test_released_values_stand_as_released() -> None:
    memit = resolve("memit", {}, "gpt-j-6b")
    assert (memit.layers, memit.preservation.weight) == ((3, 4, 5, 6, 7, 8), 15_000.0)
    assert (memit.target.lr, memit.target.clamp, memit.target.weight_decay, memit.target.kl_weight) == (0.5, 0.75, 0.5, 0.0625)
    assert (memit.target.steps, memit.target.stop_probability) == (25, None)
    rome = resolve("rome", {}, "gpt2-xl")
    assert (rome.layers, rome.target.steps, rome.target.clamp, rome.keys.average) == ((17,), 20, 4.0, "plain")
    assert resolve("alphaedit", {}, "llama3-8b").preservation.weight == 10.0
    assert resolve("alphaedit", {}, "qwen2.5-7b").preservation.weight == 1.0
    assert resolve("ft_l", {}, "gpt2-xl").bound == 5e-4
    core, eamet = resolve("core", {}, "llama3-8b"), resolve("eamet", {}, "qwen2.5-7b")
    assert (core.target.clamp, core.target.weight_decay, core.target.consistency.model_dump()) == (
        3.0,
        1e-3,
        {"weight": 0.01, "blocks": 28},
    )
    assert (eamet.layers, eamet.target.lr, eamet.target.clamp, eamet.target.align.clamp_to) == ((3, 4), 0.04, 1.5, "key")


def test_what_sets_the_methods_apart() -> None:
    memit, seq, d4s = (resolve(name, {}, "mini") for name in ("memit", "memit_seq", "d4s"))
    assert seq == memit.model_copy(update={"history": seq.history, "preservation": seq.preservation})
    assert seq.history.kind == "keys"
    assert (d4s.history.kind, d4s.residual_schedule.kind, d4s.target.at, d4s.keys.mode) == ("refit", "static", "original", "progressive")
    assert (d4s.layers, d4s.keys) == (memit.layers, memit.keys)
    assert resolve("rome", {}, "mini").preservation.kind == "moments"
    assert resolve("rome_identity", {}, "mini").preservation.kind == "identity"
    assert resolve("rome", {}, "gpt-j-6b").preservation.kind == "moments"
    assert resolve("rome", {}, "llama2-7b").preservation.kind == resolve("rome", {}, "qwen2.5-7b").preservation.kind == "identity"


def test_a_changed_preset_keeps_the_rest() -> None:
    even = resolve("even_shares", {"preset": "d4s", "residual_schedule": "even", "target": {"steps": 7}}, "mini")
    assert (even.residual_schedule.kind, even.target.steps) == ("even", 7)
    assert even.target.lr == resolve("d4s", {}, "mini").target.lr


def test_a_part_of_another_kind_starts_afresh() -> None:
    base = {"part": {"kind": "a", "weight": 1}, "other": {"x": 1, "y": 2}}
    assert merge_hparams(base, {"part": {"kind": "b"}, "other": {"y": 3}}) == {"part": {"kind": "b"}, "other": {"x": 1, "y": 3}}
    assert merge_hparams(base, {"part": {"weight": 5}})["part"] == {"kind": "a", "weight": 5}
    assert resolve("mine", {"preset": "memit", "preservation": {"kind": "identity"}}, "mini").preservation.weight == 1.0
    assert "preset" not in hparams_of("memit", "mini", {})


def test_a_part_is_written_by_its_kind_alone_or_with_its_settings() -> None:
    assert resolve("mine", {"preset": "memit", "history": "keys"}, "mini") == resolve(
        "mine", {"preset": "memit", "history": {"kind": "keys"}}, "mini"
    )
    assert resolve("lyaplock", {}, "mini").history.slack == 60.0
    assert resolve("mine", {"preset": "lyaplock", "history": {"slack": 3}}, "mini").history.slack == 3.0
    assert (
        resolve("mine", {"preset": "memit", "step_transform": "rect"}, "mini").step_transform == resolve("rect", {}, "mini").step_transform
    )


def test_an_editor_can_be_written_from_scratch() -> None:
    settings = resolve("mine", {"family": "fine_tune", "objective": "target", "layer": 3}, "anything")
    assert (settings.family, settings.layers) == ("fine_tune", (3,))


def test_needs_follow_from_the_parts() -> None:
    required_inputs = {name: resolve(name, {}, "mini").required_inputs for name in PRESETS}
    assert required_inputs["memit"] == {"contexts", "moments"}
    assert required_inputs["rome_identity"] == {"contexts"}
    assert required_inputs["d4s"] == required_inputs["one_time_batch"] == {"contexts", "moments", "targets"}
    assert required_inputs["alphaedit"] == {"contexts", "prepare"}
    assert required_inputs["ft_l"] == required_inputs["unedited"] == frozenset()


def test_moments_are_taken_for_edits_and_for_null_spaces() -> None:
    layers = {name: resolve(name, {}, "mini").moment_layers for name in PRESETS}
    assert layers["alphaedit"] == layers["memit"] == resolve("memit", {}, "mini").layers
    assert layers["rome_identity"] == layers["ft_l"] == ()


def test_shared_targets_are_those_of_the_original_model_only() -> None:
    assert resolve("memit", {}, "mini").shared_targets() is None
    assert resolve("ft_m", {}, "mini").shared_targets() is None
    d4s = resolve("d4s", {}, "mini")
    even = resolve("even", {"preset": "d4s", "residual_schedule": "even", "preservation": {"weight": 7.0}}, "mini")
    assert d4s.shared_targets() == even.shared_targets() == resolve("one_time_batch", {}, "mini").shared_targets() == d4s.target


def test_targets_that_are_aligned_are_optimised_in_turn_and_never_shared() -> None:
    eamet, memit = resolve("eamet", {}, "mini"), resolve("memit", {}, "mini")
    assert eamet.batch == 10 and eamet.target.at_once(10) == 1 and memit.target.at_once(10) == 10
    assert first_edit_settings(eamet) == eamet and first_edit_settings(memit).shared_targets() is not None
    assert resolve("original", {"preset": "core", "target": {"at": "original"}}, "mini").shared_targets() is not None


def test_answers_in_windows_have_targets_of_the_edited_model_and_settings_without_them_are_as_before() -> None:
    llama, qwen, mini = (resolve("anyedit", {}, column) for column in ("llama3-8b", "qwen2.5-7b", "mini"))
    assert (llama.target.windows, qwen.target.windows, llama.keys.context) == (40, 50, True)
    assert qwen.model_copy(update={"target": qwen.target.model_copy(update={"windows": 40})}) == llama
    assert (llama.layers, llama.target.clamp, llama.target.weight_decay, llama.target.kl_weight) == ((4, 5, 6, 7, 8), 4.0, 1e-3, 0.0)
    assert mini.shared_targets() is None and first_edit_settings(mini) == mini
    memit = resolve("memit", {}, "mini").model_dump(mode="json")
    assert not {"position", "prefixes", "windows"} & set(memit["target"]) and "context" not in memit["keys"]
    assert {"position", "prefixes", "windows"} <= set(mini.model_dump(mode="json")["target"])


def test_what_prepare_is_asked_for() -> None:
    alphaedit = resolve("alphaedit", {}, "gpt-j-6b")
    assert alphaedit.prepare_settings() == PrepareSettings(basis=BasisSettings(layers=(3, 4, 5, 6, 7, 8), threshold=0.02))
    assert resolve("memit", {}, "mini").prepare_settings() is None


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("mmit", {}, "no preset is called 'mmit'; did you mean 'memit'"),
    ("memit", {"residual_schedule": "even"}, "'memit' is a preset and cannot be redefined"),
    ("mine", {"preset": "d4sx"}, "no preset is called 'd4sx'; did you mean 'd4s'"),
    ("mine", {"family": "fine_tun"}, "unknown family 'fine_tun'; did you mean 'fine_tune'"),
    ("mine", {"preset": "memit", "residual_shedule": "even"}, "residual_shedule: unknown key; did you mean 'residual_schedule'"),
    ("mine", {"preset": "memit", "target": {"stps": 3}}, "target.stps: unknown key; did you mean 'steps'"),
    ("mine", {"preset": "memit", "target": {"lr": -1}}, "target.lr: Input should be greater than 0, found -1"),
    ("mine", {"preset": "memit", "layers": []}, "layers"),
    ("mine", {"preset": "memit", "layers": [1, 0, 2]}, "must ascend without repeats"),
    ("mine", {"preset": "memit", "layers": [0, 1]}, "so target.layer (2) must be 1"),
    ("mine", {"preset": "memit", "history": "refit"}, "target.at must be `original`, found `current`"),
    ("mine", {"preset": "one_time_batch", "target": {"at": "current"}}, "target.at must be `original`, found `current`"),
    ("mine", {"preset": "rome", "history": "keys", "batch": 2}, "a batch of one, found 2"),
    ("mine", {"preset": "rome", "preservation": {"kind": "null_space", "threshold": 0.1}}, "no null space"),
    ("mine", {"preset": "memit", "solver": "hard_constraint"}, "one layer, found 3"),
    ("mine", {"preset": "rome", "history": "keys"}, "history `none`, found `keys`"),
    ("mine", {"preset": "d4s", "residual_schedule": "own"}, "so target.at must be `current`"),
    ("mine", {"preset": "pmet", "layers": [0], "target": {"layer": 0}}, "target.layer must be 1 or more"),
    ("mine", {"preset": "memit", "keys": {"shared_key": True}}, "keys.shared_key is about solver `hard_constraint` only"),
    ("mine", {"preset": "memit", "keys": {"mode": "refreshed"}}, "history must be `refit`"),
    ("mine", {"preset": "d4s", "neurons": 0.5}, "history must be `none` or `keys`, without a null space"),
    ("mine", {"preset": "d4s", "rounds": {"above": 1, "below": 2}}, "`keys` and residual_schedule have one target"),
    ("mine", {"preset": "d4s", "step_transform": {"kind": "rect"}}, "step_transform changes a step"),
    ("mine", {"preset": "rect", "step_transform": {"feedback": True}}, "history must be `keys`"),
    ("mine", {"preset": "d4s", "delta_transform": {"kind": "interpolate"}}, "keeps requests for validation"),
    ("mine", {"preset": "simie", "rounds": {"above": 1, "below": 2}}, "sees the keys of every step once"),
    ("mine", {"preset": "simie", "delta_transform": {"kind": "interpolate"}}, "sees the keys of every step once"),
    ("mine", {"preset": "memit", "history": "kyes"}, "history: unknown history; did you mean 'keys'?, found 'kyes'"),
    ("mine", {"preset": "memit", "step_transform": {"kind": "rects"}}, "step_transform: unknown step_transform; did you mean 'rect'?"),
    ("mine", {"preset": "memit", "step_transform": {"kind": "rect", "kep": 1}}, "step_transform.kep: unknown key; did you mean 'keep'"),
    ("mine", {"preset": "memit", "delta_transform": "rescale"}, "delta_transform.factor: Field required"),
    ("mine", {"preset": "one_time_batch", "keys": {"mode": "refreshed"}}, "reads its keys once"),
    ("mine", {"preset": "blue", "anchor": {}}, "has a target at each layer"),
    (
        "mine",
        {"preset": "eamet", "target": {"at": "original"}},
        "targets at the original weights are kept by request, so target.at must be",
    ),
    ("mine", {"preset": "eamet", "target": {"hook": "mlp_and_attention"}}, "target.hook must not be `mlp_and_attention`"),
    ("mine", {"preset": "eamet", "anchor": {}}, "so target.align must be left out"),
    ("mine", {"preset": "d4s", "target": {"align": {"kl": 1, "mse": 1}}}, "target.align makes a target depend on the batch and its order"),
    (
        "mine",
        {"preset": "anyedit", "target": {"at": "original"}},
        "target.windows gives a request as many targets as its answer has windows",
    ),
    ("mine", {"preset": "anyedit", "target": {"position": "subject_last"}}, "so target.position must be `prompt_last`"),
    ("mine", {"preset": "anyedit", "target": {"prefixes": True}}, "and target.prefixes false"),
    ("mine", {"preset": "anyedit", "target": {"hook": "mlp_and_attention"}}, "target.windows holds one shift of each window in place"),
    (
        "mine",
        {"preset": "anyedit", "target": {"align": {"kl": 1, "mse": 1}}},
        "target.align and target.windows both optimise targets in turn",
    ),
    ("mine", {"preset": "anyedit", "anchor": {}}, "and target.windows too"),
    ("mine", {"preset": "core", "target": {"prefixes": False}}, "target.consistency compares prompts behind prefixes"),
    ("mine", {"preset": "d4s", "keys": {"context": True}}, "keys.context preserves a text in the one step that edits it"),
    ("mine", {"preset": "nse", "keys": {"context": True}}, "keys.context preserves a text in the one step that edits it"),
    ("mine", {"preset": "rome", "keys": {"context": True}}, "one key alone, without target.windows and keys.context"),
    ("mine", {"preset": "one_time_batch", "keys": {"context": True}}, "keeps requests without their answers"),
    ("mine", {"preset": "ike", "demonstrations": {"copies": 0, "updates": 0, "retains": 0}}, "no demonstration has a kind"),
    ("mine", {"preset": "lyaplock", "target": {"at": "original"}}, "so target.at must be `current`"),
    ("mine", {"preset": "lyaplock", "preservation": {"kind": "identity"}}, "preservation.kind must be `moments`"),
]


@pytest.mark.parametrize(("name", "overrides", "reason"), REFUSED)
def test_what_cannot_be_is_refused_with_the_reason(name: str, overrides: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve(name, overrides, "mini")
    assert reason in str(caught.value) and f"editor {name!r}" in str(caught.value)


def test_a_column_that_a_preset_lacks_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="'alphaedit' has no settings for models like 'llama2-7b'; did you mean 'llama3-8b'"):
        resolve("alphaedit", {}, "llama2-7b")


def test_several_defects_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        resolve("mine", {"preset": "memit", "residual_shedule": 1, "target": {"stps": 3, "lr": 0}}, "mini")
    assert "3 problem(s)" in str(caught.value)


def test_resolving_imports_no_torch() -> None:
    code = "import sys; from d4s.editors.families import modules_of; from d4s.editors.editor_settings import resolve; "
    code += "import d4s.runs.run_settings; "
    code += "modules_of(resolve('d4s', {}, 'mini')); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

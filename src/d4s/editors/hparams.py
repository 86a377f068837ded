"""Settings per kind of model that methods share: MEMIT's, ROME's and fine-tuning's, and those of methods with values of their own.

Values of `mini` are ours, tuned as `docs/tuning.md` tells; the others are what methods and the field's common repositories
released. Plain values only: `editor_settings.py` checks them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

HParams = Mapping[str, Any]


def merge_hparams(*layers: HParams) -> dict[str, Any]:
    """Mappings laid over each other, later ones winning; nested mappings merge unless they are of different kinds."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            result[key] = _merge_value(result.get(key), value)
    return result


def _merge_value(before: Any, value: Any) -> Any:
    """A value laid over another; a part that is written as its kind alone is one without settings."""
    if isinstance(before, str) and isinstance(value, Mapping) and "kind" not in value:
        return {"kind": before, **value}
    if not isinstance(before, Mapping) or not isinstance(value, Mapping):
        return value
    same_kind = value.get("kind", before.get("kind")) == before.get("kind")
    return merge_hparams(before, value) if same_kind else value


def _target(lr: float, weight_decay: float, clamp: float, steps: int = 25) -> HParams:
    return {"lr": lr, "weight_decay": weight_decay, "clamp": clamp, "kl_weight": 0.0625, "steps": steps}


def _memit(layers: Sequence[int], weight: float, target: HParams) -> HParams:
    """Settings of the MEMIT family: several layers, a shift of the last one's block output."""
    preservation = {"kind": "moments", "weight": weight}
    return {"layers": tuple(layers), "target": {**target, "layer": layers[-1]}, "preservation": preservation}


IDENTITY: HParams = {"preservation": {"kind": "identity", "weight": 1.0}}


MOMENTS: HParams = {"preservation": {"kind": "moments", "weight": 1.0}}
ROME_RULES: HParams = {"target": {"hook": "mlp_output"}, "keys": {"average": "plain"}, "solver": "hard_constraint"}
"""What ROME does whatever the model: a shift of the MLP's output, keys averaged plainly, the target met exactly."""


def _rome(layer: int, target: HParams) -> HParams:
    """Settings of the ROME family: one layer."""
    return merge_hparams({"layers": (layer,), "target": {**target, "layer": layer}}, MOMENTS, ROME_RULES)


def _fine_tune(layer: int, bound: float | None, lr: float = 5e-4) -> HParams:
    return {"layer": layer, "lr": lr, "bound": bound}


MINI_STOP: HParams = {"stop_probability": 0.9}
MEMIT: Mapping[str, HParams] = {
    "mini": _memit((0, 1, 2), 1000.0, {**_target(0.5, 0.5, 1.5, steps=25), **MINI_STOP}),
    "gpt2-xl": _memit(range(13, 18), 20_000.0, _target(0.5, 0.5, 0.75, steps=20)),
    "gpt-j-6b": _memit(range(3, 9), 15_000.0, _target(0.5, 0.5, 0.75)),
    "llama2-7b": _memit(range(4, 9), 15_000.0, _target(0.5, 1e-3, 4.0)),
    "llama3-8b": _memit(range(4, 9), 15_000.0, _target(0.1, 0.5, 0.75)),
    "qwen2.5-7b": _memit(range(4, 9), 15_000.0, _target(0.5, 1e-3, 4.0)),
}
ROME: Mapping[str, HParams] = {
    "mini": _rome(2, {**_target(0.5, 0.5, 5.0, steps=25), **MINI_STOP}),
    "gpt2-xl": _rome(17, _target(0.5, 0.5, 4.0, steps=20)),
    "gpt-j-6b": _rome(5, _target(0.5, 0.5, 4.0, steps=20)),
    "llama2-7b": merge_hparams(_rome(5, _target(0.5, 1e-3, 4.0)), IDENTITY),
    "llama3-8b": merge_hparams(_rome(5, _target(0.5, 1e-3, 4.0)), IDENTITY),
    "qwen2.5-7b": merge_hparams(_rome(5, _target(0.5, 1e-3, 4.0)), IDENTITY),
}
FINE_TUNE: Mapping[str, HParams] = {
    "mini": _fine_tune(0, 5e-3, lr=5e-3),
    "gpt2-xl": _fine_tune(0, 5e-4),
    "gpt-j-6b": _fine_tune(0, 5e-5),
    "llama2-7b": _fine_tune(21, None),
    "llama3-8b": _fine_tune(21, None),
    "qwen2.5-7b": _fine_tune(27, None),
}

LORA_RULES: HParams = {"objective": "target", "parameters": {"kind": "lora"}, "stop_loss": 0.0}
_LORA: HParams = {**LORA_RULES, "steps": 40, "lr": 1e-4}
LORA: Mapping[str, HParams] = {**dict.fromkeys(FINE_TUNE, _LORA), "mini": {**_LORA, "lr": 5e-4}}


def without(base: Mapping[str, HParams], *model_kinds: str) -> Mapping[str, HParams]:
    """A base without columns that a method's source says nothing about."""
    return {model_kind: settings for model_kind, settings in base.items() if model_kind not in model_kinds}


PMET_TARGET: HParams = {"hook": "mlp_and_attention", "top1_weight": 0.1, "top1_divergence": 0.01}


def _pmet(layers: Sequence[int], weight: float, target: HParams) -> HParams:
    """Settings of PMET: the MLP's and the attention's share are shifted at once, and the residual is the MLP's."""
    return _memit(layers, weight, {**target, **PMET_TARGET})


def first_and_last(base: Mapping[str, HParams]) -> Mapping[str, HParams]:
    """A base with the first and the last of its layers alone (BLUE)."""
    return {model_kind: {**settings, "layers": (settings["layers"][0], settings["layers"][-1])} for model_kind, settings in base.items()}


A, B = _target(0.5, 0.5, 0.75), _target(0.5, 1e-3, 4.0)
EMMET: Mapping[str, HParams] = {  # the weight is the released one times the released ridge of 0.1, which is the same method
    "mini": _memit((2,), 100.0, {**_target(0.5, 0.5, 1.5, steps=25), **MINI_STOP}),
    "gpt2-xl": _memit((17,), 1_000.0, _target(0.5, 0.5, 0.75, steps=20)),
    "gpt-j-6b": _memit((5,), 10_000.0, A),
    "llama2-7b": _memit((5,), 10_000.0, B),
    "llama3-8b": _memit((5,), 10_000.0, _target(0.1, 0.5, 0.75)),
}
PMET: Mapping[str, HParams] = {
    "mini": _pmet((0, 1, 2), 300.0, {**_target(0.5, 0.5, 3.0, steps=25), **MINI_STOP}),
    "gpt-j-6b": _pmet(range(3, 9), 6_000.0, {**_target(0.2, 0.5, 0.75, steps=30), "kl_weight": 1.0}),
    "llama2-7b": _pmet(range(4, 9), 15_000.0, _target(0.5, 0.5, 1.0, steps=20)),
}
NSE: Mapping[str, HParams] = {
    "mini": merge_hparams(MEMIT["mini"], {"preservation": {"weight": 100.0}, "rounds": {"above": 0.5, "below": 100.0}}),
    "gpt2-xl": {**_memit(range(13, 18), 10_000.0, _target(0.5, 0.5, 0.75, steps=20)), "rounds": {"above": 35.0, "below": 150.0}},
    "gpt-j-6b": {**_memit(range(3, 9), 15_000.0, A), "rounds": {"above": 15.0, "below": 100.0}, "neurons": 0.8},
    "llama3-8b": {**_memit(range(4, 9), 15_000.0, _target(0.1, 0.5, 0.75)), "rounds": {"above": 2.5, "below": 50.0}},
}
ENCORE: Mapping[str, HParams] = {
    "mini": merge_hparams(MEMIT["mini"], {"preservation": {"ridge": 0.01}, "target": {"stop_top1": 1}}),
    "gpt2-xl": merge_hparams(MEMIT["gpt2-xl"], {"preservation": {"ridge": 10.0}, "target": {"stop_top1": 3}}),
    "llama2-7b": merge_hparams(_memit(range(4, 9), 15_000.0, A), {"preservation": {"ridge": 10.0}, "target": {"stop_top1": 2}}),
    "llama3-8b": merge_hparams(_memit(range(4, 9), 15_000.0, A), {"preservation": {"ridge": 20.0}, "target": {"stop_top1": 1}}),
}
GRACE: Mapping[str, HParams] = {
    "mini": {"layer": 4, "eps_init": 3.0, "value": "warm", "stop_loss": 0.05},
    "gpt2-xl": {"layer": 35, "steps": 200},
    "gpt-j-6b": {"layer": 25, "steps": 200},
    "llama2-7b": {"layer": 27, "steps": 50},
    "qwen2.5-7b": {"layer": 18, "steps": 50},
}
KNOWLEDGE_NEURONS: Mapping[str, HParams] = {
    "mini": {"steps": 20, "threshold": 0.1},
    "gpt2-xl": {"steps": 20, "threshold": 0.2},
    "gpt-j-6b": {"steps": 20, "threshold": 0.1},
    "llama2-7b": {"steps": 1, "threshold": 0.2},
    "llama3-8b": {"steps": 1, "threshold": 0.2},
    "qwen2.5-7b": {"steps": 1, "threshold": 0.2},
}

"""Settings per kind of model that methods share: MEMIT's, ROME's and fine-tuning's, and those of methods with values of their own.

Values of `mini` are ours, tuned as `docs/tuning.md` tells; the others are what methods and the field's common repositories
released. Plain values only: `settings.py` checks them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Settings = Mapping[str, Any]


def merged(*layers: Settings) -> dict[str, Any]:
    """Mappings laid over each other, later ones winning; nested mappings merge unless they are of different kinds."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            result[key] = _laid_over(result.get(key), value)
    return result


def _laid_over(before: Any, value: Any) -> Any:
    if not isinstance(before, Mapping) or not isinstance(value, Mapping):
        return value
    same_kind = value.get("kind", before.get("kind")) == before.get("kind")
    return merged(before, value) if same_kind else value


def _shift(lr: float, weight_decay: float, clamp: float, steps: int = 25) -> Settings:
    return {"lr": lr, "weight_decay": weight_decay, "clamp": clamp, "kl_weight": 0.0625, "steps": steps}


def _memit(layers: Sequence[int], weight: float, shift: Settings) -> Settings:
    """Settings of the MEMIT family: several layers, a shift of the last one's block output."""
    preserve = {"kind": "moments", "weight": weight}
    return {"layers": tuple(layers), "target": {**shift, "layer": layers[-1]}, "preserve": preserve}


IDENTITY: Settings = {"preserve": {"kind": "identity", "weight": 1.0}}


def _rome(layer: int, shift: Settings) -> Settings:
    """Settings of the ROME family: one layer, a shift of its MLP output, keys averaged plainly."""
    return {
        "layers": (layer,),
        "target": {**shift, "layer": layer, "hook": "mlp_output"},
        "keys": {"average": "plain"},
        "preserve": {"kind": "moments", "weight": 1.0},
        "solver": "hard_constraint",
    }


def _tune(layer: int, bound: float | None, lr: float = 5e-4) -> Settings:
    return {"layer": layer, "lr": lr, "bound": bound}


MINI_STOP: Settings = {"stop_probability": 0.9}
MEMIT: Mapping[str, Settings] = {
    "mini": _memit((0, 1, 2), 1000.0, {**_shift(0.5, 0.5, 1.5, steps=25), **MINI_STOP}),
    "gpt2-xl": _memit(range(13, 18), 20_000.0, _shift(0.5, 0.5, 0.75, steps=20)),
    "gpt-j-6b": _memit(range(3, 9), 15_000.0, _shift(0.5, 0.5, 0.75)),
    "llama2-7b": _memit(range(4, 9), 15_000.0, _shift(0.5, 1e-3, 4.0)),
    "llama3-8b": _memit(range(4, 9), 15_000.0, _shift(0.1, 0.5, 0.75)),
    "qwen2.5-7b": _memit(range(4, 9), 15_000.0, _shift(0.5, 1e-3, 4.0)),
}
ROME: Mapping[str, Settings] = {
    "mini": _rome(2, {**_shift(0.5, 0.5, 3.0, steps=25), **MINI_STOP}),
    "gpt2-xl": _rome(17, _shift(0.5, 0.5, 4.0, steps=20)),
    "gpt-j-6b": _rome(5, _shift(0.5, 0.5, 4.0, steps=20)),
    "llama2-7b": merged(_rome(5, _shift(0.5, 1e-3, 4.0)), IDENTITY),
    "llama3-8b": merged(_rome(5, _shift(0.5, 1e-3, 4.0)), IDENTITY),
    "qwen2.5-7b": merged(_rome(5, _shift(0.5, 1e-3, 4.0)), IDENTITY),
}
FINE_TUNE: Mapping[str, Settings] = {
    "mini": _tune(0, None, lr=5e-3),
    "gpt2-xl": _tune(0, 5e-4),
    "gpt-j-6b": _tune(0, 5e-5),
    "llama2-7b": _tune(21, None),
    "llama3-8b": _tune(21, None),
    "qwen2.5-7b": _tune(27, None),
}


def without(base: Mapping[str, Settings], *columns: str) -> Mapping[str, Settings]:
    """A base without columns that a method's source says nothing about."""
    return {column: settings for column, settings in base.items() if column not in columns}


def _joint(layers: Sequence[int], weight: float, shift: Settings) -> Settings:
    """Settings of PMET: the MLP's and the attention's share are shifted at once, and the residual is the MLP's."""
    return _memit(layers, weight, {**shift, "hook": "mlp_and_attention", "settled_weight": 0.1, "settled_divergence": 0.01})


def ends(base: Mapping[str, Settings]) -> Mapping[str, Settings]:
    """A base with the first and the last of its layers alone (BLUE)."""
    return {column: {**settings, "layers": (settings["layers"][0], settings["layers"][-1])} for column, settings in base.items()}


A, B = _shift(0.5, 0.5, 0.75), _shift(0.5, 1e-3, 4.0)
EMMET: Mapping[str, Settings] = {  # the weight is the released one times the released ridge of 0.1, which is the same method
    "mini": _memit((2,), 100.0, {**_shift(0.5, 0.5, 1.5, steps=25), **MINI_STOP}),
    "gpt2-xl": _memit((17,), 1_000.0, _shift(0.5, 0.5, 0.75, steps=20)),
    "gpt-j-6b": _memit((5,), 10_000.0, A),
    "llama2-7b": _memit((5,), 10_000.0, B),
    "llama3-8b": _memit((5,), 10_000.0, _shift(0.1, 0.5, 0.75)),
}
PMET: Mapping[str, Settings] = {
    "mini": _joint((0, 1, 2), 100.0, {**_shift(0.5, 0.5, 1.5, steps=25), **MINI_STOP}),
    "gpt-j-6b": _joint(range(3, 9), 6_000.0, {**_shift(0.2, 0.5, 0.75, steps=30), "kl_weight": 1.0}),
    "llama2-7b": _joint(range(4, 9), 15_000.0, _shift(0.5, 0.5, 1.0, steps=20)),
}
NSE: Mapping[str, Settings] = {
    "mini": merged(MEMIT["mini"], {"preserve": {"weight": 30.0}, "rounds": {"above": 0.5, "below": 100.0}}),
    "gpt2-xl": {**_memit(range(13, 18), 10_000.0, _shift(0.5, 0.5, 0.75, steps=20)), "rounds": {"above": 35.0, "below": 150.0}},
    "gpt-j-6b": {**_memit(range(3, 9), 15_000.0, A), "rounds": {"above": 15.0, "below": 100.0}, "neurons": 0.8},
    "llama3-8b": {**_memit(range(4, 9), 15_000.0, _shift(0.1, 0.5, 0.75)), "rounds": {"above": 2.5, "below": 50.0}},
}
ENCORE: Mapping[str, Settings] = {
    "mini": merged(MEMIT["mini"], {"preserve": {"ridge": 0.01}, "target": {"stop_top1": 1}}),
    "gpt2-xl": merged(MEMIT["gpt2-xl"], {"preserve": {"ridge": 10.0}, "target": {"stop_top1": 3}}),
    "llama2-7b": merged(_memit(range(4, 9), 15_000.0, A), {"preserve": {"ridge": 10.0}, "target": {"stop_top1": 2}}),
    "llama3-8b": merged(_memit(range(4, 9), 15_000.0, A), {"preserve": {"ridge": 20.0}, "target": {"stop_top1": 1}}),
}
GRACE: Mapping[str, Settings] = {
    "mini": {"layer": 4, "eps_init": 4.0, "value": "warm", "stop_loss": 0.05},
    "gpt2-xl": {"layer": 35, "steps": 200},
    "gpt-j-6b": {"layer": 25, "steps": 200},
    "llama2-7b": {"layer": 27, "steps": 50},
    "qwen2.5-7b": {"layer": 18, "steps": 50},
}
KNOWLEDGE_NEURONS: Mapping[str, Settings] = {
    "mini": {"steps": 20, "threshold": 0.2},
    "gpt2-xl": {"steps": 20, "threshold": 0.2},
    "gpt-j-6b": {"steps": 20, "threshold": 0.1},
    "llama2-7b": {"steps": 1, "threshold": 0.2},
    "llama3-8b": {"steps": 1, "threshold": 0.2},
    "qwen2.5-7b": {"steps": 1, "threshold": 0.2},
}

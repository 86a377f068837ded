"""The table of named editing methods: a row with its paper, what it is, and its settings per kind of model.

A column is a kind of model. `mini` is the embedded model's and ours, tuned as `docs/tuning.md` tells; the others are
released settings of the methods' own or the field's common repositories. Plain values only: `settings.py` checks them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Preset:
    """A named method. Its settings for a column are the base of that column, then `changes`, then `tuned` of the column."""

    paper: str
    note: str
    family: str
    base: Mapping[str, Settings]
    changes: Settings = field(default_factory=dict)
    tuned: Mapping[str, Settings] = field(default_factory=dict)


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


def columns_of(preset: str) -> list[str]:
    """The kinds of model that a preset has settings for."""
    return sorted(PRESETS[preset].base)


def settings_of(preset: str, column: str, changes: Settings) -> dict[str, Any]:
    """A preset's settings for a kind of model, with changes laid over them."""
    row = PRESETS[preset]
    return merged({"family": row.family}, row.base[column], row.changes, row.tuned.get(column, {}), changes)


def _shift(lr: float, weight_decay: float, clamp: float, steps: int = 25) -> Settings:
    return {"lr": lr, "weight_decay": weight_decay, "clamp": clamp, "kl_weight": 0.0625, "steps": steps}


def _memit(layers: Sequence[int], weight: float, shift: Settings) -> Settings:
    """Settings of the MEMIT family: several layers, a shift of the last one's block output."""
    preserve = {"kind": "moments", "weight": weight}
    return {"layers": tuple(layers), "target": {**shift, "layer": layers[-1]}, "preserve": preserve}


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
    "llama2-7b": _rome(5, _shift(0.5, 1e-3, 4.0)),
    "llama3-8b": _rome(5, _shift(0.5, 1e-3, 4.0)),
    "qwen2.5-7b": _rome(5, _shift(0.5, 1e-3, 4.0)),
}
FINE_TUNE: Mapping[str, Settings] = {
    "mini": _tune(0, None, lr=5e-3),
    "gpt2-xl": _tune(0, 5e-4),
    "gpt-j-6b": _tune(0, 5e-5),
    "llama2-7b": _tune(21, None),
    "llama3-8b": _tune(21, None),
    "qwen2.5-7b": _tune(27, None),
}


def _mini_weight(weight: float) -> Mapping[str, Settings]:
    """The weight of the second moment that tuning kept for an editor of the MEMIT family on the embedded model."""
    return {"mini": {"preserve": {"weight": weight}}}


AT_ORIGINAL: Settings = {"target": {"at": "original"}}

PRESETS: Mapping[str, Preset] = {
    "unedited": Preset(
        "none",
        "The model as it is; the reference of every table.",
        "unedited",
        {column: {} for column in MEMIT},
    ),
    "ft_l": Preset(
        "Zhu et al. 2020, as in Meng et al. 2022",
        "Constrained fine-tuning that scores all target tokens at the last prompt token. Weights only; the release also moves the bias.",
        "fine_tune",
        FINE_TUNE,
        {"objective": "prompt_last"},
    ),
    "ft_m": Preset(
        "Zhang et al. 2024 (EasyEdit)",
        "Constrained fine-tuning on the target span, teacher-forced. Weights only, as for ft_l.",
        "fine_tune",
        FINE_TUNE,
        {"objective": "target"},
    ),
    "rome": Preset(
        "Meng et al. 2022",
        "One layer, target met exactly at the bare prompt's key, second moment of text as in the original release.",
        "locate_then_edit",
        ROME,
    ),
    "rome_identity": Preset(
        "Meng et al. 2022, as configured in EasyEdit",
        "ROME with the identity in place of the second moment: another method, named apart.",
        "locate_then_edit",
        ROME,
        {"preserve": {"kind": "identity"}},
    ),
    "memit": Preset(
        "Meng et al. 2023",
        "Least squares over several layers, repeated on the edited model without memory of earlier edits.",
        "locate_then_edit",
        MEMIT,
    ),
    "memit_seq": Preset(
        "Fang et al. 2025 (baseline of AlphaEdit)",
        "MEMIT that also preserves the keys of earlier edits.",
        "locate_then_edit",
        MEMIT,
        {"history": "keys"},
        _mini_weight(30.0),
    ),
    "alphaedit": Preset(
        "Fang et al. 2025",
        "MEMIT with key history, confined to directions that text hardly uses; solved in those directions only, which is the same.",
        "locate_then_edit",
        {column: settings for column, settings in MEMIT.items() if column != "llama2-7b"},
        {"history": "keys", "preserve": {"kind": "null_space", "threshold": 0.02, "weight": 10.0}},
        {"qwen2.5-7b": {"preserve": {"weight": 1.0}}},
    ),
    "d4s": Preset(
        "Huang et al. 2024",
        "All edits so far solved anew from the original weights; residual measured once, shared out as 1/(L-i), as released.",
        "locate_then_edit",
        MEMIT,
        {**AT_ORIGINAL, "spread": "static", "history": "rewind"},
        _mini_weight(100.0),
    ),
    "one_time_batch": Preset(
        "Meng et al. 2023",
        "The same requests as one MEMIT batch from the original weights; the reference that a sequence should reach.",
        "one_time_batch",
        MEMIT,
        AT_ORIGINAL,
        _mini_weight(30.0),
    ),
}

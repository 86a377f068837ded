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


def _without(base: Mapping[str, Settings], *columns: str) -> Mapping[str, Settings]:
    """A base without columns that a method's source says nothing about."""
    return {column: settings for column, settings in base.items() if column not in columns}


def _joint(layers: Sequence[int], weight: float, shift: Settings) -> Settings:
    """Settings of PMET: the MLP's and the attention's share are shifted at once, and the residual is the MLP's."""
    return _memit(layers, weight, {**shift, "hook": "mlp_and_attention", "settled_weight": 0.1, "settled_divergence": 0.01})


def _ends(base: Mapping[str, Settings]) -> Mapping[str, Settings]:
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
    "mini": _joint((0, 1, 2), 100.0, {**_shift(0.5, 0.5, 3.0, steps=25), **MINI_STOP}),
    "gpt-j-6b": _joint(range(3, 9), 6_000.0, {**_shift(0.2, 0.5, 0.75, steps=30), "kl_weight": 1.0}),
    "llama2-7b": _joint(range(4, 9), 15_000.0, _shift(0.5, 0.5, 1.0, steps=20)),
}
NSE: Mapping[str, Settings] = {
    "mini": {**MEMIT["mini"], "rounds": {"above": 0.5, "below": 100.0}},
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
    "mini": {"layer": 4, "eps_init": 3.0, "value": "warm", "stop_loss": 0.05},
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
    "kn": Preset(
        "Dai et al. 2022, as in EasyEdit",
        "Neurons that the original answer hangs on get the target's output embedding for that of the model's own answer.",
        "knowledge_neurons",
        KNOWLEDGE_NEURONS,
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
    "r_rome": Preset(
        "Gupta et al. 2024",
        "ROME with one key everywhere: the averaged one, met from where the averaged output is.",
        "locate_then_edit",
        ROME,
        {"keys": {"consistent": True}},
    ),
    "c_rome": Preset(
        "Yang et al. 2024",
        "ROME with every key replaced by the averaged one; the same algebra as r_rome.",
        "locate_then_edit",
        ROME,
        {"keys": {"consistent": True}},
    ),
    "emmet": Preset(
        "Gupta et al. 2024",
        "ROME's objective for batches, with a ridge; in closed form MEMIT on one layer with another weight.",
        "locate_then_edit",
        EMMET,
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
    "pmet": Preset(
        "Li et al. 2024",
        "MEMIT towards targets of the MLP's own output, optimised jointly with the attention's; residual shared out by roots.",
        "locate_then_edit",
        PMET,
        {"spread": "root"},
    ),
    "nse": Preset(
        "Jiang et al. 2024",
        "MEMIT with key history and targets of the original model, in rounds over what is not there yet, on part of the neurons.",
        "locate_then_edit",
        NSE,
        {**AT_ORIGINAL, "history": "keys"},
    ),
    "blue": Preset(
        "BLUE (bi-level edits of boundary layers, 2025)",
        "MEMIT on the first and the last layer alone, each towards a target of its own.",
        "locate_then_edit",
        _without(_ends(MEMIT), "llama2-7b", "qwen2.5-7b"),
        {"spread": "own"},
    ),
    "encore": Preset(
        "Gupta et al. 2025",
        "MEMIT with key history, a penalty on the norm of each change, and targets that stop once they are most likely.",
        "locate_then_edit",
        ENCORE,
        {"history": "keys"},
    ),
    "nas": Preset(
        "NAS (norm-anchor scaling, 2026)",
        "AlphaEdit with targets rescaled so that the MLP puts out vectors of the usual norm.",
        "locate_then_edit",
        _without(MEMIT, "llama2-7b"),
        {"history": "keys", "preserve": {"kind": "null_space", "threshold": 0.02, "weight": 10.0}, "anchor": {}},
    ),
    "rect": Preset(
        "Gu et al. 2024",
        "MEMIT of which only the entries that change their weight most are written.",
        "locate_then_edit",
        MEMIT,
        {"after": {"kind": "rect"}},
    ),
    "ote_se": Preset(
        "OTE-SE (one-time editing and sequential editing, 2026)",
        "MEMIT with key history and RECT, with each step making up for what the one before did not write.",
        "locate_then_edit",
        MEMIT,
        {"history": "keys", "after": {"kind": "rect", "feedback": True}},
    ),
    "prune": Preset(
        "Ma et al. 2025",
        "MEMIT whose whole change has large singular values compressed.",
        "locate_then_edit",
        MEMIT,
        {"finish": {"kind": "prune"}},
    ),
    "sphere": Preset(
        "SPHERE (2025)",
        "AlphaEdit less half of what points along the main directions of the weight's rows.",
        "locate_then_edit",
        _without(MEMIT, "llama2-7b"),
        {"history": "keys", "preserve": {"kind": "null_space", "threshold": 0.02, "weight": 10.0}, "after": {"kind": "sphere"}},
    ),
    "simie": Preset(
        "SimIE (2025)",
        "MEMIT with each step reduced to what its keys need beside all keys so far.",
        "locate_then_edit",
        MEMIT,
        {"after": {"kind": "simie"}},
    ),
    "lyaplock": Preset(
        "LyapLock (2025)",
        "All edits solved anew with a weight of what is preserved that grows while too much of it is lost.",
        "locate_then_edit",
        MEMIT,
        {"history": "queue", "preserve": {"weight": 1000.0}},
    ),
    "one_li": Preset(
        "1-LI (one-layer interpolation)",
        "MEMIT taken only part of the way, as far as kept requests ask for.",
        "locate_then_edit",
        MEMIT,
        {"finish": {"kind": "interpolate"}},
    ),
    "d4s": Preset(
        "Huang et al. 2024",
        "All edits so far solved anew from the original weights; residual measured once, shared out as 1/(L-i), as released.",
        "locate_then_edit",
        MEMIT,
        {**AT_ORIGINAL, "spread": "static", "history": "rewind"},
        _mini_weight(100.0),
    ),
    "d4s_even": Preset(
        "Huang et al. 2024, spread changed",
        "D4S with equal shares of the residual, which add up to the whole.",
        "locate_then_edit",
        MEMIT,
        {**AT_ORIGINAL, "spread": "even", "history": "rewind"},
        _mini_weight(100.0),
    ),
    "d4s_frozen": Preset(
        "Huang et al. 2024, keys changed",
        "D4S with keys of the original model everywhere, so that the order of edits does not matter.",
        "locate_then_edit",
        MEMIT,
        {**AT_ORIGINAL, "spread": "static", "history": "rewind", "keys": {"mode": "frozen"}},
        _mini_weight(100.0),
    ),
    "d4s_refreshed": Preset(
        "Huang et al. 2024, keys and residuals changed",
        "D4S with residuals measured after each layer, and keys and residuals of all edits read anew every 50 edits.",
        "locate_then_edit",
        MEMIT,
        {**AT_ORIGINAL, "history": "rewind", "keys": {"mode": "refreshed"}},
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
    "grace": Preset(
        "Hartvigsen et al. 2023, as configured in EasyEdit",
        "Codebook beside one MLP output; no weight changes. For GPT-2 XL the release adapts the MLP's input projection instead.",
        "grace",
        GRACE,
    ),
}

"""The table of named editing methods: a row with its paper, what it is, and its settings per kind of model.

A column is a kind of model. `mini` is the embedded model's and ours, tuned as `docs/tuning.md` tells; the others are
released settings of the methods' own or the field's common repositories. Plain values only: `editor_settings.py` checks them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from d4s.editors.hparams import (
    EMMET,
    ENCORE,
    FINE_TUNE,
    GRACE,
    KNOWLEDGE_NEURONS,
    LORA,
    MEMIT,
    NSE,
    PMET,
    ROME,
    HParams,
    first_and_last,
    merge_hparams,
    without,
)


@dataclass(frozen=True, slots=True)
class Preset:
    """A named method. Its settings for a column are the base of that column, then `changes`, then `tuned` of the column.

    `title` is its name in figures and tables, `paper` where it comes from, `address` a link to that or to its code (empty where
    neither is public), `hue` the colours of `d4s.figures.style` that it shares with its relatives (empty: a spare colour). `released`
    are the columns whose values the method's source has; the other values are ours, by analogy.
    """

    title: str
    paper: str
    address: str
    note: str
    family: str
    base: Mapping[str, HParams]
    changes: HParams = field(default_factory=dict)
    tuned: Mapping[str, HParams] = field(default_factory=dict)
    released: tuple[str, ...] = ()
    hue: str = ""


def model_kinds_of(preset: str) -> list[str]:
    """The kinds of model that a preset has settings for."""
    return sorted(PRESETS[preset].base)


def hparams_of(preset: str, model_kind: str, changes: HParams) -> dict[str, Any]:
    """A preset's settings for a kind of model, with changes laid over them."""
    row = PRESETS[preset]
    return merge_hparams({"family": row.family}, row.base[model_kind], row.changes, row.tuned.get(model_kind, {}), changes)


def _mini_weight(weight: float) -> Mapping[str, HParams]:
    """The weight of the second moment that tuning kept for an editor of the MEMIT family on the embedded model."""
    return {"mini": {"preservation": {"weight": weight}}}


AT_ORIGINAL: HParams = {"target": {"at": "original"}}

EVERYWHERE = ("gpt2-xl", "gpt-j-6b", "llama2-7b", "llama3-8b", "qwen2.5-7b")
PRESETS: Mapping[str, Preset] = {
    "unedited": Preset(
        "Unedited",
        "none",
        "",
        "The model as it is; the reference of every table.",
        "unedited",
        {model_kind: {} for model_kind in MEMIT},
        released=EVERYWHERE,
        hue="unedited",
    ),
    "ft_l": Preset(
        "FT-L",
        "Zhu et al. 2020, as in Meng et al. 2022",
        "https://arxiv.org/abs/2012.00363",
        "Constrained fine-tuning that scores all target tokens at the last prompt token. Weights only; the release also moves the bias.",
        "fine_tune",
        FINE_TUNE,
        {"objective": "prompt_last"},
        released=EVERYWHERE,
        hue="fine_tuning",
    ),
    "ft_m": Preset(
        "FT-M",
        "Zhang et al. 2024 (EasyEdit)",
        "https://arxiv.org/abs/2401.01286",
        "Constrained fine-tuning on the target span, teacher-forced. Weights only, as for ft_l.",
        "fine_tune",
        FINE_TUNE,
        {"objective": "target"},
        released=EVERYWHERE,
        hue="fine_tuning",
    ),
    "lora": Preset(
        "LoRA",
        "Hu et al. 2022, as in Hase et al. 2024",
        "https://arxiv.org/abs/2406.19354",
        "Factors of rank 1 beside every MLP output matrix, tuned on the target in 40 steps and added to the weights.",
        "fine_tune",
        LORA,
    ),
    "kn": Preset(
        "KN",
        "Dai et al. 2022, as in EasyEdit",
        "https://arxiv.org/abs/2104.08696",
        "Neurons that the original answer hangs on get the target's word embedding for that of the model's own answer. Attributed at the "
        "input of the MLP's output projection, as in the paper; EasyEdit does so before the nonlinearity.",
        "knowledge_neurons",
        KNOWLEDGE_NEURONS,
        released=("gpt2-xl", "gpt-j-6b", "llama2-7b", "qwen2.5-7b"),
        hue="neurons",
    ),
    "rome": Preset(
        "ROME",
        "Meng et al. 2022",
        "https://arxiv.org/abs/2202.05262",
        "One layer, target met exactly at the unprefixed prompt's key; on GPT-2 and GPT-J with the second moment of text, on Llama and "
        "Qwen as configured in EasyEdit, with the identity.",
        "locate_then_edit",
        ROME,
        released=EVERYWHERE,
        hue="rome",
    ),
    "rome_identity": Preset(
        "ROME (C = I)",
        "Meng et al. 2022, as configured in EasyEdit",
        "https://arxiv.org/abs/2202.05262",
        "ROME with the identity in place of the second moment, for GPT-2 and GPT-J too: another method there, named apart.",
        "locate_then_edit",
        ROME,
        {"preservation": {"kind": "identity"}},
        released=EVERYWHERE,
        hue="rome",
    ),
    "r_rome": Preset(
        "R-ROME",
        "Gupta et al. 2024",
        "https://arxiv.org/abs/2403.07175",
        "ROME with one key everywhere: the averaged one, met from where the averaged output is.",
        "locate_then_edit",
        ROME,
        {"keys": {"shared_key": True}},
        released=("gpt2-xl", "gpt-j-6b"),
        hue="rome",
    ),
    "c_rome": Preset(
        "C-ROME",
        "Yang et al. 2024",
        "https://arxiv.org/abs/2406.11263",
        "ROME with every key replaced by the averaged one; the same algebra as r_rome.",
        "locate_then_edit",
        ROME,
        {"keys": {"shared_key": True}},
        released=("gpt2-xl", "gpt-j-6b"),
    ),
    "emmet": Preset(
        "EMMET",
        "Gupta et al. 2024",
        "https://arxiv.org/abs/2403.14236",
        "ROME's objective for batches, with a ridge; in closed form MEMIT on one layer with another weight.",
        "locate_then_edit",
        EMMET,
        released=("gpt2-xl", "gpt-j-6b", "llama2-7b", "llama3-8b"),
        hue="pmet",
    ),
    "memit": Preset(
        "MEMIT",
        "Meng et al. 2023",
        "https://arxiv.org/abs/2210.07229",
        "Least squares over several layers, repeated on the edited model without memory of earlier edits.",
        "locate_then_edit",
        MEMIT,
        released=EVERYWHERE,
        hue="memit",
    ),
    "memit_seq": Preset(
        "MEMIT + history",
        "Fang et al. 2025 (baseline of AlphaEdit)",
        "https://arxiv.org/abs/2410.02355",
        "MEMIT that also preserves the keys of earlier edits.",
        "locate_then_edit",
        MEMIT,
        {"history": "keys"},
        _mini_weight(30.0),
        released=EVERYWHERE,
        hue="memit",
    ),
    "pmet": Preset(
        "PMET",
        "Li et al. 2024",
        "https://arxiv.org/abs/2308.08742",
        "MEMIT towards targets of the MLP's own output, optimised jointly with the attention's; residual shared out by roots.",
        "locate_then_edit",
        PMET,
        {"residual_schedule": "root"},
        released=("gpt-j-6b", "llama2-7b"),
        hue="pmet",
    ),
    "alphaedit": Preset(
        "AlphaEdit",
        "Fang et al. 2025",
        "https://arxiv.org/abs/2410.02355",
        "MEMIT with key history, confined to directions that text hardly uses; solved in those directions only, which is the same.",
        "locate_then_edit",
        {model_kind: settings for model_kind, settings in MEMIT.items() if model_kind != "llama2-7b"},
        {"history": "keys", "preservation": {"kind": "null_space", "threshold": 0.02, "weight": 10.0}},
        {"mini": {"preservation": {"weight": 1.0}}, "qwen2.5-7b": {"preservation": {"weight": 1.0}}},
        released=("gpt2-xl", "gpt-j-6b", "llama3-8b", "qwen2.5-7b"),
        hue="null_space",
    ),
    "nse": Preset(
        "NSE",
        "Jiang et al. 2024",
        "https://arxiv.org/abs/2410.04045",
        "MEMIT with key history and targets of the original model, in rounds over what is not there yet, on part of the neurons.",
        "locate_then_edit",
        NSE,
        {**AT_ORIGINAL, "history": "keys"},
        released=("gpt2-xl", "gpt-j-6b", "llama3-8b"),
        hue="null_space",
    ),
    "rect": Preset(
        "RECT",
        "Gu et al. 2024",
        "https://arxiv.org/abs/2401.04700",
        "MEMIT of which only the entries that change their weight most are written.",
        "locate_then_edit",
        MEMIT,
        {"step_transform": {"kind": "rect"}},
        released=("gpt2-xl", "gpt-j-6b", "llama3-8b"),
    ),
    "prune": Preset(
        "PRUNE",
        "Ma et al. 2025",
        "https://arxiv.org/abs/2405.16821",
        "MEMIT whose whole change has large singular values compressed.",
        "locate_then_edit",
        MEMIT,
        {"delta_transform": {"kind": "prune"}},
    ),
    "sphere": Preset(
        "SPHERE",
        "SPHERE (2025)",
        "https://github.com/PlusLabNLP/SPHERE",
        "AlphaEdit less half of what points along the main directions of the weight's rows.",
        "locate_then_edit",
        without(MEMIT, "llama2-7b"),
        {
            "history": "keys",
            "preservation": {"kind": "null_space", "threshold": 0.02, "weight": 10.0},
            "step_transform": {"kind": "sphere"},
        },
        _mini_weight(1.0),
    ),
    "simie": Preset(
        "SimIE",
        "SimIE (2025)",
        "https://openreview.net/forum?id=VdEG08ZJCH",
        "MEMIT with each step reduced to what its keys need beside all keys so far.",
        "locate_then_edit",
        MEMIT,
        {"step_transform": {"kind": "simie"}},
    ),
    "ote_se": Preset(
        "OTE-SE",
        "OTE-SE (one-time editing and sequential editing, 2026)",
        "",
        "MEMIT with key history and RECT, with each step making up for what the one before did not write.",
        "locate_then_edit",
        MEMIT,
        {"history": "keys", "step_transform": {"kind": "rect", "feedback": True}},
        _mini_weight(30.0),
    ),
    "lyaplock": Preset(
        "LyapLock",
        "LyapLock (2025)",
        "https://arxiv.org/abs/2505.15702",
        "All edits refitted with a weight of what is preserved that grows while too much of it is lost.",
        "locate_then_edit",
        MEMIT,
        {"history": "adaptive_refit", "preservation": {"weight": 1000.0}},
    ),
    "one_li": Preset(
        "1-LI",
        "after 1-LI (one-layer interpolation), known at second hand",
        "",
        "MEMIT taken only part of the way, as far as kept requests ask for.",
        "locate_then_edit",
        MEMIT,
        {"delta_transform": {"kind": "interpolate"}},
    ),
    "encore": Preset(
        "ENCORE",
        "Gupta et al. 2025",
        "https://arxiv.org/abs/2502.01636",
        "MEMIT with key history, a penalty on the norm of each change, and targets that stop once they are most likely.",
        "locate_then_edit",
        ENCORE,
        {"history": "keys"},
        _mini_weight(30.0),
        released=("gpt2-xl", "llama2-7b", "llama3-8b"),
    ),
    "nas": Preset(
        "NAS",
        "NAS (norm-anchor scaling, 2026)",
        "https://arxiv.org/abs/2602.02543",
        "AlphaEdit with targets rescaled so that the MLP puts out vectors of the usual norm.",
        "locate_then_edit",
        without(MEMIT, "llama2-7b"),
        {"history": "keys", "preservation": {"kind": "null_space", "threshold": 0.02, "weight": 10.0}, "anchor": {}},
        _mini_weight(1.0),
    ),
    "blue": Preset(
        "BLUE",
        "BLUE (bi-level edits of boundary layers, 2025)",
        "https://arxiv.org/abs/2502.03748",
        "MEMIT on the first and the last layer alone, each towards a target of its own.",
        "locate_then_edit",
        without(first_and_last(MEMIT), "llama2-7b", "qwen2.5-7b"),
        {"residual_schedule": "own"},
        released=("gpt2-xl", "gpt-j-6b", "llama3-8b"),
    ),
    "grace": Preset(
        "GRACE",
        "Hartvigsen et al. 2023, as configured in EasyEdit",
        "https://arxiv.org/abs/2211.11031",
        "Codebook beside one MLP output; no weight changes. For GPT-2 XL the release adapts the MLP's input projection instead.",
        "grace",
        GRACE,
        released=("gpt2-xl", "gpt-j-6b", "llama2-7b", "qwen2.5-7b"),
        hue="codebook",
    ),
    "d4s": Preset(
        "D4S",
        "Huang et al. 2024",
        "https://arxiv.org/abs/2410.23843",
        "All edits so far refitted from the original weights; residual measured once, shared out as 1/(L-i), as released.",
        "locate_then_edit",
        MEMIT,
        {**AT_ORIGINAL, "residual_schedule": "static", "history": "refit"},
        _mini_weight(100.0),
        released=("gpt-j-6b", "llama2-7b"),
        hue="d4s",
    ),
    "d4s_even": Preset(
        "D4S (even spread)",
        "Huang et al. 2024, residual schedule changed",
        "https://arxiv.org/abs/2410.23843",
        "D4S with equal shares of the residual, which add up to the whole.",
        "locate_then_edit",
        MEMIT,
        {**AT_ORIGINAL, "residual_schedule": "even", "history": "refit"},
        _mini_weight(100.0),
        hue="d4s",
    ),
    "d4s_frozen": Preset(
        "D4S (frozen keys)",
        "Huang et al. 2024, keys changed",
        "https://arxiv.org/abs/2410.23843",
        "D4S with keys of the original model everywhere, so that the order of edits does not matter.",
        "locate_then_edit",
        MEMIT,
        {**AT_ORIGINAL, "residual_schedule": "static", "history": "refit", "keys": {"mode": "frozen"}},
        _mini_weight(100.0),
    ),
    "d4s_refreshed": Preset(
        "D4S (refreshed keys)",
        "Huang et al. 2024, keys and residuals changed",
        "https://arxiv.org/abs/2410.23843",
        "D4S with residuals measured after each layer, and keys and residuals of all edits read again every 50 edits.",
        "locate_then_edit",
        MEMIT,
        {**AT_ORIGINAL, "history": "refit", "keys": {"mode": "refreshed"}},
        _mini_weight(100.0),
    ),
    "one_time_batch": Preset(
        "One-time batch",
        "Meng et al. 2023",
        "https://arxiv.org/abs/2210.07229",
        "The same requests as one MEMIT batch from the original weights, preserving as D4S does: the reference that D4S should reach.",
        "one_time_batch",
        MEMIT,
        AT_ORIGINAL,
        _mini_weight(100.0),
        released=EVERYWHERE,
        hue="batch",
    ),
}
"""In the order in which methods are listed and drawn."""

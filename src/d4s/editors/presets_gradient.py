"""Presets of editors that tune or regress on gradients of many requests at once: rows of the table in `presets.py`, which merges them in.

Released values are those of zsRE. Plain values only: `editor_settings.py` checks them.
"""

from collections.abc import Mapping

from d4s.editors.hparams import HParams
from d4s.editors.preset import Preset

LOCFT: Mapping[str, HParams] = {
    "mini": {"layer": 4, "lr": 5e-3, "minibatch": 10},
    "llama3-8b": {"layer": 22},
    "qwen2.5-7b": {"layer": 6},
}


def _layers(*ranges: tuple[int, int]) -> tuple[int, ...]:
    """Layers of ranges, ends included."""
    return tuple(layer for first, last in ranges for layer in range(first, last + 1))


ULTRAEDIT: Mapping[str, HParams] = {
    "mini": {"layers": (3, 4, 5), "lr": 5e-4, "batch": 10},
    "gpt-j-6b": {"layers": _layers((18, 26))},
}
STABLEEDIT: Mapping[str, HParams] = {
    "mini": {"layers": (3, 4, 5), "lr": 1e-3, "batch": 10, "warm_up": 200},
    "gpt-j-6b": {"layers": _layers((7, 15), (18, 25)), "lr": 2e-6, "warm_up": 2000},
    "llama3-8b": {"layers": (11, 12, 22, 23, 28, 29, 30), "warm_up": 2000},
    "qwen2.5-7b": {"layers": _layers((8, 14), (18, 25)), "lr": 2e-6, "warm_up": 2000},
}

GRADIENT_PRESETS: Mapping[str, Preset] = {
    "locft_bf": Preset(
        "LocFT-BF",
        "Yang et al. 2026",
        "https://arxiv.org/abs/2509.22072",
        "Breadth-first fine-tuning: epochs over all requests from the original weights, one matrix, with the EOS after every target. The "
        "release tunes a whole block of Mistral, which is left out.",
        "locft",
        LOCFT,
        {"state_kind": "refit"},
        released=("llama3-8b", "qwen2.5-7b"),
        hue="fine_tuning",
    ),
    "locft_seq": Preset(
        "LocFT (in batches)",
        "Yang et al. 2026, applied to a sequence",
        "https://arxiv.org/abs/2509.22072",
        "LocFT-BF's epochs over each batch of a sequence, from the weights that the batch before left.",
        "locft",
        LOCFT,
        {"state_kind": "dense", "batch": 100},
        {"mini": {"layer": 5, "lr": 1e-3, "batch": 10}},
        released=("llama3-8b", "qwen2.5-7b"),
        hue="fine_tuning",
    ),
    "crispedit": Preset(
        "CrispEdit",
        "Ikram et al. 2026",
        "https://arxiv.org/abs/2602.15823",
        "LocFT-BF whose steps stay out of the directions along which the loss of text bends most. The release tunes five layers together "
        "and projects gradients before Adam, whose scaling leaves the free directions (`protect.order: project_then_adam`).",
        "locft",
        {"mini": LOCFT["mini"]},
        {"state_kind": "refit", "eos": False, "protect": {}},
        hue="fine_tuning",
    ),
    "ultraedit": Preset(
        "UltraEdit",
        "Gu et al. 2026",
        "https://arxiv.org/abs/2505.14679",
        "Ridge regression from keys at the targets' tokens to gradients there, normalised over all turns so far; no training, no subject. "
        "The release edits the MLP's gate and input projections of Llama-3 and Qwen2.5, which are left out.",
        "gradient_regression",
        ULTRAEDIT,
        released=("gpt-j-6b",),
    ),
    "stableedit": Preset(
        "StableEdit",
        "Ma et al. 2026",
        "https://arxiv.org/abs/2605.11836",
        "UltraEdit with whitened gradients, a ridge of 10, and statistics taken before the first edit; the release also writes the edits "
        "that those are taken from.",
        "gradient_regression",
        STABLEEDIT,
        {"whiten": True, "ridge": 10.0},
        released=("gpt-j-6b", "llama3-8b", "qwen2.5-7b"),
    ),
}

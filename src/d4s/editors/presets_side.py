"""Presets of editors with a trained memory beside one layer: rows of the table in `presets.py`, which merges them in.

Values of `mini` are starting values, not tuned: those released for other models, at the same relative depth, with margins relative to
what the matrix puts out. Plain values only: `editor_settings.py` checks them.
"""

from collections.abc import Mapping

from d4s.editors.hparams import HParams
from d4s.editors.preset import Preset

WISE_AS_RELEASED: HParams = {"weight_decay": 1e-5, "margins": "absolute"}


def _wise(layer: int, margins: tuple[float, float, float], steps: int = 70, lr: float = 1.0, act_ratio: float = 0.88) -> HParams:
    alpha, beta, gamma = margins
    own = {"layer": layer, "steps": steps, "lr": lr, "act_ratio": act_ratio}
    return {**WISE_AS_RELEASED, **own, "alpha": alpha, "beta": beta, "gamma": gamma}


WISE: Mapping[str, HParams] = {
    "mini": {"layer": 4},
    "gpt-j-6b": _wise(21, (15.0, 40.0, 20.0)),
    "llama2-7b": _wise(27, (5.0, 20.0, 10.0)),
    "llama3-8b": _wise(29, (2.0, 20.0, 10.0), steps=30, lr=0.9, act_ratio=0.5),
    "qwen2.5-7b": _wise(23, (5.0, 20.0, 10.0)),
}
MEMOIR: Mapping[str, HParams] = {
    "mini": {"layer": 4, "columns": 215, "overlap": 0.48, "state_kind": "additive"},
    "gpt-j-6b": {"layer": 21, "columns": 4096, "overlap": 0.46, "weight_decay": 1e-5},
    "llama3-8b": {"layer": 27, "steps": 30, "columns": 4096, "overlap": 0.4, "weight_decay": 1e-5},
}
DEFER: Mapping[str, HParams] = {
    "mini": {"layer": 4, "lr": 1e-3},
    "llama2-7b": {"layer": 27},
}
T_PATCHER: Mapping[str, HParams] = {"mini": {"layer": 5, "steps": 100, "hardest": 100}}
MELO: Mapping[str, HParams] = {"mini": {"layer": 4, "radius": 3.0, "lr": 1e-2, "stop_loss": 0.05}}

SIDE_PRESETS: Mapping[str, Preset] = {
    "wise": Preset(
        "WISE",
        "Wang et al. 2024, as configured in EasyEdit",
        "https://arxiv.org/abs/2405.14768",
        "A side copy of one MLP output matrix, trained at a share of its entries, behind a gate that measures how far it moves the output. "
        "The release trains GPT-2 XL's input projection, which is left out.",
        "wise",
        WISE,
        released=("gpt-j-6b", "llama2-7b", "llama3-8b", "qwen2.5-7b"),
    ),
    "memoir": Preset(
        "MEMOIR",
        "Wang et al. 2025",
        "https://arxiv.org/abs/2506.07899",
        "A residual matrix beside one MLP output matrix, of which every edit has columns of its own; prompts that share enough of them are "
        "answered through them.",
        "memoir",
        MEMOIR,
        released=("gpt-j-6b", "llama3-8b"),
    ),
    "defer": Preset(
        "DEFER",
        "Hartvigsen et al. 2023 (baseline of GRACE), as configured in EasyEdit",
        "https://arxiv.org/abs/2211.11031",
        "A linear gate and a linear stand-in for one MLP output matrix, trained on every request in turn; forgets by construction.",
        "defer",
        DEFER,
        released=("llama2-7b",),
    ),
    "t_patcher": Preset(
        "T-Patcher",
        "Huang et al. 2023 (Transformer-Patcher)",
        "https://arxiv.org/abs/2301.09785",
        "One more neuron beside the last MLP for each token of the target that is wrong, trained to stay silent on other text. The release "
        "edits BERT and BART, so the values are ours for this kind of model; not tuned.",
        "t_patcher",
        T_PATCHER,
    ),
    "melo": Preset(
        "MELO",
        "Yu et al. 2024",
        "https://arxiv.org/abs/2312.11795",
        "Low-rank factors of their own for every batch of requests, picked by a codebook of clusters of keys; other prompts have the "
        "unedited model. The release trains GPT-2 XL's input projections, which is left out; not tuned.",
        "melo",
        MELO,
    ),
}

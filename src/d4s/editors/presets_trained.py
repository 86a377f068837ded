"""Presets of editors whose network is trained before any edit: rows of the table in `presets.py`, which merges them in.

Only MLP output matrices are edited, so a column is there where the release edits some of those. Plain values only:
`editor_settings.py` checks them.
"""

from collections.abc import Mapping

from d4s.editors.hparams import HParams, merge_hparams
from d4s.editors.preset import Preset

RELEASED_FACTS = 163_000  # of zsRE's training split
MEND_RULES: HParams = {"kind": "trained", "scaled": "before", "edits": 1, "accumulate": 10, "edit_weight": 0.1, "clip": 100.0}
MEND_RELEASED: HParams = {
    "network": {
        **MEND_RULES,
        "facts": RELEASED_FACTS,
        "steps": 10_000,
        "lr": 1e-6,
        "rate_lr": 1e-4,
        "check_every": 100,
        "patience": 20,
    }
}
SHORT: HParams = {"rank": 64}
"""Of the embedded model's networks: with the steps below at most five minutes of one core each, and not tuned."""
MEND: Mapping[str, HParams] = {
    "mini": {"layers": (3, 4, 5), "lr": 1e-3, "network": {**MEND_RULES, **SHORT, "steps": 300}},
    "gpt2-xl": {"layers": (45, 46, 47), **MEND_RELEASED},
    "gpt-j-6b": {"layers": (25, 26, 27), **MEND_RELEASED},
    "llama2-7b": {"layers": (29, 30, 31), **MEND_RELEASED},
    "llama3-8b": {"layers": (29, 30, 31), **MEND_RELEASED},
    "qwen2.5-7b": merge_hparams(MEND_RELEASED, {"layers": (25, 26, 27), "network": {"steps": 2_000}}),
}
MALMEN: Mapping[str, HParams] = {
    "mini": {"layers": (3, 4, 5), "lr": 2e-3, "batch": 10, "network": {"kind": "trained", **SHORT, "steps": 1_000}},
    "gpt-j-6b": {
        "layers": (22, 23, 24, 25, 26, 27),
        "batch": 512,
        "network": {"kind": "trained", "edits": 512, "facts": RELEASED_FACTS},
    },
}
RLEDIT_RULES: HParams = {"kind": "trained", "blocks": 4, "back": 10, "discount": 0.95, "locality_weight": 0.6, "norm_weight": 1e-4}
RLEDIT: Mapping[str, HParams] = {
    "mini": {
        "layers": (3, 4, 5),
        "lr": 2e-3,
        "batch": 10,
        "network": {**RLEDIT_RULES, **SHORT, "steps": 150, "turns": 5, "check_every": 10},
    },
}

TRAINED_PRESETS: Mapping[str, Preset] = {
    "mend": Preset(
        "MEND",
        "Mitchell et al. 2022",
        "https://arxiv.org/abs/2110.11309",
        "The gradient's outer products, rewritten token by token by a network that is trained before any edit. The release edits the other "
        "MLP matrices of the last three blocks too. On the embedded model the training is far shorter than the release's, and not tuned.",
        "mend",
        MEND,
        released=("gpt2-xl", "gpt-j-6b", "llama2-7b", "llama3-8b", "qwen2.5-7b"),
    ),
    "malmen": Preset(
        "MALMEN",
        "Tan et al. 2024",
        "https://arxiv.org/abs/2311.04661",
        "UltraEdit's regression with keys and gradients that a trained network rewrites, and the raw key in the coefficient. The number of "
        "steps of training is ours; on the embedded model they are few, and not tuned.",
        "gradient_regression",
        MALMEN,
        {"coefficient": "mixed"},
        released=("gpt-j-6b",),
    ),
    "rledit": Preset(
        "RLEdit",
        "Li et al. 2025",
        "https://arxiv.org/abs/2502.05759",
        "MALMEN's regression, its network trained along sequences of turns without putting weights back in between. The release edits the "
        "MLP's gate and input projections of Llama-3, which are left out, in longer sequences; this short training is not tuned.",
        "gradient_regression",
        RLEDIT,
        {"coefficient": "mixed"},
    ),
}

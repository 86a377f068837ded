"""Presets of SAUL: fine-tuning whose targets are followed by true sentences, request by request and as mass editing.

What the source says is the objective; models, layer, learning rate and the number of sentences are not known from it, so no value
is a released one.
"""

from collections.abc import Mapping

from d4s.editors.hparams import FINE_TUNE, HParams
from d4s.editors.preset import Preset

PAPER, ADDRESS = "Wang et al. 2024", "https://arxiv.org/abs/2410.02433"
OBJECTIVE: HParams = {"objective": "target", "bound": None, "regularize": {"kind": "concatenated"}}
MINI: HParams = {"layer": 2}
SAUL_PRESETS: Mapping[str, Preset] = {
    "saul": Preset(
        "SAUL",
        PAPER,
        ADDRESS,
        "After SAUL: fine-tuning on each target with a true sentence behind it, loss on both; one request after another, all numbers ours.",
        "fine_tune",
        FINE_TUNE,
        OBJECTIVE,
        {"mini": MINI},
        hue="regularized",
    ),
    "saul_mass": Preset(
        "SAUL (mass)",
        PAPER,
        ADDRESS,
        "After SAUL: a hundred requests as one batch, in epochs of minibatches, as the paper edits; all numbers ours.",
        "fine_tune",
        FINE_TUNE,
        {**OBJECTIVE, "batch": 100, "schedule": {"minibatch": 10, "epochs": 8}},
        {"mini": MINI},
        hue="regularized",
    ),
}

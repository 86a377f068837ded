"""Presets that are MEMIT but for the loss of their targets: rows of the table in `presets.py`, which merges them in.

Values of `mini` are those of MEMIT, with weights that are released for other models; they are not tuned. Plain values only:
`editor_settings.py` checks them.
"""

from collections.abc import Mapping

from d4s.editors.hparams import MEMIT, HParams, merge_hparams
from d4s.editors.preset import Preset

CORE: Mapping[str, HParams] = {
    **MEMIT,
    "llama3-8b": merge_hparams(MEMIT["llama3-8b"], {"target": {"lr": 0.5, "weight_decay": 1e-3, "clamp": 3.0}}),
}


def _eamet(weight: float, clamp: float) -> HParams:
    """Released settings of a model."""
    target = {"layer": 4, "steps": 25, "lr": 0.04, "clamp": clamp, "kl_weight": 0.0625, "weight_decay": 0.0, "stop_loss": 0.01}
    return {"layers": (3, 4), "target": target, "preservation": {"kind": "moments", "weight": weight}}


EAMET: Mapping[str, HParams] = {
    "mini": merge_hparams(MEMIT["mini"], {"target": {"align": {"clamp_to": "hidden"}}}),
    "llama2-7b": _eamet(4_000.0, 2.0),
    "llama3-8b": _eamet(15_000.0, 2.0),
    "qwen2.5-7b": _eamet(6_000.0, 1.5),
}


def _anyedit(windows: int) -> HParams:
    """Released settings of a model: those of Llama-3-8B-Instruct but for the tokens of a window."""
    target = {"layer": 8, "steps": 25, "lr": 0.5, "clamp": 4.0, "weight_decay": 1e-3, "stop_loss": 0.01, "windows": windows}
    return {"layers": tuple(range(4, 9)), "target": target, "preservation": {"kind": "moments", "weight": 15_000.0}}


ANYEDIT: Mapping[str, HParams] = {
    "mini": merge_hparams(MEMIT["mini"], {"target": {"windows": 40}}),
    "llama3-8b": _anyedit(40),
    "qwen2.5-7b": _anyedit(50),
}

TARGET_PRESETS: Mapping[str, Preset] = {
    "core": Preset(
        "CoRE",
        "Park et al. 2025",
        "https://arxiv.org/abs/2505.23026",
        "MEMIT whose targets also keep hidden states above them alike behind all prefixes. Prefixes are the study's; the release makes "
        "some for each request from its subject and both objects, and its values are of the instruct model. Others are not tuned.",
        "locate_then_edit",
        CORE,
        {"target": {"consistency": {"weight": 0.01}}},
        released=("llama3-8b",),
    ),
    "eamet": Preset(
        "EAMET",
        "Dai et al. 2026",
        "https://arxiv.org/abs/2505.11876",
        "MEMIT in batches whose targets are optimised in turn, at the angles to each other that their keys have. The release edits all "
        "requests as one batch; EasyEdit's values for Qwen2.5-7B are others. Those of the embedded model are MEMIT's, not tuned.",
        "locate_then_edit",
        EAMET,
        {"target": {"align": {"kl": 2.0, "mse": 8.0}}, "batch": 100},
        {"mini": {"batch": 10}},
        released=("llama2-7b", "llama3-8b", "qwen2.5-7b"),
    ),
    "anyedit": Preset(
        "AnyEdit",
        "Jiang et al. 2025",
        "https://arxiv.org/abs/2502.05628",
        "MEMIT for long answers: cut into windows, each with a target of its own at the token before it, and all other tokens of the "
        "text preserved. An answer of one window is MEMIT at the end of the unprefixed prompt. The release takes each edit back before "
        "the next unless told not to, and preserves filler where texts of a batch differ in length. Values of the embedded model are "
        "MEMIT's, not tuned.",
        "locate_then_edit",
        ANYEDIT,
        {"target": {"position": "prompt_last", "prefixes": False, "kl_weight": 0.0}, "keys": {"context": True}},
        released=("llama3-8b", "qwen2.5-7b"),
    ),
}

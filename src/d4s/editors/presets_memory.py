"""Presets of editors with a memory of texts. Column `mini` only: the release edits other kinds of models, with other routers."""

from collections.abc import Mapping

from d4s.editors.preset import Preset

MEMORY_PRESETS: Mapping[str, Preset] = {
    "serac": Preset(
        "SERAC",
        "Mitchell et al. 2022",
        "https://arxiv.org/abs/2206.06520",
        "A memory of edits as texts; in the scope of one, which a trained router tells, the model answers with it in context. The paper "
        "trains a second model for that (`answer: trained`); all numbers ours.",
        "serac",
        {"mini": {"encoder": {"kind": "hidden", "layer": 3}}},
        hue="memory",
    ),
}

"""Presets of editors with a memory of texts. SERAC has column `mini` only: the release edits other kinds of models, with other routers."""

from collections.abc import Mapping

from d4s.editors.hparams import MEMIT, HParams
from d4s.editors.preset import Preset

ANY_MODEL: Mapping[str, HParams] = {model_kind: {} for model_kind in MEMIT}
ICE: HParams = {"threshold": None, "context": "New Fact: {prompt} {target}\nPrompt: "}
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
    "retrieve": Preset(
        "Retrieval",
        "He, Song, Sun 2025 (SCR), without its dense retriever",
        "https://arxiv.org/abs/2503.05212",
        "A memory of edits as texts; the nearest one, found by BM25 over tokens, is put before a prompt that is near enough.",
        "in_context",
        ANY_MODEL,
        hue="memory",
    ),
    "ice": Preset(
        "ICE",
        "as in EasyEdit (IKE without demonstrations)",
        "https://github.com/zjunlp/EasyEdit",
        "The nearest of all edits stands before every prompt, also an unrelated one. The release puts the present edit there.",
        "in_context",
        ANY_MODEL,
        ICE,
        hue="memory",
    ),
    "ike": Preset(
        "IKE",
        "Zheng et al. 2023",
        "https://arxiv.org/abs/2305.12740",
        "ICE behind up to 32 demonstrations: made-up edits of other facts that copy, update or retain an answer, the nearest last. Found "
        "by BM25 where the release has a sentence encoder; not tuned.",
        "in_context",
        ANY_MODEL,
        {**ICE, "demonstrations": {}},
        hue="memory",
    ),
}

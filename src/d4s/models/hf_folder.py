"""A whole model as a Hugging Face folder that Transformers 4 and 5 read alike.

The tokenizer is not edited, so its files are those of the original, byte for byte. In the configuration stands what the
original's says, the precision of the weights, and the names that either version looks for. What version 5 alone can read is said
in words of both: it writes the rotary angles and the tokenizer's class under names that version 4 takes for absent or unknown.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d4s.artifacts import write_json
from d4s.model_files import CONFIG, TOKENIZER_CONFIG
from d4s.models.language_model import LanguageModel
from d4s.pretrained import read_json_object, tokenizer_files

NEW_CLASS, OLD_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
LENGTH = "original_max_position_embeddings"
OLD_NAMES = {
    "rope_theta": ("rope_theta", "rotary_emb_base"),
    "partial_rotary_factor": ("partial_rotary_factor", "rotary_pct"),
}
"""Names at the top of version 4's configurations for entries of version 5's `rope_parameters`."""


def save_hf_folder(folder: Path, model: LanguageModel) -> None:
    """Write the network as it is now and its tokenizer into a new folder.

    What the tokenizer's `name_or_path` names is taken for the original of both; without a name both are written from memory.
    """
    network, tokenizer = model.network, model.tokenizer
    name, revision = str(tokenizer.name_or_path), str(getattr(network.config, "_commit_hash", None) or "main")
    network.save_pretrained(folder)
    written = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    original = read_json_object(name, CONFIG, revision) if name else {}
    if original.get("model_type") == written["model_type"]:
        written = original | {key: written[key] for key in ("architectures", "rope_parameters") if key in written}
    write_json(
        folder / CONFIG,
        config_for_both_versions(written) | dict.fromkeys(("dtype", "torch_dtype"), str(model.dtype).removeprefix("torch.")),
    )
    files = tokenizer_files(name, revision) if name else {}
    if not files:
        tokenizer.save_pretrained(folder)
    for file, path in files.items():
        (folder / file).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, folder / file)
    if settings := read_json_object(str(folder), TOKENIZER_CONFIG):
        write_json(folder / TOKENIZER_CONFIG, tokenizer_for_both_versions(settings))


def config_for_both_versions(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the rotary angles under the names of both versions; what stands there already stays."""
    angles = config.get("rope_parameters") or {}
    local, full = angles.get("sliding_attention"), angles.get("full_attention", angles)
    old: dict[str, Any] = {name: full[new] for new, names in OLD_NAMES.items() if new in full for name in names}
    if isinstance(local, dict):
        old["rope_local_base_freq"] = local["rope_theta"]
    kind = full.get("rope_type", "default")
    if kind != "default":
        old["rope_scaling"] = {key: value for key, value in full.items() if key not in OLD_NAMES}
    if kind == "longrope":  # Phi-3 of version 4 wants exactly the two lists and their kind, which it calls `type`
        old |= {key: old["rope_scaling"].pop(key) for key in (LENGTH,) if key in full}
        old["rope_scaling"]["type"] = old["rope_scaling"].pop("rope_type")
    return {**old, **config}


def tokenizer_for_both_versions(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer's settings with a class that both versions know, and its further special tokens as version 4 names them."""
    found = dict(settings)
    if found.get("tokenizer_class") == NEW_CLASS:
        found["tokenizer_class"] = OLD_CLASS
    if isinstance(found.get("extra_special_tokens"), list):
        found["additional_special_tokens"] = found.pop("extra_special_tokens")
    return found

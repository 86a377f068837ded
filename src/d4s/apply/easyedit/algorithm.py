"""What is said of one of EasyEdit's algorithms, and the rules of keys that many have."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from d4s.apply.easyedit.key_rules import Ignored, Rule, Same
from d4s.editors.hparams import HParams


@dataclass(frozen=True)
class Algorithm:
    """An algorithm that we have: the presets that take its settings, the rule of each key, and what the method itself fixes.

    Where a key says which preset it is, `presets` are its possible ones. Of each tuple of `one_of` a file must have a key. `around` are
    the algorithms that it changes: their file has the same name in the folder of that algorithm, as in EasyEdit.
    """

    presets: tuple[str, ...]
    rules: Mapping[str, Rule]
    fixed: HParams = field(default_factory=dict)
    one_of: tuple[tuple[str, ...], ...] = ()
    around: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Absent:
    """An algorithm whose files are not translated: why, and the preset that comes nearest (none where nothing does)."""

    reason: str
    nearest: str = ""


NO_DROPOUT = Same((0,), "models are edited in evaluation mode, without dropout")
EDITED_ALONE = Ignored("gradients are taken at the edited matrices alone")
COMMON: Mapping[str, Rule] = {
    "alg_name": Ignored("--editor says it"),
    "model_name": Ignored("--model says it"),
    "model_class": Ignored("read from the model's config.json"),
    "tokenizer_class": Ignored("read from the model's folder"),
    "tokenizer_name": Ignored("read from the model's folder"),
    "device": Ignored("CUDA where there is one"),
    "model_parallel": Ignored("a model in memory keeps its `device_map` (d4s.edit)"),
    "fp16": Ignored("--dtype says it"),
    "bf16": Ignored("--dtype says it"),
    "half": Ignored("--dtype says it"),
    "max_length": Ignored("texts are not cut; what is too long for the model is refused"),
    "results_dir": Ignored("--out says it"),
    "stats_dir": Ignored("moments are kept with the edited folder"),
    "silent": Ignored("--verbose logs every step"),
    "use_chat_template": Ignored("--chat says it"),
}
"""Keys of every algorithm."""

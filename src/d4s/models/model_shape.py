"""The sizes of a model that determine memory and time, from its `config.json` alone or from its training settings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d4s.config import PretrainSettings, TokenizerSettings
from d4s.errors import D4SError
from d4s.models.model_source import is_gguf, known_folder
from d4s.study_settings import HFModel, TrainedModel

PLAIN_MLPS = frozenset(
    {"gpt2", "gptj", "gpt_neo", "gpt_neox", "gpt_bigcode", "starcoder2", "phi"}
)  # two MLP matrices, up and down; all other families have a gate too
TIED = frozenset({"gpt2", "gemma", "gemma2", "gemma3_text"})
BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
WORLD_WORDS = 1000  # an upper bound: a closed vocabulary of the world has fewer words


class UnknownShape(D4SError):
    """A model whose configuration is not on this machine, or lacks sizes."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a network; `width` is that of the residual stream, `mlp_width` the length of a key."""

    model_type: str
    layers: int
    width: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    positions: int
    is_gated: bool
    is_tied: bool

    @property
    def settings_shape(self) -> tuple[str, int, int, int]:
        """What settings of editors are made for: architecture, blocks, width of the residual stream and of a key."""
        return self.model_type, self.layers, self.width, self.mlp_width

    @property
    def kv_width(self) -> int:
        """Width of a token's attention keys, and of its values."""
        return self.kv_heads * self.head_width

    @property
    def block_parameters(self) -> int:
        """Number of weights in one block."""
        attention = 2 * self.width * (self.heads * self.head_width + self.kv_width)
        return attention + (3 if self.is_gated else 2) * self.width * self.mlp_width

    @property
    def parameters(self) -> int:
        """Number of weights in the network, without biases and norms."""
        embeddings = (1 if self.is_tied else 2) * self.vocabulary * self.width
        positions = self.positions * self.width if not self.is_gated else 0
        return self.layers * self.block_parameters + embeddings + positions

    @property
    def mlp_out(self) -> int:
        """Number of entries of an MLP output matrix, which editors change."""
        return self.width * self.mlp_width


def shape_of(config: Mapping[str, Any], where: str = "config.json") -> Shape:
    """The shape described by a Hugging Face configuration.

    Raises:
        UnknownShape: naming every size that is missing.
    """
    kind = str(config.get("model_type"))
    found: dict[str, int | None] = {
        "layers": _first(config, "n_layer", "num_hidden_layers", "num_layers"),
        "width": _first(config, "n_embd", "hidden_size"),
        "heads": _first(config, "n_head", "num_attention_heads", "num_heads"),
        "vocabulary": _first(config, "vocab_size"),
        "positions": _first(config, "n_positions", "max_position_embeddings"),
    }
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise UnknownShape(f"{where} (model type {kind!r}) does not say {', '.join(missing)}")
    sizes = {name: value for name, value in found.items() if value is not None}
    return Shape(
        model_type=kind,
        **sizes,
        mlp_width=_first(config, "n_inner", "intermediate_size") or 4 * sizes["width"],
        kv_heads=_first(config, "num_key_value_heads") or sizes["heads"],
        head_width=_first(config, "head_dim") or sizes["width"] // sizes["heads"],
        is_gated=kind not in PLAIN_MLPS,
        is_tied=bool(config.get("tie_word_embeddings", kind in TIED)),
    )


def _first(config: Mapping[str, Any], *names: str) -> int | None:
    return next((int(config[name]) for name in names if isinstance(config.get(name), int)), None)


def shape_at(path: str, revision: str = "main") -> Shape:
    """The shape of a model in a local folder, or of a hub model whose configuration is in the local cache.

    Raises:
        UnknownShape: if its configuration is not on this machine or does not say every size; says which, or how to get it.
    """
    return shape_of(config_at(path, revision), path)


def config_at(path: str, revision: str = "main") -> Mapping[str, Any]:
    """The configuration of a model on this machine: in a folder, fetched, dequantised, or in the hub's cache.

    Raises:
        UnknownShape: if it is not on this machine; says how to get it.
    """
    file = Path(known_folder(path)) / "config.json"
    if not file.is_file():
        if is_gguf(path):
            raise UnknownShape(f"{path} was not dequantised yet; that is done at its first use: d4s doctor --model {path}")
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = None if Path(path).is_absolute() else try_to_load_from_cache(path, "config.json", revision=revision)
        except HFValidationError:
            raise UnknownShape(f"{path} is neither a folder with a config.json nor a hub id; check the path") from None
        if not isinstance(cached, str):
            at = "" if revision == "main" else f" --revision {revision}"
            or_fetch = "" if "/" in path else f", or d4s fetch {path}"
            raise UnknownShape(f"no config.json of {path} is on this machine; fetch it with: hf download {path} config.json{at}{or_fetch}")
        file = Path(cached)
    return json.loads(file.read_text(encoding="utf-8"))


def shape_of_model(model: TrainedModel) -> Shape:
    """The shape of a study's model: from its training settings, or from its configuration."""
    if isinstance(model, HFModel):
        return shape_at(model.path, model.revision)
    return _trained(model.pretrain, model.corpus.tokenizer)


def _trained(settings: PretrainSettings, tokenizer: TokenizerSettings) -> Shape:
    return Shape(
        model_type="gpt2",
        layers=settings.layers,
        width=settings.width,
        mlp_width=settings.mlp_width,
        heads=settings.heads,
        kv_heads=settings.heads,
        head_width=settings.width // settings.heads,
        vocabulary=tokenizer.vocabulary if tokenizer.kind == "bpe" else WORLD_WORDS,
        positions=settings.positions,
        is_gated=False,
        is_tied=True,
    )

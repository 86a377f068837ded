"""Names of the files that define a model; kept apart so that nothing heavy is imported for them."""

import re
from collections.abc import Sequence
from pathlib import Path

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
CONFIG, TOKENIZER_CONFIG, TOKENIZER, INDEX = "config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors.index.json"
TOKENIZER_FILES = (
    TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tekken.json",
    "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tiktoken.model", "chat_template.jinja", "chat_template.json",
    "additional_chat_templates/*.jinja",
)  # fmt: skip
MODEL_FILES = (CONFIG, "generation_config.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES)


def list_model_files(folder: Path) -> list[Path]:
    """Every file of a folder that defines the model: configuration, weights with their index, tokenizer, chat templates."""
    return glob_files(folder, MODEL_FILES)


def glob_files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of a folder that match one of the patterns, sorted by name."""
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})

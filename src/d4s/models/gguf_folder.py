"""A GGUF file as an ordinary Hugging Face folder: its weights dequantised to float32, its tokenizer, and a card that says so.

Dequantised weights are exactly the numbers that the file stands for. llama.cpp computes with rounded activations, so its
answers to the same weights may differ in the last digits.
"""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from d4s.artifacts import write_json, write_text
from d4s.digests import cached_sha256
from d4s.errors import ArtifactError
from d4s.locks import new_folder
from d4s.model_files import CONFIG
from d4s.models.hf_folder import save_hf_folder
from d4s.models.loading import wrap
from d4s.models.model_source import dequantised_folder
from d4s.pretrained import read_gguf

if TYPE_CHECKING:
    from gguf import GGUFReader

log = logging.getLogger(__name__)
RECORD = "dequantised.json"
CARD = "README.md"


def dequantise(file: Path) -> Path:
    """The folder with a GGUF file's dequantised weights; made once per content, under the models folder.

    Raises:
        ArtifactError: if Transformers cannot read the file, or no editor could edit the model.
        D4SError: if another command is making the folder.
    """
    folder = dequantised_folder(file)
    if not (folder / CONFIG).is_file():
        with new_folder(folder) as part:
            part.mkdir()
            write_dequantised(file, part, file)
            log.info("%s: dequantised into %s, which is used from now on", file, folder)
    return folder


def write_dequantised(file: Path, folder: Path, kept_at: Path, card: str = "") -> None:
    """Write a GGUF file's model into a folder that exists.

    Args:
        file: The GGUF file.
        folder: Gets configuration, weights in safetensors, tokenizer, card and a record of the file.
        kept_at: Where the file will be found afterwards; for `d4s export --format gguf`.
        card: What the card says first, in Markdown.

    Raises:
        ArtifactError: if Transformers cannot read the file, or no editor could edit the model.
    """
    types = count_types(file)
    log.info("%s: dequantising %s; this takes about half a minute per 100 million weights", file.name, _listed(types))
    network, tokenizer = read_gguf(file)
    tokenizer.name_or_path = ""  # it is written from memory, since no folder holds it
    save_hf_folder(folder, wrap(network, tokenizer))
    digest = cached_sha256(file)
    write_json(folder / RECORD, {"file": str(kept_at.resolve()), "sha256": digest, "types": types})
    text = card or f"# {file.stem}\n\nThe model of the GGUF file `{file.name}`."
    write_text(
        folder / CARD,
        f"{text}\n\nIts weights are the numbers of a GGUF file ({_listed(types)}; sha256 `{digest}`), dequantised to float32. "
        "They are those of the quantised model, not of the model it was quantised from.\n",
    )


def count_types(file: Path) -> dict[str, int]:
    """How many tensors of a GGUF file are stored in each type, the most common first.

    Raises:
        ArtifactError: if it is no whole GGUF file.
    """
    return dict(Counter(tensor.tensor_type.name for tensor in open_gguf(file).tensors).most_common())


def open_gguf(file: Path) -> "GGUFReader":
    """The metadata and tensors of a GGUF file, as they are stored.

    Raises:
        ArtifactError: if it is no whole GGUF file.
    """
    from gguf import GGUFReader

    try:
        return GGUFReader(file)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise ArtifactError(f"{file} is no whole GGUF file: {error}") from None


def gguf_of(folder: Path) -> tuple[Path, str] | None:
    """The GGUF file that a folder was dequantised from, and its sha256; None for any other folder."""
    record = folder / RECORD
    if not record.is_file():
        return None
    found = json.loads(record.read_text(encoding="utf-8"))
    return Path(found["file"]), str(found["sha256"])


def _listed(types: dict[str, int]) -> str:
    return ", ".join(f"{count} tensors in {name}" for name, count in types.items())

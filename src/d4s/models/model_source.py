"""What a user names as a model, as a Hugging Face folder or a hub id.

| named | read from |
|---|---|
| a folder, or a hub id | as it is |
| a name of `d4s fetch`, such as `smollm2-135m` | its folder in the models folder |
| `FILE.gguf` | a folder in the models folder with its weights dequantised, made at the first use |

The models folder is `D4S_MODELS`, or `d4s/models` in the user's cache.
"""

import os
from pathlib import Path

from d4s.digests import cached_sha256, user_cache_folder
from d4s.errors import ArtifactError
from d4s.model_files import CONFIG, list_model_files

GGUF = ".gguf"


def models_folder() -> Path:
    """Where fetched and dequantised models are."""
    return Path(os.environ.get("D4S_MODELS") or user_cache_folder() / "models")


def is_gguf(source: str | Path) -> bool:
    """Whether a source is a GGUF file by its name, and no folder."""
    return Path(source).suffix.lower() == GGUF and not Path(source).is_dir()


def known_folder(source: str | Path) -> str:
    """The folder or hub id that a source stands for, without making anything; a GGUF file not dequantised yet stays as it is."""
    if is_gguf(source):
        folder = dequantised_folder(Path(source)) if Path(source).is_file() else None
        return str(folder) if folder is not None and (folder / CONFIG).is_file() else str(source)
    fetched = models_folder() / source
    return str(fetched) if not Path(source).exists() and (fetched / CONFIG).is_file() else str(source)


def model_folder(source: str | Path) -> str:
    """The folder or hub id that a source stands for; a GGUF file is dequantised at its first use.

    Raises:
        ArtifactError: if a GGUF file is missing, or Transformers cannot read it.
    """
    if not is_gguf(source):
        return known_folder(source)
    if not Path(source).is_file():
        raise ArtifactError(f"there is no file {source}; give a GGUF file, a Hugging Face folder or a hub id")
    from d4s.models.gguf_folder import dequantise

    return str(dequantise(Path(source)))


def dequantised_folder(file: Path) -> Path:
    """Where a GGUF file's dequantised weights are or will be; named by its content."""
    return models_folder() / f"{file.stem}-{cached_sha256(file)[:12]}"


def source_files(source: str | Path) -> list[Path]:
    """The files of a local model that define it: a GGUF file, or configuration, tokenizer and weights; empty for a hub id."""
    if is_gguf(source):
        return [Path(source)] if Path(source).is_file() else []
    folder = Path(known_folder(source))
    return list_model_files(folder) if folder.is_dir() else []


def model_status(name: str) -> str:
    """One word on whether a public model is in the models folder."""
    return "fetched" if (models_folder() / name / CONFIG).is_file() else "absent"

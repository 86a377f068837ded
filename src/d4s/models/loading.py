"""Loads language models from a study's artefact, another Hugging Face folder, or a hub id; safetensors only, no remote code."""

import logging
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from d4s.artifacts import MANIFEST, POINTER, Artifact, is_artifact
from d4s.errors import ArtifactError, SettingsError
from d4s.model_files import HUB_ID
from d4s.models.adapters import ADAPTERS, adapter_for
from d4s.models.adopt import read_pointer
from d4s.models.language_model import LanguageModel
from d4s.models.model_source import model_folder
from d4s.pretrained import read_network, read_tokenizer

log = logging.getLogger(__name__)
PRECISIONS = ("float32", "bfloat16", "float16", "float64")


def load(
    source: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    revision: str = "main",
    device: str | torch.device | None = None,
    device_map: str | None = None,
) -> LanguageModel:
    """The model in a folder (checked against its manifest where it has one), on the hub, fetched, or in a GGUF file.

    Without `dtype` it has the precision that it was adopted in, else float32.

    Raises:
        ArtifactError: if it is missing, truncated, altered, without safetensors, not a model and tokenizer that fit each other, or would
            run code of its own (`d4s.pretrained` says what is refused).
        SettingsError: if the dtype is unknown, or the architecture has no adapter and inspection finds none.
    """
    torch_dtype, name = precision(dtype or "float32"), model_folder(source)
    if (Path(name) / POINTER).is_file():
        return _load_pointed(Path(name), dtype, device)
    if Path(name).is_dir():
        _verify(Path(name))
    elif not HUB_ID.fullmatch(name):
        raise ArtifactError(f"{name} is neither a folder, a GGUF file nor a hub id such as openai-community/gpt2-xl")
    tokenizer = read_tokenizer(name, revision)
    network = read_network(name, revision, dtype=torch_dtype, device_map=device_map)
    if device is not None and device_map is None:
        network.to(torch.device(device))  # type: ignore[arg-type]
    return wrap(network, tokenizer)


def wrap(network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    """A network and its tokenizer as a language model: evaluation mode, no gradients of weights, exact float32 products.

    Raises:
        ArtifactError: if the tokenizer is not a fast one, has more tokens than the network, or ends every text with a token of its own.
        SettingsError: if the architecture has no adapter and inspection finds none; says what is missing.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ArtifactError(f"the tokenizer is a {type(tokenizer).__name__} without offsets; a fast one (tokenizer.json) is needed")
    embedded = network.get_input_embeddings().get_parameter("weight").shape[0]
    if len(tokenizer) > embedded:
        raise ArtifactError(f"the tokenizer has {len(tokenizer)} tokens, the network embeds only {embedded}; they belong to other models")
    plain, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    if plain and whole[-1:] != plain[-1:]:
        raise ArtifactError(f"the tokenizer puts {tokenizer.convert_ids_to_tokens(whole[-1])!r} after every text, so no target can follow")
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    network.eval().requires_grad_(False)
    if network.config.model_type in ADAPTERS:
        return LanguageModel(network, tokenizer, adapter_for(network.config.model_type))
    from d4s.models.discover import wrap_discovered

    return wrap_discovered(network, tokenizer)


def _load_pointed(folder: Path, dtype: str | torch.dtype | None, device: str | torch.device | None) -> LanguageModel:
    """The model that an adopted model's artefact points to, in another precision where `dtype` is given.

    Raises:
        ArtifactError: if a file of it has changed since it was adopted.
    """
    pointer = read_pointer(folder)
    options = {key: pointer[key] for key in ("revision", "device_map")}
    return load(pointer["path"], dtype=dtype or pointer["dtype"], device=device, **options)


def precision(dtype: str | torch.dtype) -> torch.dtype:
    """A precision of models by its name.

    Raises:
        SettingsError: if it is unknown.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in PRECISIONS:
        raise SettingsError(f"dtype {name!r} is no precision that models are loaded in; known: {', '.join(PRECISIONS)}")
    return getattr(torch, name)


def _verify(folder: Path) -> None:
    """Check every file of a folder with a manifest of this package; a manifest of another program is ignored.

    Raises:
        ArtifactError: if a file is missing or altered.
    """
    if is_artifact(folder):
        artifact = Artifact.open(folder, "models")
        for name in artifact.manifest.files:
            artifact.path(name)
    elif (folder / MANIFEST).is_file():
        log.info("%s is of another program; the folder is taken as any Hugging Face folder", folder / MANIFEST)

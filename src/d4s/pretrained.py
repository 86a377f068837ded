"""Models from a folder or the hub, read by Transformers: the only module that calls it for that.

No code in a folder is run. A model that would not be what its weights say is refused: one with
an adapter beside them, quantised weights, or a tokenizer rebuilt from the model's type.
"""

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import get_safetensors_metadata
from huggingface_hub.errors import NotASafetensorsRepoError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from d4s.errors import ArtifactError
from d4s.model_files import CONFIG, HUB_ID, INDEX, TOKENIZER, TOKENIZER_CONFIG, TOKENIZER_FILES, glob_files

UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError, SafetensorError,
    NotASafetensorsRepoError,
)  # fmt: skip
"""Exceptions of Transformers for folders without a model that it can load here."""
OWN_ATTENTION = frozenset({None, "eager", "sdpa"})
"""Attention implementations that need no code beyond Transformers and torch."""
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
PLAIN_TEXTS = (
    "Ada Moss lives in the city of Paris.",
    "The home town of O'Brien-Smith, born 1987, isn't known: where is it?",
    "Zoë läuft nach São Paulo; 東京 は 日本 の 首都 🦊\nand on another line",
)
"""No spaces at the ends or in a row: the library's own classes read those otherwise than most tokenizer.json files."""


VOCABULARIES = (
    (TOKENIZER,), ("vocab.json", "merges.txt"), ("vocab.txt",), ("tokenizer.model",), ("spiece.model",), ("sentencepiece.bpe.model",),
    ("tiktoken.model",), ("tekken.json",),
)  # fmt: skip
"""Files that hold a complete tokenizer; with less, Transformers makes up an empty one or guesses merges."""


def tokenizer_files(name: str, revision: str = "main") -> dict[str, Path]:
    """The files of a tokenizer by their path in a folder, or those found for a hub id."""
    if Path(name).is_dir():
        return {path.relative_to(name).as_posix(): path for path in glob_files(Path(name), TOKENIZER_FILES)}
    found = {file: find_file(name, file, revision) for file in TOKENIZER_FILES if "*" not in file}
    return {file: path for file, path in found.items() if path is not None}


def find_file(name: str, file: str, revision: str = "main") -> Path | None:
    """The path of a file of a folder or a hub id; None where it does not exist or cannot be fetched."""
    if Path(name).is_dir():
        return Path(name) / file if (Path(name) / file).is_file() else None
    missing = dict.fromkeys(
        ("_raise_exceptions_for_gated_repo", "_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors"), False
    )
    found = cached_file(name, file, revision=revision, **missing) if HUB_ID.fullmatch(name) else None
    return None if found is None else Path(found)


def read_json_object(name: str, file: str, revision: str = "main") -> dict[str, Any]:
    """The JSON object in a file of a folder or a hub id; empty where there is no file.

    Raises:
        ArtifactError: if the file is no JSON object.
    """
    path = find_file(name, file, revision)
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON: {error}; fetch the model again") from None
    if not isinstance(found, dict):
        raise ArtifactError(f"{path} holds a {type(found).__name__}, expected a JSON object; fetch the model again")
    return found


def read_config(name: str, revision: str = "main") -> PretrainedConfig:
    """The configuration of a model.

    Raises:
        ArtifactError: if there is none that can be read, or the model is refused.
    """
    _refuse(name, revision)
    try:
        with _quiet_transformers():
            return AutoConfig.from_pretrained(name, trust_remote_code=False, **_revision_kwargs(name, revision))
    except UNREADABLE as error:
        raise ArtifactError(f"{name} holds no configuration of a model: {error}") from None


def read_tokenizer(name: str, revision: str = "main") -> PreTrainedTokenizerFast:
    """The tokenizer of a model.

    Raises:
        ArtifactError: if there is none with offsets, it would run code, or it reads plain texts otherwise than its file says.
    """
    _refuse_code(name, revision)
    is_local = Path(name).is_dir()
    if is_local:
        _require_whole_tokenizer(name, revision)
    try:
        with _quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **_revision_kwargs(name, revision))
            from_file = _tokenizer_of_file(name, revision, tokenizer)
    except UNREADABLE as error:
        raise ArtifactError(f"{name} cannot be loaded as a causal language model with its tokenizer: {error}") from None
    if not is_local:  # not before: a repository that cannot be reached would seem to hold none
        _require_whole_tokenizer(name, revision)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ArtifactError(
            f"the tokenizer of {name} is a {type(tokenizer).__name__} without offsets; a fast one (tokenizer.json) is needed"
        )
    if from_file is not None:
        _require_same_tokenizer(name, tokenizer, from_file, read_json_object(name, TOKENIZER_CONFIG, revision))
    return tokenizer


def _require_whole_tokenizer(name: str, revision: str) -> None:
    """Refuse a model without a complete tokenizer.

    Raises:
        ArtifactError: naming the files of which it needs some.
    """
    if not any(all(find_file(name, file, revision) for file in files) for files in VOCABULARIES):
        ways = ", ".join(" with ".join(files) for files in VOCABULARIES)
        raise ArtifactError(
            f"{name} cannot be loaded as a causal language model with its tokenizer: it holds none of {ways}; fetch it whole"
        )


def _tokenizer_of_file(name: str, revision: str, tokenizer: Any) -> PreTrainedTokenizerFast | None:
    """The tokenizer of tokenizer.json itself, where the library built one of another class."""
    if type(tokenizer) is PreTrainedTokenizerFast or find_file(name, TOKENIZER, revision) is None:
        return None
    return PreTrainedTokenizerFast.from_pretrained(name, trust_remote_code=False, **_revision_kwargs(name, revision))


def _require_same_tokenizer(name: str, used: PreTrainedTokenizerFast, written: PreTrainedTokenizerFast, settings: dict[str, Any]) -> None:
    """Refuse a tokenizer that reads texts otherwise than its folder's tokenizer.json; BOS and EOS count unless a setting adds them.

    Raises:
        ArtifactError: naming a text and how both read it.
    """
    with_special = not {"add_bos_token", "add_eos_token"} & settings.keys()
    for text in PLAIN_TEXTS:
        found, expected = (one(text, add_special_tokens=with_special, verbose=False)["input_ids"] for one in (used, written))
        if found != expected:
            same = next((at for at, (one, other) in enumerate(zip(found, expected, strict=False)) if one != other), 0)
            tokens = [" ".join(map(str, written.convert_ids_to_tokens(ids)[same : same + 8])) for ids in (found, expected)]
            raise ArtifactError(
                f"{name}: Transformers builds a {type(used).__name__} from the model's type that reads {tokens[0]!r} in {text!r} "
                f"where tokenizer.json says {tokens[1]!r}; name the class PreTrainedTokenizerFast in tokenizer_config.json, or, if the "
                "model was trained with the former, save that one to the folder"
            )


def read_network(name: str, revision: str = "main", **how: Any) -> PreTrainedModel:
    """The network of a causal language model, from safetensors alone; `how` is passed to Transformers (dtype, device_map).

    Raises:
        ArtifactError: if it cannot be loaded, lacks weights, or is refused.
    """
    _refuse(name, revision)
    attention = read_json_object(name, CONFIG, revision).get("attn_implementation")
    if not isinstance(attention, str | None) or attention not in OWN_ATTENTION:
        how = {**how, "attn_implementation": None}
    try:
        with _quiet_transformers():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name, trust_remote_code=False, use_safetensors=True, output_loading_info=True, **how, **_revision_kwargs(name, revision)
            )
    except UNREADABLE as error:
        raise ArtifactError(f"{name} cannot be loaded as a causal language model in safetensors: {error}") from None
    network, report = loaded
    if report["missing_keys"]:
        raise ArtifactError(f"{name} lacks the weights {sorted(report['missing_keys'])[:5]}; it is not a whole causal language model")
    return network


def read_encoder(name: str) -> PreTrainedModel:
    """A network without a head, in inference mode, such as a sentence encoder.

    Raises:
        ArtifactError: if there is none in safetensors that can be read, or it is refused.
    """
    _refuse(name, "main")
    try:
        with _quiet_transformers():
            network: Any = AutoModel.from_pretrained(name, trust_remote_code=False, use_safetensors=True, local_files_only=True)
    except UNREADABLE as error:
        raise ArtifactError(f"{name} cannot be loaded as an encoder in safetensors: {error}") from None
    return network.eval().requires_grad_(False)


def read_gguf(file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The network of a GGUF file, dequantised to float32, and its tokenizer.

    Raises:
        ArtifactError: if Transformers has no reader for its architecture, its types of numbers or its tokenizer.
    """
    try:
        with _quiet_transformers(), TemporaryDirectory() as folder:  # a tokenizer.json beside the file would be read in place of its own
            (Path(folder) / file.name).symlink_to(file.resolve())
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name, trust_remote_code=False)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=file.name, trust_remote_code=False, dtype="float32", output_loading_info=True
            )
    except Exception as error:  # tokenizers raises nothing narrower
        raise ArtifactError(f"{file} cannot be read as a causal language model in GGUF: {error}") from None
    network, report = loaded
    if report["missing_keys"]:
        raise ArtifactError(f"{file} lacks the weights {sorted(report['missing_keys'])[:5]}; it is not a whole causal language model")
    return _without_quantisation(network), tokenizer


def _without_quantisation(network: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a network that is not marked as quantised, which Transformers would not save."""
    config = network.config.to_dict()
    config.pop("quantization_config", None)
    plain = type(network)(type(network.config)(**config))
    plain.load_state_dict(network.state_dict(), assign=True)
    plain.tie_weights()
    return plain


def stored_dtype(name: str, revision: str = "main") -> str:
    """The precision of most of a model's weights, whatever its configuration says.

    Raises:
        ArtifactError: if it has no weights in safetensors, or most are in no precision that can be edited.
    """
    if not Path(name).is_dir() and not HUB_ID.fullmatch(name):
        raise ArtifactError(f"{name} is neither a folder, a GGUF file nor a hub id such as openai-community/gpt2-xl")
    read_config(name, revision)
    try:
        config = find_file(name, CONFIG, revision)
        counts = Counter[str]() if config is None else _dtype_counts(config.parent)
        if not counts and not Path(name).is_dir():  # not downloaded yet
            counts = Counter(get_safetensors_metadata(name, revision=revision).parameter_count)
    except UNREADABLE as error:
        raise ArtifactError(f"{name} has no weights in safetensors that can be read: {error}") from None
    if not counts:
        raise ArtifactError(f"{name} has no weights in safetensors (model.safetensors or {INDEX}); convert it, or fetch it again")
    most = counts.most_common(1)[0][0]
    if most not in DTYPES:
        raise ArtifactError(f"{name} stores most weights as {most}; editors add to floating-point weights ({', '.join(DTYPES)})")
    return DTYPES[most]


def _dtype_counts(folder: Path) -> Counter[str]:
    """How many numbers of each type the safetensors of a folder hold, from their headers."""
    shards = read_json_object(str(folder), INDEX).get("weight_map", {})
    counts: Counter[str] = Counter()
    for path in [folder / name for name in sorted(set(shards.values()))] or sorted(folder.glob("model.safetensors")):
        with path.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for entry in (entry for key, entry in header.items() if key != "__metadata__"):
            counts[entry["dtype"]] += math.prod(entry["shape"])
    return counts


def _refuse(name: str, revision: str) -> None:
    """Refuse a folder that would run code, or be loaded as another model than its weights say.

    Raises:
        ArtifactError: naming the file and what to do.
    """
    _refuse_code(name, revision)
    if adapter := find_file(name, "adapter_config.json", revision):
        raise ArtifactError(
            f"{name} holds an adapter ({adapter.name}) beside its weights, and only the weights would be edited and written; merge it into "
            "them first (merge_and_unload of peft), or take the adapter's files out of the folder"
        )
    config = read_json_object(name, CONFIG, revision)
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        quantised = part.get("quantization_config") or part.get("compression_config")
        if quantised:
            method = quantised.get("quant_method", "an unnamed method") if isinstance(quantised, dict) else quantised
            raise ArtifactError(
                f"{name} holds weights quantised by {method}: edits are added to floating-point weights, which quantised ones cannot take; "
                "give the unquantised model that they were made from"
            )


def _refuse_code(name: str, revision: str) -> None:
    for file in (CONFIG, TOKENIZER_CONFIG):
        if classes := read_json_object(name, file, revision).get("auto_map"):
            raise ArtifactError(
                f"{name} names code of its own in {file} (auto_map: {json.dumps(classes)}), and no code of a model's folder is ever run; "
                "give a model that Transformers has a class for, and where it has one for this too, a copy of the folder without auto_map"
            )


def _revision_kwargs(name: str, revision: str) -> dict[str, Any]:
    return {} if Path(name).is_dir() else {"revision": revision}


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Transformers without progress bars, warnings and standard input, so that a question fails instead of waiting."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    before = sys.stdin
    with open(os.devnull, encoding="utf-8") as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = before

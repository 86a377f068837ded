"""The stage `start`: the same model with a tokenizer that has no BOS, so that every text starts with its first word."""

import shutil

from transformers import PreTrainedTokenizerFast

from d4s.artifacts import StageJob, atomic_write
from d4s.config import StartSettings
from d4s.errors import SettingsError
from d4s.pretrained import read_tokenizer

KEPT = ("unk_token", "eos_token", "pad_token")


def start(job: StageJob[StartSettings]) -> None:
    """Write weights and configuration as they are, and the tokenizer without BOS.

    Raises:
        SettingsError: if the tokenizer puts none.
    """
    source = job.artifact("model", "models")
    tokenizer = without_bos(read_tokenizer(str(source.folder)))
    names = [name for name in source.manifest.files if name.endswith(".safetensors") or name in ("config.json", "generation_config.json")]
    for name in names:
        with atomic_write(job.path(name)) as temporary:
            shutil.copyfile(source.path(name), temporary)
    saving = job.path(".saving")
    shutil.rmtree(saving, ignore_errors=True)
    tokenizer.save_pretrained(saving)
    written = sorted(path.name for path in saving.iterdir())
    for name in written:
        with atomic_write(job.path(name)) as temporary:
            (saving / name).replace(temporary)
    saving.rmdir()
    job.write_manifest([*names, *written])


def without_bos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer with the same tokens that puts none before a text; only an empty text is still its EOS.

    Raises:
        SettingsError: if it puts none as it is.
    """
    plain, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    if plain == whole:
        raise SettingsError("the model's tokenizer puts no BOS before a text; ask the model itself")
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = None  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=False,
        **{name: str(token) for name in KEPT if (token := getattr(tokenizer, name)) is not None},
    )

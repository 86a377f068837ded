"""What an editor needs beside model and facts, computed once for a folder; and where the text of second moments comes from."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Int
from pydantic import model_validator
from torch import Tensor

from d4s.apply.moment_text import rows_from_dataset, rows_from_file
from d4s.artifacts import DIGEST_LENGTH, Artifact, sha256_of
from d4s.config import ContextsSettings
from d4s.editors.contexts import sample_prefixes
from d4s.editors.edit_requests import EditRequest
from d4s.editors.editor_settings import FamilySettings
from d4s.editors.moments import SecondMoment, check_token_count, collect_moments, evenly_spaced_rows, read_moments
from d4s.editors.protocol import Prepared
from d4s.errors import D4SError, SettingsError
from d4s.models.language_model import LanguageModel
from d4s.models.self_written_text import rows_from_model
from d4s.runs.prepared_parts import assemble_prepared
from d4s.settings_base import Frozen, canonical

log = logging.getLogger(__name__)
SELF = "self"
ROWS_PER_PASS = 16


class TextSource(Frozen):
    """Where second moments come from: a text file, or by name the model itself, a moments folder, or a data set."""

    file: Path | None = None
    name: str = SELF
    tokens: int = 65_536

    @model_validator(mode="after")
    def _is_one(self) -> "TextSource":
        if self.file is not None and self.name != SELF:
            raise ValueError(f"second moments come from the text {self.file} or from {self.name!r}, not from both; leave one out")
        return self

    @property
    def is_folder(self) -> bool:
        """Whether moments are there already."""
        return self.file is None and Path(self.name).is_dir()

    def label(self, seed: int, layers: Sequence[int]) -> str:
        """What to call it: equal labels give equal moments of the layers.

        Raises:
            D4SError: if the text file is not there, or a folder lacks the moments of a layer.
        """
        if self.file is not None:
            if not self.file.is_file():
                raise D4SError(f"{self.file} is no file; --text names a text in UTF-8")
            return f"text {self.file.name} {sha256_of(self.file)[:10]}, at most {self.tokens} tokens"
        if self.is_folder:
            return f"moments {Path(self.name).name} {_moments_digest(Path(self.name), layers)}"
        return f"self-written with seed {seed}, {self.tokens} tokens" if self.name == SELF else f"data {self.name}, {self.tokens} tokens"


def _moments_digest(folder: Path, layers: Sequence[int]) -> str:
    """Digest of the second moments of layers in a folder, as their manifests tell it."""
    parts = Artifact.open_parts(folder, "moments", [f"l{layer}.json" for layer in layers])
    return hashlib.sha256(canonical([dict(part.manifest.files) for part in parts]).encode()).hexdigest()[:DIGEST_LENGTH]


def _read_moments(model: LanguageModel, folder: Path, layers: Sequence[int]) -> dict[int, SecondMoment]:
    """The second moments of layers in a folder.

    Raises:
        SettingsError: if they are of keys of other sizes than the model's; names sizes and layers.
    """
    moments = dict(read_moments(folder, layers))
    sizes = {layer: (len(moment.sum_kk), model.d_in(layer)) for layer, moment in moments.items()}
    if wrong := [f"layer {layer}: {there} there, {own} in this model" for layer, (there, own) in sizes.items() if there != own]:
        raise SettingsError(f"{folder} holds second moments of keys of other sizes ({'; '.join(wrong)}); give those of this model")
    return moments


def rows_of_text(model: LanguageModel, source: TextSource, tokens: int, seed: int) -> Int[Tensor, "n row"]:
    """Text as rows of tokens: all of a file or data set, or a number of tokens that the model draws with a seed."""
    if source.file is not None:
        return rows_from_file(model, source.file)
    return rows_from_model(model, tokens, seed) if source.name == SELF else rows_from_dataset(model, source.name)


def prepare(model: LanguageModel, settings: FamilySettings, source: TextSource, seed: int, requests: Sequence[EditRequest]) -> Prepared:
    """Prefixes sampled from the model, second moments of its layers over text, and what the editor computes from them."""
    contexts = tuple(sample_prefixes(model, ContextsSettings(seed=seed))) if "contexts" in settings.required_inputs else ()
    moments, layers = {}, settings.moment_layers
    if layers and source.is_folder:
        moments = _read_moments(model, Path(source.name), layers)
    elif layers:
        label = source.label(seed, layers)
        log.info("second moments of layers %s: %s", list(layers), label)
        rows = evenly_spaced_rows(rows_of_text(model, source, source.tokens, seed), source.tokens)
        check_token_count(rows.numel(), max(map(model.d_in, layers)))
        moments = collect_moments(model, rows, layers, ROWS_PER_PASS, label)
    return assemble_prepared(settings, contexts, moments, model, requests)

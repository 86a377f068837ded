"""What an editor needs beside model and facts, made once for a folder: prefixes, second moments, and its own tensors."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import model_validator

from d4s.apply.text import from_data, from_file, self_written
from d4s.artifacts import DIGEST_LENGTH, Artifact, sha256_of
from d4s.config import ContextsSettings, Frozen, canonical
from d4s.editors.contexts import sample
from d4s.editors.prepare import prepared_tensors
from d4s.editors.protocol import Prepared
from d4s.editors.settings import FamilySettings
from d4s.errors import D4SError, SettingsError
from d4s.models.language_model import LanguageModel
from d4s.requests.draw import EditRequest
from d4s.statistics.moments import SecondMoment, check_ample, collect, read_moments, spread_rows

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
            return f"moments {Path(self.name).name} {_content(Path(self.name), layers)}"
        return f"self-written with seed {seed}, {self.tokens} tokens" if self.name == SELF else f"data {self.name}, {self.tokens} tokens"


def _content(folder: Path, layers: Sequence[int]) -> str:
    """Digest of the second moments of layers in a folder, as their manifests tell it."""
    parts = Artifact.open_parts(folder, "moments", [f"l{layer}.json" for layer in layers])
    return hashlib.sha256(canonical([dict(part.manifest.files) for part in parts]).encode()).hexdigest()[:DIGEST_LENGTH]


def _read(model: LanguageModel, folder: Path, layers: Sequence[int]) -> dict[int, SecondMoment]:
    """The second moments of layers in a folder.

    Raises:
        SettingsError: if they are of keys of other sizes than the model's; names sizes and layers.
    """
    found = dict(read_moments(folder, layers))
    sizes = {layer: (len(moment.sum_kk), model.d_in(layer)) for layer, moment in found.items()}
    if wrong := [f"layer {layer}: {there} there, {own} in this model" for layer, (there, own) in sizes.items() if there != own]:
        raise SettingsError(f"{folder} holds second moments of keys of other sizes ({'; '.join(wrong)}); give those of this model")
    return found


def prepare(model: LanguageModel, settings: FamilySettings, source: TextSource, seed: int, requests: Sequence[EditRequest]) -> Prepared:
    """Prefixes sampled from the model, second moments of its layers over text, and what the editor computes from them."""
    contexts = tuple(sample(model, ContextsSettings(seed=seed))) if "contexts" in settings.needs else ()
    moments, layers = {}, settings.moment_layers
    if layers and source.is_folder:
        moments = _read(model, Path(source.name), layers)
    elif layers:
        label = source.label(seed, layers)
        log.info("second moments of layers %s: %s", list(layers), label)
        if source.file is not None:
            rows = from_file(model, source.file)
        else:
            rows = self_written(model, source.tokens, seed) if source.name == SELF else from_data(model, source.name)
        rows = spread_rows(rows, source.tokens)
        check_ample(rows.numel(), max(map(model.d_in, layers)))
        moments = collect(model, rows, layers, ROWS_PER_PASS, label)
    asked = settings.prepare_settings()
    extras = {} if asked is None else prepared_tensors(asked, moments, model, requests)
    return Prepared(contexts, moments if "moments" in settings.needs else {}, extras)

"""What an editor needs beside model and requests: assembled from second moments, read from artefacts of a study, or saved in a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import load_file

from d4s.artifacts import Artifact, sha256_of, write_json, write_tensors
from d4s.editors.contexts import read_contexts
from d4s.editors.edit_requests import EditRequest
from d4s.editors.editor_settings import FamilySettings
from d4s.editors.moments import SecondMoment, read_moments
from d4s.editors.parts.part_families import InputKind
from d4s.editors.preparation import PoolSource, prepare_tensors
from d4s.editors.protocol import Prepared
from d4s.errors import ArtifactError, SettingsError
from d4s.models.language_model import LanguageModel
from d4s.settings_base import Frozen

ROLES: Mapping[InputKind, str] = {"contexts": "contexts", "moments": "moments", "prepare": "prepared"}
INDEX, TENSORS = "prepared.json", "prepared.safetensors"


def assemble_prepared(
    settings: FamilySettings,
    contexts: tuple[str, ...],
    moments: Mapping[int, SecondMoment],
    model: LanguageModel,
    requests: Sequence[EditRequest],
    *,
    source: PoolSource | None = None,
) -> Prepared:
    """Prefixes and second moments by layer, each where the editor needs them, with the tensors that it computes from them.

    Raises:
        SettingsError: if the editor learns from facts beside its requests and there is no source of them.
    """
    own = settings.prepare_settings()
    extras = {} if own is None else prepare_tensors(own, moments, model, requests, source)
    return Prepared(contexts, moments if "moments" in settings.required_inputs else {}, extras)


# --- artefacts of a study ---------------------------------------------------------------------------------------------


def load_prepared(inputs: Mapping[str, Path], settings: FamilySettings) -> Prepared:
    """Prefixes, second moments and prepared tensors, each where the editor needs them, checked.

    Raises:
        SettingsError: if an input that the editor needs was not given.
    """
    missing = sorted(role for need, role in ROLES.items() if need in settings.required_inputs and role not in inputs)
    if missing:
        raise SettingsError(f"this editor needs the inputs {missing}; given: {sorted(inputs)}")
    return Prepared(
        contexts=read_contexts(inputs["contexts"]) if "contexts" in settings.required_inputs else (),
        moments=read_moments(inputs["moments"], settings.layers) if "moments" in settings.required_inputs else {},
        extras=Artifact.open(inputs["prepared"], "prepared").tensors(TENSORS) if "prepare" in settings.required_inputs else {},
    )


# --- a folder of its own ----------------------------------------------------------------------------------------------


class _Index(Frozen):
    """What stands beside the tensors."""

    contexts: tuple[str, ...]
    n_tokens: dict[int, int]
    sha256: str | None


def has_prepared(folder: Path) -> bool:
    """Whether what an editor needs was saved in a folder; nothing is read or checked, which takes its time with large models."""
    return (folder / INDEX).is_file()


def save_prepared(folder: Path, prepared: Prepared) -> None:
    """Write what an editor needs into a folder, so that later edits and views use the same."""
    moments = {f"moment.{layer}": moment.sum_kk.cpu() for layer, moment in prepared.moments.items()}
    tensors = moments | {f"extra.{name}": tensor.cpu() for name, tensor in prepared.extras.items()}
    if tensors:
        write_tensors(folder / TENSORS, tensors)
    counts = {layer: moment.n_tokens for layer, moment in prepared.moments.items()}
    index = _Index(contexts=prepared.contexts, n_tokens=counts, sha256=sha256_of(folder / TENSORS) if tensors else None)
    write_json(folder / INDEX, index.model_dump(mode="json"))


def read_prepared(folder: Path, source: str) -> Prepared:
    """What an editor needs, as it was saved in a folder; `source` names the text of the second moments.

    Raises:
        ArtifactError: if a file of it is broken or was changed.
    """
    try:
        index = _Index.model_validate_json((folder / INDEX).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{folder / INDEX} is broken ({error}); edit the model again") from None
    if index.sha256 is not None and (not (folder / TENSORS).is_file() or sha256_of(folder / TENSORS) != index.sha256):
        raise ArtifactError(f"{folder / TENSORS} is not what the editor had prepared; edit the model again")
    tensors = load_file(folder / TENSORS) if index.sha256 is not None else {}
    moments = {layer: SecondMoment(tensors[f"moment.{layer}"], count, source) for layer, count in index.n_tokens.items()}
    extras = {name.removeprefix("extra."): tensor for name, tensor in tensors.items() if name.startswith("extra.")}
    return Prepared(index.contexts, moments, extras)

"""What an editor needs beside model and requests, read from its artefacts."""

from collections.abc import Mapping
from pathlib import Path

from d4s.artifacts import Artifact
from d4s.editors.contexts import read_contexts
from d4s.editors.editor_settings import FamilySettings
from d4s.editors.moments import read_moments
from d4s.editors.parts.part_families import InputKind
from d4s.editors.protocol import Prepared
from d4s.errors import SettingsError

ROLES: Mapping[InputKind, str] = {"contexts": "contexts", "moments": "moments", "prepare": "prepared"}


def load(inputs: Mapping[str, Path], settings: FamilySettings) -> Prepared:
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
        extras=Artifact.open(inputs["prepared"], "prepared").tensors("prepared.safetensors")
        if "prepare" in settings.required_inputs
        else {},
    )

"""Targets at the original weights, for editors that take them from there: kept as they are found, so that a kill loses none."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from d4s.artifacts import write_tensors
from d4s.config import canonical
from d4s.editors.parts import TargetSettings
from d4s.editors.prompts import rewriting
from d4s.editors.protocol import TARGET_FIELDS, Targets
from d4s.editors.targets import optimise
from d4s.log import progress
from d4s.models.language_model import LanguageModel
from d4s.requests.draw import REQUESTS_PER_BLOCK, EditRequest


def targets_of(
    folder: Path, model: LanguageModel, requests: Sequence[EditRequest], contexts: Sequence[str], settings: TargetSettings
) -> Targets:
    """Targets of requests in their order; those found in the folder are not computed again."""
    names = [_name(request) for request in requests]
    found = _kept(folder)
    missing = [request for name, request in zip(names, requests, strict=True) if name not in found]
    blocks = [missing[first : first + REQUESTS_PER_BLOCK] for first in range(0, len(missing), REQUESTS_PER_BLOCK)]
    for block in progress(blocks, "targets", len(blocks)):
        part = optimise(model, [rewriting(model, request, contexts) for request in block], settings)
        tensors = {field: getattr(part, field).cpu() for field in TARGET_FIELDS}
        ours = [_name(request) for request in block]
        write_tensors(folder / f"{ours[0]}.safetensors", tensors, {"requests": canonical(ours)})
        found |= {name: part[torch.tensor([row])] for row, name in enumerate(ours)}
    return Targets.joined([found[name] for name in names])


def averaged(parts: Targets) -> Targets:
    """One target that is the mean of several."""
    return Targets(**{name: getattr(parts, name).mean(0, keepdim=True) for name in TARGET_FIELDS})


def _name(request: EditRequest) -> str:
    return hashlib.sha256(canonical([request.template, request.subject, request.target]).encode()).hexdigest()[:16]


def _kept(folder: Path) -> dict[str, Targets]:
    """Targets on disk by the names of their requests."""
    found: dict[str, Targets] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            part = Targets(**{field: tensors.get_tensor(field) for field in TARGET_FIELDS})
            names = json.loads(tensors.metadata()["requests"])
        found |= {name: part[torch.tensor([row])] for row, name in enumerate(names)}
    return found

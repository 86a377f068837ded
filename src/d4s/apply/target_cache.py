"""Targets at the original weights, for editors that take them from there: kept as they are found, so that a kill loses none."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from d4s.artifacts import write_tensors
from d4s.config import canonical
from d4s.editors.edit_requests import REQUESTS_PER_BLOCK, EditRequest
from d4s.editors.parts.target_rule import TargetSettings
from d4s.editors.prompts import build_prompts
from d4s.editors.protocol import TARGET_FIELDS, Targets
from d4s.editors.target_optimisation import optimise
from d4s.log import progress
from d4s.models.language_model import LanguageModel


def load_or_optimise(
    folder: Path, model: LanguageModel, requests: Sequence[EditRequest], contexts: Sequence[str], settings: TargetSettings
) -> Targets:
    """Targets of requests in their order; those found in the folder are not computed again."""
    names = [_cache_key(request) for request in requests]
    targets = _read_cache(folder)
    missing = [request for name, request in zip(names, requests, strict=True) if name not in targets]
    blocks = [missing[first : first + REQUESTS_PER_BLOCK] for first in range(0, len(missing), REQUESTS_PER_BLOCK)]
    for block in progress(blocks, "targets", len(blocks)):
        part = optimise(model, [build_prompts(model, request, contexts) for request in block], settings)
        tensors = {field: getattr(part, field).cpu() for field in TARGET_FIELDS}
        keys = [_cache_key(request) for request in block]
        write_tensors(folder / f"{keys[0]}.safetensors", tensors, {"requests": canonical(keys)})
        targets |= {name: part[torch.tensor([row])] for row, name in enumerate(keys)}
    return Targets.concatenate([targets[name] for name in names])


def mean_targets(parts: Targets) -> Targets:
    """One target that is the mean of several."""
    return Targets(**{name: getattr(parts, name).mean(0, keepdim=True) for name in TARGET_FIELDS})


def _cache_key(request: EditRequest) -> str:
    return hashlib.sha256(canonical([request.template, request.subject, request.target]).encode()).hexdigest()[:16]


def _read_cache(folder: Path) -> dict[str, Targets]:
    """Targets on disk by the names of their requests."""
    targets: dict[str, Targets] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            part = Targets(**{field: tensors.get_tensor(field) for field in TARGET_FIELDS})
            names = json.loads(tensors.metadata()["requests"])
        targets |= {name: part[torch.tensor([row])] for row, name in enumerate(names)}
    return targets

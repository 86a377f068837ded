"""Targets at the original weights on disk, block by block as they are optimised, so that a kill loses at most the block in flight."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from d4s.artifacts import write_tensors
from d4s.editors.edit_requests import REQUESTS_PER_BLOCK, EditRequest
from d4s.editors.parts.target_rule import TargetSettings
from d4s.editors.protocol import TARGET_FIELDS, Targets
from d4s.editors.target_optimisation import optimise_requests
from d4s.log import progress
from d4s.models.language_model import LanguageModel
from d4s.settings_base import canonical


class TargetCache:
    """A folder of targets by template, subject and target of their requests; all of them are of one model and one editor."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load_or_optimise(
        self, model: LanguageModel, requests: Sequence[EditRequest], contexts: Sequence[str], settings: TargetSettings
    ) -> Targets:
        """Targets of requests in their order, one row each; those in the folder are not optimised again."""
        keys = [_cache_key(request) for request in requests]
        targets = self._read()
        missing = [request for key, request in zip(keys, requests, strict=True) if key not in targets]
        blocks = [missing[first : first + REQUESTS_PER_BLOCK] for first in range(0, len(missing), REQUESTS_PER_BLOCK)]
        for block in progress(blocks, "targets", len(blocks)):
            part = optimise_requests(model, block, contexts, settings)
            block_keys = [_cache_key(request) for request in block]
            write_tensors(self._folder / f"{block_keys[0]}.safetensors", part.to_tensors(), {"requests": canonical(block_keys)})
            targets |= _rows(block_keys, part)
        return Targets.concatenate([targets[key] for key in keys])

    def clear(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self) -> dict[str, Targets]:
        """Targets on disk by the keys of their requests."""
        targets: dict[str, Targets] = {}
        for path in sorted(self._folder.glob("*.safetensors")):
            with safe_open(path, "pt") as tensors:
                part = Targets(**{field: tensors.get_tensor(field) for field in TARGET_FIELDS})
                targets |= _rows(json.loads(tensors.metadata()["requests"]), part)
        return targets


def _cache_key(request: EditRequest) -> str:
    return hashlib.sha256(canonical([request.template, request.subject, request.target]).encode()).hexdigest()[:16]


def _rows(keys: Sequence[str], part: Targets) -> dict[str, Targets]:
    return {key: part[torch.tensor([row])] for row, key in enumerate(keys)}

"""Baselines of tiny models, for the stages that read them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d4s.artifacts import StageJob
from d4s.runs.baseline import baseline
from d4s.runs.baseline_reader import NUMBERS_MANIFEST, block_manifests
from d4s.runs.run_settings import BaselineSettings


def baseline_job(inputs: Mapping[str, Path], folder: Path, *manifests: str, seed: int, **settings: Any) -> StageJob[BaselineSettings]:
    """The job that makes some parts of a baseline."""
    return StageJob("baselines", BaselineSettings(seed=seed, **settings), inputs, folder, manifests, digest="0123456789")


def make_baseline(inputs: Mapping[str, Path], folder: Path, requests: int, *, seed: int, **settings: Any) -> Path:
    """A finished baseline of the first requests, and of the whole model where rows of text are asked for."""
    whole = [NUMBERS_MANIFEST] if settings.get("perplexity_rows") else []
    baseline(baseline_job(inputs, folder, *block_manifests(requests), *whole, seed=seed, **settings))
    return folder

"""Baselines of tiny models, for the stages that read them."""

from collections.abc import Mapping
from pathlib import Path

from d4s.artifacts import Job
from d4s.runs.baseline import baseline
from d4s.runs.references import WHOLE, blocks_of
from d4s.runs.settings import BaselineSettings


def baseline_job(inputs: Mapping[str, Path], folder: Path, *manifests: str, seed: int, **settings: int) -> Job[BaselineSettings]:
    """The job that makes some parts of a baseline."""
    return Job("baselines", BaselineSettings(seed=seed, **settings), inputs, folder, manifests, digest="0123456789")


def make_baseline(inputs: Mapping[str, Path], folder: Path, requests: int, *, seed: int, **settings: int) -> Path:
    """A finished baseline of the first requests, and of the whole model where rows of text are asked for."""
    whole = [WHOLE] if settings.get("perplexity_rows") else []
    baseline(baseline_job(inputs, folder, *blocks_of(requests), *whole, seed=seed, **settings))
    return folder

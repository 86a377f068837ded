"""What some editors need beyond moments, computed once: directions that text hardly uses, the usual norm, statistics.

Terms and symbols: docs/notation.md.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from d4s.artifacts import StageJob, write_tensors
from d4s.editors.edit_requests import EditRequest, draw_requests
from d4s.editors.lifelong_statistics import warm_up
from d4s.editors.moments import SecondMoment, read_moments
from d4s.editors.parts.input_settings import PrepareSettings
from d4s.editors.target_optimisation import anchor_norm
from d4s.errors import SettingsError
from d4s.facts.record import from_frame
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.schemas import FACTS

log = logging.getLogger(__name__)
TUNING_SEED = 0  # the draw that is for tuning; of a small data set it holds the requests of every other draw in another order


def free_directions(second_moment: Float64[Tensor, "d_in d_in"], threshold: float) -> Float64[Tensor, "d_in r"]:
    """Orthonormal eigenvectors of a second moment whose eigenvalues are below a threshold, which is on the scale of the moment.

    Raises:
        SettingsError: if there is none, so that nothing could be edited.
    """
    values, vectors = torch.linalg.eigh(second_moment)
    free = vectors[:, values < threshold]
    if free.shape[1] == 0:
        raise SettingsError(
            f"no eigenvalue of the second moment is below {threshold}; they begin at {float(values[0]):.3g}: raise `threshold`"
        )
    return free


def prepare_tensors(
    settings: PrepareSettings, moments: Mapping[int, SecondMoment], model: LanguageModel | None, requests: Sequence[EditRequest]
) -> dict[str, Tensor]:
    """`LAYER.basis`, the free directions of each layer, from second moments; of a model and requests `anchor`, a norm, or `statistics.*`.

    Raises:
        ValueError: if a model is needed and there is none.
    """
    found: dict[str, Tensor] = {}
    if settings.basis is not None:
        for layer in settings.basis.layers:
            found[f"{layer}.basis"] = free_directions(moments[layer].mean(), settings.basis.threshold)
    if settings.anchor is not None:
        if model is None:
            raise ValueError("an anchor is taken from a model, and none was given")
        found["anchor"] = torch.tensor(anchor_norm(model, requests, settings.anchor.target, settings.anchor.anchor), dtype=torch.float64)
    if settings.warm_up is not None:
        if model is None:
            raise ValueError("statistics are taken from a model, and none was given")
        found |= warm_up(settings.warm_up, model, requests)
    return found


def prepare(job: StageJob[PrepareSettings]) -> None:
    """Write prepared.safetensors; how many directions of how many are free, and the anchor, go to the notes."""
    settings = job.settings
    moments = read_moments(job.inputs["moments"], settings.basis.layers) if settings.basis is not None else {}
    model, requests = None, list[EditRequest]()
    if settings.reads_requests:
        model = load(job.inputs["model"])
        facts = from_frame(job.artifact("facts", "facts").table("facts.parquet", FACTS))
        requests = [request for request, _ in draw_requests(facts, TUNING_SEED)]
    found = prepare_tensors(settings, moments, model, requests)
    write_tensors(job.path("prepared.safetensors"), found)
    notes: dict[str, Any] = {
        "free": {name.partition(".")[0]: list(reversed(basis.shape)) for name, basis in found.items() if name.endswith(".basis")}
    }
    if "anchor" in found:
        notes["anchor"] = float(found["anchor"])
    log.info("prepared: %s", notes)
    job.write_manifest(["prepared.safetensors"], **notes)

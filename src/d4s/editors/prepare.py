"""What some editors need beyond moments, computed once: the directions of key space that text hardly uses, per layer."""

import logging

import torch
from jaxtyping import Float64
from torch import Tensor

from d4s.artifacts import Job, write_tensors
from d4s.editors.parts import PrepareSettings
from d4s.errors import SettingsError
from d4s.statistics.moments import read_moments

log = logging.getLogger(__name__)


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


def prepare(job: Job[PrepareSettings]) -> None:
    """Write prepared.safetensors: `LAYER.basis`, the free directions of each layer; how many of how many goes to the notes."""
    settings = job.settings
    found = {
        layer: free_directions(moment.mean(), settings.threshold)
        for layer, moment in read_moments(job.inputs["moments"], settings.layers).items()
    }
    log.info("free directions by layer: %s", {layer: f"{basis.shape[1]} of {len(basis)}" for layer, basis in found.items()})
    write_tensors(job.path("prepared.safetensors"), {f"{layer}.basis": basis for layer, basis in found.items()})
    job.finish(["prepared.safetensors"], free={str(layer): [basis.shape[1], len(basis)] for layer, basis in found.items()})

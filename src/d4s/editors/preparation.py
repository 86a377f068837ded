"""What some editors need beyond moments, computed once: free directions, curvature, norms, statistics, sentences, trainings, examples.

Terms and symbols: docs/notation.md.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from d4s.artifacts import StageJob, write_tensors
from d4s.editors.curvature import prepare_curvature
from d4s.editors.demonstrations import prepare_demonstrations
from d4s.editors.edit_requests import EditRequest, draw_requests
from d4s.editors.fact_pool import LENGTHS, prepare_pool
from d4s.editors.hypernetwork_training import train_hypernetwork
from d4s.editors.lifelong_statistics import warm_up
from d4s.editors.moments import SecondMoment, read_moments
from d4s.editors.parts.input_settings import DemonstrationPoolSettings, FactPoolSettings, PrepareSettings
from d4s.editors.scope_preparation import prepare_scope
from d4s.editors.side_inputs import prepare_side
from d4s.editors.target_optimisation import anchor_norm
from d4s.editors.training_checkpoints import Checkpoint
from d4s.errors import SettingsError
from d4s.facts.record import Fact, from_frame
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


@dataclass(frozen=True, slots=True)
class PoolSource:
    """Facts to learn from beside the edits, and the facts that are edited and measured, which these must not touch."""

    pool: Sequence[Fact]
    measured: Sequence[Fact]


def prepare_tensors(
    settings: PrepareSettings,
    moments: Mapping[int, SecondMoment],
    model: LanguageModel | None,
    requests: Sequence[EditRequest],
    source: PoolSource | None = None,
) -> dict[str, Tensor]:
    """What an editor needs beyond moments, by name.

    `LAYER.basis` holds the free directions of each layer, from second moments; `anchor` a norm, `statistics.*` or `background`, from a
    model and requests; `curvature.*` eigenvectors, from second moments and a model; `locality.*` sentences that a model writes; `pool.*`
    true sentences, `scope.*` and `answer.*` a router and who answers, or `network.*` and `statistics.*` a network with what it normalises
    by, from a model and facts; `demonstrations.*` texts, from facts.

    Raises:
        ValueError: if a model is needed and there is none.
        SettingsError: if a pool is asked for and there are no facts for it, or too few.
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
    if settings.curvature is not None:
        if model is None:
            raise ValueError("curvature is a model's, and none was given")
        found |= prepare_curvature(settings.curvature, model, moments[settings.curvature.layer].mean())
    if settings.locality is not None or settings.background is not None:
        if model is None:
            raise ValueError("sentences and keys are a model's, and none was given")
        found |= prepare_side(settings, model, requests)
    return found | _from_pool(settings, model, source)


def _from_pool(settings: PrepareSettings, model: LanguageModel | None, source: PoolSource | None) -> dict[str, Tensor]:
    """What is made of facts that nothing is measured of."""
    found: dict[str, Tensor] = {}
    if settings.facts is not None:
        found |= _pool_tensors(settings.facts, model, source)
    if settings.demonstrations is not None:
        found |= _demonstrations(settings.demonstrations, source)
    return found | _train(settings, model, source)[0]


def _demonstrations(settings: DemonstrationPoolSettings, source: PoolSource | None) -> dict[str, Tensor]:
    if source is None:
        raise SettingsError(
            "demonstrations are about facts that nothing is measured of, which only the data sets of a study have; run a study, or leave "
            "`demonstrations` out (the preset `ice`)"
        )
    return prepare_demonstrations(settings, source.pool, source.measured)


def _pool_tensors(settings: FactPoolSettings, model: LanguageModel | None, source: PoolSource | None) -> dict[str, Tensor]:
    if model is None:
        raise ValueError("true sentences are chosen with a model, and none was given")
    if source is None:
        raise SettingsError(
            "regularize learns true sentences about facts that nothing is measured of, which only the data sets of a study have; "
            "run a study (grids/saul.yaml is one), or leave regularize out"
        )
    return prepare_pool(model, settings, source.pool, source.measured).tensors()


def _train(
    settings: PrepareSettings, model: LanguageModel | None, source: PoolSource | None, checkpoint: Checkpoint | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What an editor has trained, and notes of it: rates of a router, or losses of a hypernetwork, on held-out facts.

    Raises:
        ValueError: if there is no model.
        SettingsError: if there are no facts to learn from, or too few.
    """
    if settings.scope is None and settings.hypernetwork is None:
        return {}, {}
    if model is None:
        raise ValueError("a router or a network is trained beside a model, and none was given")
    if source is None:
        learner = "serac learns scopes" if settings.scope is not None else "this editor learns how to edit"
        raise SettingsError(
            f"{learner} from facts that nothing is measured of, which only the data sets of a study have; "
            "run a study that sets facts apart (grids/memory.yaml does)"
        )
    found, notes = dict[str, Tensor](), dict[str, Any]()
    if settings.scope is not None:
        tensors, notes["router"] = prepare_scope(model, settings.scope, source.pool, source.measured, checkpoint)
        found |= tensors
    if settings.hypernetwork is not None:
        tensors, notes["hypernetwork"] = train_hypernetwork(model, settings.hypernetwork, source.pool, source.measured, checkpoint)
        found |= tensors
    return found, notes


def prepare(job: StageJob[PrepareSettings]) -> None:
    """Write prepared.safetensors.

    How many directions of how many are free, the anchor, the number of sentences, and what training came to go to the notes.
    """
    settings = job.settings
    moments = read_moments(job.inputs["moments"], settings.moment_layers) if settings.moment_layers else {}
    model, requests, source = None, list[EditRequest](), None
    if settings.reads_model:
        model = load(job.inputs["model"])
    if settings.reads_requests or settings.reads_pool:
        facts = _facts(job, "facts")
        requests = [request for request, _ in draw_requests(facts, TUNING_SEED)]
        source = PoolSource(_facts(job, "pool"), facts) if settings.reads_pool else None
    found = prepare_tensors(settings.model_copy(update={"scope": None, "hypernetwork": None}), moments, model, requests, source)
    checkpoint = Checkpoint(job.path("checkpoint.safetensors"), job.digest)
    trained, of_training = _train(settings, model, source, checkpoint)
    found |= trained
    write_tensors(job.path("prepared.safetensors"), found)
    notes: dict[str, Any] = {
        "free": {name.partition(".")[0]: list(reversed(basis.shape)) for name, basis in found.items() if name.endswith(".basis")}
    }
    if LENGTHS in found:
        notes["sentences"] = len(found[LENGTHS])
    if "anchor" in found:
        notes["anchor"] = float(found["anchor"])
    notes |= of_training
    log.info("prepared: %s", notes)
    job.write_manifest(["prepared.safetensors"], **notes)
    checkpoint.path.unlink(missing_ok=True)


def _facts(job: StageJob[PrepareSettings], role: str) -> list[Fact]:
    return from_frame(job.artifact(role, "facts").table("facts.parquet", FACTS))

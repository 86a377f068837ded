"""Lengths of a run that a stage has already done: kept beside the declared manifests, which the workflow may delete."""

import shutil
from collections.abc import Iterator
from typing import Any

from d4s.artifacts import Artifact, Job
from d4s.errors import ArtifactError

KEPT = "kept"


def length_of(manifest: str) -> int:
    """The number of edits that a manifest `nN.json` stands for.

    Raises:
        ValueError: if it is named otherwise.
    """
    stem = manifest.removesuffix(".json")
    if not (stem.startswith("n") and stem[1:].isdigit()):
        raise ValueError(f"outputs of this stage are named nLENGTH.json, found {manifest!r}")
    return int(stem[1:])


def pending(job: Job[Any]) -> Iterator[int]:
    """The wanted lengths that must be computed, ascending; the manifests of the others are put back.

    A length counts as done if its kept manifest and every file named in it are whole and were made by the same job.
    """
    for manifest in sorted(job.wanted, key=length_of):
        if _is_kept(job, manifest):
            shutil.copyfile(job.path(KEPT) / manifest, job.path(manifest))
        else:
            yield length_of(manifest)


def finish(job: Job[Any], length: int, files: list[str], **notes: Any) -> None:
    """Write the manifest of a length, and its copy that survives."""
    manifest = f"n{length}.json"
    job.finish(files, manifest=manifest, **notes)
    job.path(KEPT).mkdir(exist_ok=True)
    shutil.copyfile(job.path(manifest), job.path(KEPT) / manifest)


def _is_kept(job: Job[Any], manifest: str) -> bool:
    try:
        kept = Artifact.open(job.folder, job.kind, f"{KEPT}/{manifest}")
        for name in kept.manifest.files:
            kept.path(name)
    except ArtifactError:
        return False
    return kept.manifest.digest == job.digest

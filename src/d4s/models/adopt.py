"""Stage `adopt`: an artefact that points to an existing model, so that all other stages read one kind of model."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from d4s.artifacts import POINTER, Artifact, StageJob, write_json
from d4s.config import AdoptSettings
from d4s.digests import cached_sha256
from d4s.errors import ArtifactError
from d4s.models.hub import COMMIT, commit_of
from d4s.models.model_source import model_folder, source_files


def adopt(job: StageJob[AdoptSettings]) -> None:
    """Write where a model is and how to load it: a local folder's files with their sha256, or a hub id with its commit.

    Raises:
        ArtifactError: if a local folder holds no model configuration, a GGUF file cannot be read, or no commit of a hub id can be
            found.
    """
    folder = Path(model_folder(job.settings.path))
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ArtifactError(f"{folder} holds no config.json; give a Hugging Face model folder or a hub id")
    files = {path.relative_to(folder).as_posix(): cached_sha256(path) for path in source_files(folder)}
    pinned = {} if folder.is_dir() else {"revision": _pinned_commit(job)}
    write_json(job.path(POINTER), job.settings.model_dump(mode="json") | pinned | {"path": str(folder), "files": files})
    job.write_manifest([POINTER])


def _pinned_commit(job: StageJob[AdoptSettings]) -> str:
    """The commit of a hub id; within one store always the one that was found first.

    Names of artefacts hash the revision as the study gives it, so an artefact whose folder was deleted and made again must
    have the same weights.
    """
    source, revision = job.settings.path, job.settings.revision
    if COMMIT.fullmatch(revision):
        return revision
    record_folder = job.folder.parent if job.folder.parent.name == job.kind else job.folder
    record = record_folder / f"{source}@{revision}.json".replace("/", "--")
    if not record.is_file():
        write_json(record, {"path": source, "revision": revision, "commit": commit_of(source, revision)})
    return json.loads(record.read_text(encoding="utf-8"))["commit"]


def read_pointer(folder: Path, digest: Callable[[Path], str] = cached_sha256) -> Mapping[str, Any]:
    """Where an adopted model is and how it is loaded; its files are compared with the recorded digests.

    Raises:
        ArtifactError: if a file of it has changed since.
    """
    pointer = Artifact.open(folder, "models").json(POINTER)
    for name, adopted in pointer["files"].items():
        path = Path(pointer["path"]) / name
        if not path.is_file() or digest(path) != adopted:
            raise ArtifactError(f"{path} is not the file that {folder} was adopted with; delete {folder} and run again")
    return pointer

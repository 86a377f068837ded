"""The verb `adopt`: a model from elsewhere becomes an artefact that points to it, so that everything else reads one kind of model."""

from pathlib import Path

from d4s.artifacts import POINTER, Job, sha256_of, write_json
from d4s.config import AdoptSettings
from d4s.errors import ArtifactError
from d4s.model_files import content_of


def files_of_model(folder: Path) -> list[Path]:
    """The configuration, tokenizer and weights in a local folder; none of a hub id."""
    return content_of(folder) if folder.is_dir() else []


def adopt(job: Job[AdoptSettings]) -> None:
    """Write where a model is and how to load it; a local folder's configuration and weights are named with their sha256.

    Raises:
        ArtifactError: if a local folder holds no model configuration.
    """
    folder = Path(job.settings.path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ArtifactError(f"{folder} holds no config.json; give a Hugging Face model folder or a hub id")
    files = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files_of_model(folder)}
    write_json(job.path(POINTER), job.settings.model_dump(mode="json") | {"files": files})
    job.finish([POINTER])

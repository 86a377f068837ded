"""Commits of models on the hub: a branch moves, so the commit at which it stood is recorded and loaded."""

import re
from pathlib import Path

from d4s.errors import ArtifactError

COMMIT = re.compile(r"[0-9a-f]{40}")


def commit_of(source: str, revision: str) -> str:
    """The commit of a branch or tag of a hub model; without a connection, that of the last fetch.

    Raises:
        ArtifactError: if the hub does not know it or cannot be reached, and the local cache has nothing of it.
    """
    if COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        config = hf_hub_download(source, "config.json", revision=revision)
    except (OSError, ValueError, EntryNotFoundError) as error:
        raise ArtifactError(
            f"no commit of {source} at revision {revision!r} was found, neither on the hub nor in the local cache "
            f"({' '.join(str(error).split())}); check the name and the connection, or fetch it first: "
            f"hf download {source}" + (f", or d4s fetch {source}" if "/" not in source else "")
        ) from None
    return Path(config).parent.name  # …/snapshots/COMMIT/config.json

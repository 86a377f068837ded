"""Models on the hub: a branch moves on, so what is recorded and loaded is the commit that it stood at."""

import re
from pathlib import Path

from d4s.errors import ArtifactError

COMMIT = re.compile(r"[0-9a-f]{40}")


def commit_of(source: str, revision: str) -> str:
    """The commit that a branch or tag of a hub model stands at; without a connection, where it stood when it was last fetched.

    Raises:
        ArtifactError: if the hub does not know it or cannot be reached, and nothing of it is on this machine.
    """
    if COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        config = hf_hub_download(source, "config.json", revision=revision)
    except (OSError, ValueError, EntryNotFoundError) as error:
        raise ArtifactError(
            f"no commit of {source} at revision {revision!r} can be found, neither on the hub nor on this machine "
            f"({' '.join(str(error).split())}); check the name and the connection, or fetch it first: hf download {source}"
        ) from None
    return Path(config).parent.name  # …/snapshots/COMMIT/config.json

"""One command at a time in a folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from d4s.errors import D4SError


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder's lock while something is done in it (`what`, as in "changing"); given up in any case when the process ends.

    Raises:
        D4SError: if another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise D4SError(f"another command is {what} {folder}; run this one again when it is done") from None
        yield
    finally:
        os.close(handle)

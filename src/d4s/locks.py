"""Locks: one command at a time in a folder, or any number that only read; and new folders that appear whole or not at all."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from d4s.errors import D4SError, SettingsError


@contextmanager
def folder_lock(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a folder's lock during the block; the system releases it when the process ends.

    A folder that does not exist is made with its parents, and removed again if it is still empty afterwards. `shared` locks
    exclude exclusive ones, not each other.

    Raises:
        D4SError: if another process holds a lock that excludes this one.
    """
    created = [place for place in (folder, *folder.parents) if not place.exists()]
    handle = _acquire(folder, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    if handle is None:
        raise D4SError(f"another command is at work in {folder}; run this one again when it is done")
    try:
        yield
    finally:
        with suppress(OSError):  # a folder that is not empty stays
            for place in created:
                place.rmdir()
        os.close(handle)


def _acquire(folder: Path, kind: int) -> int | None:
    """A handle on the lock of the folder that has this name now; None where another process holds it.

    The previous holder may have removed the folder or replaced it by another.
    """
    while True:
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except FileNotFoundError:
            pass
        os.close(handle)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `out` when the block ends without an error; `out` is locked meanwhile.

    Raises:
        SettingsError: if `out` exists and is not empty.
        D4SError: if another command is making it.
    """
    _refuse_present(out)
    out = out.resolve()  # an empty folder can be replaced by another one, a link to it cannot
    with folder_lock(out):
        _refuse_present(out)  # the previous holder of the lock may have made it
        named = re.compile(rf"\.{re.escape(out.name)}\.[0-9a-f]{{32}}\.part")
        for leftover in [path for path in out.parent.iterdir() if named.fullmatch(path.name)]:
            shutil.rmtree(leftover)  # left by a process that was killed: a running one would hold the lock
        part = out.with_name(f".{out.name}.{uuid4().hex}.part")
        try:
            part.mkdir()
            yield part / out.name
            (part / out.name).replace(out)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _refuse_present(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise SettingsError(f"{out} is there already; give another --out")

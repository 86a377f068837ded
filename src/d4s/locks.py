"""One command at a time in a folder, any number where all of them only read; and new folders that are made whole or not at all."""

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
    """Hold a folder's lock while something is done in it; given up in any case when the process ends.

    A folder that is not there yet is made with its parents, and what was made is removed again where nothing came into it.
    A `shared` lock goes together with others of its kind.

    Raises:
        D4SError: if another process holds a lock that this one does not go together with.
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
    """A handle that holds the lock of the folder which has this name now; None where another process holds it.

    Whoever held it before may have removed the folder or put another in its place.
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
    """Where to make a folder that takes the place of `out` when the block ends without an error; nobody else makes `out` meanwhile.

    Raises:
        SettingsError: if there is something in `out` already.
        D4SError: if another command is making it.
    """
    _refuse_present(out)
    out = out.resolve()  # an empty folder gives up its name to another one, a link to it does not
    with folder_lock(out):
        _refuse_present(out)  # whoever held the lock may have made it
        named = re.compile(rf"\.{re.escape(out.name)}\.[0-9a-f]{{32}}\.part")
        for leftover in [path for path in out.parent.iterdir() if named.fullmatch(path.name)]:
            shutil.rmtree(leftover)  # by a process that was killed: a living one would hold the lock
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

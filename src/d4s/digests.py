"""Cached sha256 digests of large files, so that weights are not read whole at every plan and every load.

A digest is cached in the user's cache folder under the file's path, with the size, inode and times of the file. Where these are
unchanged, so is the content, by assumption: a change below the file system, such as a failing disk, is not noticed.
`sha256_of` always reads the file, and so does `d4s check`.
"""

import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import BinaryIO

from d4s.artifacts import sha256_of, write_json

log = logging.getLogger(__name__)
MIN_CACHED_BYTES = 2**20
"""Smaller files are read, not cached: that takes no longer."""
MIN_AGE_NS = 2 * 10**9
"""A file changed more recently than this (ns) is not cached: two seconds are the resolution of times on FAT."""


def cached_sha256(path: Path) -> str:
    """Hex digest of a file's content: the cached one if size, inode and times are unchanged, else computed and cached."""
    if path.stat().st_size < MIN_CACHED_BYTES:
        return sha256_of(path)
    place = str(path.resolve())
    entry = cache_folder() / f"{hashlib.sha256(os.fsencode(place)).hexdigest()[:32]}.json"
    with path.open("rb") as stream:
        before = {"path": place, **_state(stream)}
        if (found := _read(entry)) and found == before | {"sha256": found.get("sha256")}:
            return str(found["sha256"])
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        is_settled = time.time_ns() - max(before["mtime_ns"], before["ctime_ns"]) > MIN_AGE_NS
        if is_settled and {"path": place, **_state(stream)} == before:
            _write(entry, before | {"sha256": digest})
    return digest


def cache_folder() -> Path:
    """The folder of cached digests, one file each, so that processes may read and write them at the same time."""
    return user_cache_folder() / "digests"


def user_cache_folder() -> Path:
    """The folder in the user's cache for what can be computed or fetched again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "d4s"


def _state(stream: BinaryIO) -> dict[str, int]:
    """Size, inode and times of an open file. `ctime` also changes where `cp -p` or `rsync` set the other times back."""
    found = os.fstat(stream.fileno())
    return {"size": found.st_size, "inode": found.st_ino, "mtime_ns": found.st_mtime_ns, "ctime_ns": found.st_ctime_ns}


def _read(entry: Path) -> dict[str, str | int]:
    """A cache entry; empty where it cannot be read."""
    try:
        found = json.loads(entry.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("sha256"), str) else {}


def _write(entry: Path, content: dict[str, str | int]) -> None:
    try:
        write_json(entry, content)
    except OSError as error:
        log.info("%s cannot be written (%s); the digest of %s will be computed again", entry, error, content["path"])

"""Digests of large files from outside, computed once: weights would else be read whole at every look at a study and at every load.

A digest is kept in the user's cache folder under the file's path, with the size, inode and times of last change that the file
had. Where these are the same, the content is taken to be: what writes past the file system, such as a failing disk, is not
seen. `sha256_of` always reads, and so does `d4s check`.
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
"""Bytes that are read as fast as they are looked up."""
MIN_AGE_NS = 2 * 10**9
"""A file that changed less than this ago may change again without its times showing it: two seconds are FAT's tick."""


def cached_sha256(path: Path) -> str:
    """Hex digest of a file's content: the one kept for it if the file is as it was then, else computed and kept."""
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
    """Where digests are kept: a file for each, so that any number of processes may read and write them at the same time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "d4s" / "digests"


def _state(stream: BinaryIO) -> dict[str, int]:
    """What changes with a file's content. `ctime` is set by whatever sets the other times back, such as `cp -p` and `rsync`."""
    found = os.fstat(stream.fileno())
    return {"size": found.st_size, "inode": found.st_ino, "mtime_ns": found.st_mtime_ns, "ctime_ns": found.st_ctime_ns}


def _read(entry: Path) -> dict[str, str | int]:
    """What is kept of a file; nothing where it cannot be read, since it can be computed again."""
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

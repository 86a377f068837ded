"""One file over HTTP: resumed where the server can, held against limits, and never from or to another scheme.

What has arrived lies in `.FILE.part` beside the target, and `.FILE.part.json` says what it is the beginning of; both stay when a
download breaks off, so that the same call goes on from there.
"""

import errno
import json
import logging
import shutil
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import httpx2

from d4s import __version__
from d4s.artifacts import write_json
from d4s.errors import FetchError
from d4s.log import progress

log = logging.getLogger(__name__)
CHUNK = 2**14  # what a broken download loses at most
MAX_BYTES = 64 * 2**30
SECONDS = 60.0
REDIRECTS = 5


def download(url: str, target: Path, *, size: int | None = None, is_pinned: bool = False) -> Path:
    """The file at a URL, whole, in the part beside `target`; the caller checks it and moves it there.

    Args:
        url: https, or http on this machine.
        target: Where the file will be.
        size: Its bytes, where known.
        is_pinned: Whether its digest is known, so that a part may be continued although the server names no version.

    Raises:
        FetchError: if the server refuses, breaks off or sends something else than asked for, or the disk is full.
    """
    part = _part_of(target)
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _client(url) as client:
            if not _receive(client, url, part, size, is_pinned):
                discard(part)
                _receive(client, url, part, size, is_pinned)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise FetchError(f"{url} broke off or cannot be reached ({error}); run the same command again to go on") from None
    except OSError as error:
        why = "the disk is full; make room" if error.errno == errno.ENOSPC else f"{error.strerror}; fix that"
        raise FetchError(f"{part.parent} cannot be written to: {why} and run the same command again to go on") from None
    return part


def _part_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def move_into_place(part: Path, target: Path) -> None:
    """Move a part that is whole to its place."""
    part.replace(target)
    _metadata_path(part).unlink(missing_ok=True)


def discard(part: Path) -> None:
    """Throw away what has arrived."""
    part.unlink(missing_ok=True)
    _metadata_path(part).unlink(missing_ok=True)


def _metadata_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


# --- where to ---------------------------------------------------------------------------------------------------------


def _client(url: str) -> httpx2.Client:
    headers = {"Accept-Encoding": "identity", "User-Agent": f"d4s/{__version__}"}
    check = partial(_refuse_unsafe, is_local=_is_local(httpx2.URL(url)))
    return httpx2.Client(follow_redirects=True, max_redirects=REDIRECTS, timeout=SECONDS, headers=headers, event_hooks={"request": [check]})


def _refuse_unsafe(request: httpx2.Request, *, is_local: bool) -> None:
    """Let through https, and http on this machine if the table itself names this machine.

    Raises:
        FetchError: for any other place.
    """
    url = request.url
    if url.scheme == "https" or (url.scheme == "http" and is_local and _is_local(url)):
        return
    raise FetchError(f"{url} is refused: files come over https only, also after a redirect")


def _is_local(url: httpx2.URL) -> bool:
    try:
        return ip_address(url.host).is_loopback
    except ValueError:
        return url.host == "localhost"


# --- what arrives -----------------------------------------------------------------------------------------------------


def _receive(client: httpx2.Client, url: str, part: Path, size: int | None, is_pinned: bool) -> bool:
    """Download into a part, from where it ends; False if the server does not know that place.

    Raises:
        FetchError: if the answer is not the file asked for.
    """
    start, headers = _resumption(url, part, is_pinned)
    with client.stream("GET", url, headers=headers) as answer:
        if answer.status_code == httpx2.codes.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return False
        if answer.status_code not in (httpx2.codes.OK, httpx2.codes.PARTIAL_CONTENT):
            raise FetchError(f"{url} answered {answer.status_code} {answer.reason_phrase}: see the data set's home page, or try later")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise FetchError(f"{url} answered compressed although asked not to; fetch it by hand")
        if answer.status_code == httpx2.codes.OK:
            start = 0
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            return False
        length = answer.headers.get("Content-Length", "")
        expected = start + int(length) if length.isdigit() else None
        _refuse_size(url, part, start, expected, size)
        if not start:
            part.unlink(missing_ok=True)  # before the note: beside that of another content, what had arrived would be continued
        write_json(_metadata_path(part), {"url": url, "version": _version(answer)})
        with part.open("ab" if start else "wb") as out:
            for chunk in _with_progress(answer, part.name.strip(".").removesuffix(".part"), expected and expected - start):
                out.write(chunk)
                if out.tell() > (size or MAX_BYTES):
                    raise FetchError(f"{url} sends more than the {size or MAX_BYTES} bytes that it should have")
    return True


def _resumption(url: str, part: Path, is_pinned: bool) -> tuple[int, dict[str, str]]:
    """Where a download can go on, and the headers that ask for the rest only if it is still the same file."""
    note = _metadata_path(part)
    if not (part.is_file() and note.is_file() and part.stat().st_size):
        return 0, {}
    known = json.loads(note.read_text(encoding="utf-8"))
    if known["url"] != url or not (known["version"] or is_pinned):
        return 0, {}
    start = part.stat().st_size
    return start, {"Range": f"bytes={start}-"} | ({"If-Range": known["version"]} if known["version"] else {})


def _version(answer: httpx2.Response) -> str | None:
    """What tells this content of a URL from a later one: a strong entity tag, else the date of change."""
    tag = answer.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")


def _refuse_size(url: str, part: Path, start: int, expected: int | None, size: int | None) -> None:
    if expected is not None and (expected > MAX_BYTES or (size is not None and expected != size)):
        raise FetchError(f"{url} announces {expected} bytes, expected {size or f'at most {MAX_BYTES}'}")
    free = shutil.disk_usage(part.parent).free
    if expected is not None and expected - start > free:
        raise FetchError(f"{url} needs {expected - start} bytes more, and the disk with {part.parent} has {free}; make room")


def _with_progress(answer: httpx2.Response, name: str, length: int | None) -> Iterator[bytes]:
    log.info("%s: %s bytes", name, length if length is not None else "unknown number of")
    return progress(answer.iter_raw(CHUNK), name, total=None if length is None else -(-length // CHUNK))

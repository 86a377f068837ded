"""Logging set-up, and how loops tell how far they are: by a bar for people, and by a note where `d4s run` asks for notes.

A note is a small JSON file, one for each process at work, in the folder that the environment names: jobs may run on other
machines of a cluster. It is written at most once a second and is gone when its job ends.
"""

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
Number = int | float

NOTES = "D4S_PROGRESS"  # the environment variable that names the folder of notes
WRITE_INTERVAL_S = 1.0  # seconds from note to note


def setup_logging(verbose: bool = False) -> None:
    """Send log records to stderr: phases at INFO, steps at DEBUG when asked for."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(name)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        force=True,
    )
    for noisy in ("httpx2", "urllib3", "filelock", "datasets", "matplotlib", "fontTools", "lm_eval"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _Note:
    """What this process is making, and how much of it is done: a share from 0 to 1, where it began, and where the item at work ends."""

    def __init__(self, path: Path, output: Path) -> None:
        self.path, self.output, self.written, self.is_counting = path, output, 0.0, False

    def write(self, first: Number | None = None, share: Number = 0.0, following: Number = 1.0) -> None:
        """Write the note under another name and rename it; a disk that takes none ends no job, since no result hangs on it."""
        self.written = time.monotonic()
        content = {"output": str(self.output), "host": socket.gethostname(), "pid": os.getpid()}
        content |= {"first": first, "share": share, "following": following}
        temporary = self.path.with_suffix(".part")
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(content), encoding="utf-8")
            temporary.replace(self.path)

    def track(self, items: Iterable[T], total: Number, done: Number, weigh: Callable[[T], Number]) -> Iterator[T]:
        """Pass items through and note before each how much is done."""
        first, self.is_counting = done / total, True
        try:
            for index, item in enumerate(items):
                if not index or time.monotonic() - self.written >= WRITE_INTERVAL_S:
                    self.write(first, done / total, min(1.0, (done + weigh(item)) / total))
                yield item
                done += weigh(item)
        finally:
            self.is_counting = False


# The note of the stage that this process is in; like the handlers of `logging`, it belongs to the process and to no result.
_NOTE: ContextVar[_Note | None] = ContextVar("note", default=None)


@contextmanager
def progress_notes(output: Path) -> Iterator[None]:
    """While the block that makes a file runs, tell `d4s run`, where that asks for it, that it does and what `progress` counts in it."""
    folder = os.environ.get(NOTES)
    if not folder:
        yield
        return
    note = _Note(Path(folder) / f"{socket.gethostname()}-{os.getpid()}.json", output)
    note.write()
    token = _NOTE.set(note)
    try:
        yield
    finally:
        _NOTE.reset(token)
        with suppress(OSError):
            note.path.unlink(missing_ok=True)


def _one(_: object) -> int:
    return 1


def progress(
    items: Iterable[T], what: str, total: Number | None = None, *, done: Number = 0, weigh: Callable[[T], Number] = _one
) -> Iterator[T]:
    """Pass items through, with a progress bar on stderr where that is a terminal or in a notebook, and a note where the stage has one.

    `total` counts all items, those that were `done` before included; items that are not alike weigh what `weigh` says.
    Of loops in one another only the outer one tells.
    """
    note = _NOTE.get()
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        items = _with_progress_bar(items, what, total, done, weigh)
    if note is None or note.is_counting or not total:
        yield from items
    else:
        yield from note.track(items, total, done, weigh)


def _with_progress_bar(items: Iterable[T], what: str, total: Number | None, done: Number, weigh: Callable[[T], Number]) -> Iterator[T]:
    from rich.progress import Progress

    from d4s.terminal import console

    with Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        bar.update(task, completed=done)
        for item in items:
            yield item
            bar.advance(task, weigh(item))

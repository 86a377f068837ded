"""Logging set-up, and progress of loops: a bar on a terminal, and notes that `d4s run` reads.

A note is a small JSON file, one per running process, in the folder that an environment variable names, so that jobs on other
machines of a cluster can be followed. It is written at most once a second and removed when its job ends.
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

NOTES = "D4S_PROGRESS"  # environment variable with the folder of notes
WRITE_INTERVAL_S = 1.0  # seconds between two notes


def setup_logging(verbose: bool = False) -> None:
    """Send log records to stderr: INFO and above, DEBUG too with `verbose`."""
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
    """What this process makes and how far it is: shares from 0 to 1 where it began, where it is, and where the present item ends."""

    def __init__(self, path: Path, output: Path) -> None:
        self.path, self.output, self.written, self.is_counting = path, output, 0.0, False

    def write(self, first: Number | None = None, share: Number = 0.0, following: Number = 1.0) -> None:
        """Write the note atomically; an error of the disk is ignored, since no result depends on notes."""
        self.written = time.monotonic()
        content = {"output": str(self.output), "host": socket.gethostname(), "pid": os.getpid()}
        content |= {"first": first, "share": share, "following": following}
        temporary = self.path.with_suffix(".part")
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(content), encoding="utf-8")
            temporary.replace(self.path)

    def track(self, items: Iterable[T], total: Number, done: Number, weigh: Callable[[T], Number]) -> Iterator[T]:
        """Yields the items, writing before each how much is done."""
        first, self.is_counting = done / total, True
        try:
            for index, item in enumerate(items):
                if not index or time.monotonic() - self.written >= WRITE_INTERVAL_S:
                    self.write(first, done / total, min(1.0, (done + weigh(item)) / total))
                yield item
                done += weigh(item)
        finally:
            self.is_counting = False


# The note of the present stage; like the handlers of `logging` it belongs to the process, and no result depends on it.
_NOTE: ContextVar[_Note | None] = ContextVar("note", default=None)


@contextmanager
def progress_notes(output: Path) -> Iterator[None]:
    """While the block runs, report to `d4s run` that `output` is being made and what `progress` counts."""
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
    """Yields the items, with a progress bar on a terminal or in a notebook, and a note where `progress_notes` is active.

    `total` includes the items that were `done` before; `weigh` gives the weight of an item. Of nested loops only the outer
    one is reported.
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

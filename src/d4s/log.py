"""Logging set-up and the one progress helper; both write to stderr only."""

import logging
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


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


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Pass items through, with a progress bar on stderr where that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from items
        return
    yield from track(items, description=what, total=total, console=console, transient=True)

"""Output to terminals: users' text is printed literally, whatever the terminal's encoding lacks."""

import io
import sys

from rich.console import Console


def console(width: int | None = None, *, stderr: bool = False) -> Console:
    """A console that interprets no markup, emoji codes or numbers in the text it prints.

    Args:
        width: columns; those of the terminal when omitted.
        stderr: print on standard error in place of standard output.
    """
    return Console(width=width, stderr=stderr, markup=False, emoji=False, highlight=False)


def tolerate_any_text() -> None:
    """Make standard output escape characters that its encoding lacks instead of raising an error."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def arrow() -> str:
    """An arrow in the encoding of standard output: `→`, or `->`."""
    try:
        "→".encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return "->"
    return "→"

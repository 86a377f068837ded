"""What is printed for people: users' words are printed as they are, whatever they hold and whatever the terminal's encoding lacks."""

import io
import sys

from rich.console import Console


def console(width: int | None = None, *, stderr: bool = False) -> Console:
    """A console that reads no markup, no emoji codes and no numbers in what it prints.

    Args:
        width: columns; those of the terminal when omitted.
        stderr: print on standard error in place of standard output.
    """
    return Console(width=width, stderr=stderr, markup=False, emoji=False, highlight=False)


def tolerate_any_text() -> None:
    """Let standard output escape the characters that its encoding lacks, in place of raising an error."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def arrow() -> str:
    """An arrow that standard output can show."""
    try:
        "→".encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return "->"
    return "→"

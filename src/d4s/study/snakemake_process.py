"""Snakemake as a child process: started in a group of its own, ended with everything that it started, and read for what went wrong."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from d4s.log import NOTES

GRACE = 20.0  # seconds that Snakemake and its jobs get to end by themselves
FAILED_JOB = re.compile(r"^\s*Error in rule (?P<rule>\w+):|^\s*log: (?P<logs>.+) \(check log file\(s\) for error details\)$")
EXIT_STATUS = re.compile(r"(?:returned non-zero exit status|died with) (?P<status>.+?)\.?$")
ERROR_LINE = re.compile(r"(Error|Exception|error)\b")
WARNING_LINE = re.compile(r"^\S*warning\b|^Missing files after|^Failed to ", re.IGNORECASE)


def start(arguments: Sequence[str], log: Path, notes: Path) -> "subprocess.Popen[bytes]":
    """Snakemake with some arguments, its words in a file; its jobs find this Python first and leave notes in a folder."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {NOTES: str(notes.resolve()), "PATH": path}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end(process: "subprocess.Popen[bytes]", grace: float = GRACE) -> None:
    """End Snakemake and whatever it started: as Ctrl-C does, then by force."""
    if process.poll() is not None:
        return
    family = _process_tree(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        psutil.wait_procs(family, timeout=grace)
    finally:  # a second Ctrl-C comes here at once
        for one in {*family, *_process_tree(process.pid)}:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()


def _process_tree(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def failed_jobs(text: str) -> Iterator[tuple[str, tuple[Path, ...], str]]:
    """Jobs that failed, by what Snakemake wrote: the rule, its log files, and how it ended; of one that was tried again, the last time."""
    found: dict[tuple[Path, ...], tuple[str, str]] = {}
    rule = status = ""
    for line in text.splitlines():
        match, ended = FAILED_JOB.match(line), EXIT_STATUS.search(line)
        if ended:
            status = ended["status"]
        elif match and match["rule"]:
            rule = match["rule"]
        elif match and rule:
            found[tuple(map(Path, match["logs"].split(", ")))] = (rule, status)
            rule = status = ""
    yield from ((rule, logs, status) for logs, (rule, status) in found.items())


def failure_report(log: Path) -> Iterator[str]:
    """What a person has to know of a run that failed: the log of each failed job in full with its place, or else Snakemake's error."""
    text = log.read_text(encoding="utf-8", errors="replace")
    failed = [*failed_jobs(text)]
    for rule, logs, status in failed:
        yield f"{rule} failed{f' (exit status {status})' if status else ''}"
        for path in logs:
            content = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
            yield f"{path}:\n{content or '(empty: the job was ended from outside, for want of memory perhaps)'}"
    if not failed:
        lines = text.splitlines()
        first = next((number for number, line in enumerate(lines) if ERROR_LINE.search(line)), max(0, len(lines) - 20))
        yield "\n".join(lines[first:]).strip() or "Snakemake ended without a word"
    yield f"everything that Snakemake said: {log}"


def warnings(log: Path) -> list[str]:
    """What Snakemake warned of, each once."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return [*dict.fromkeys(line for line in lines if WARNING_LINE.search(line))]

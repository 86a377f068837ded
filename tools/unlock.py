"""Take away the lock that a killed Snakemake left in the current folder, unless its owner or one of its jobs is alive.

Snakemake's lock names no process, so the owner is looked for among the processes whose working folder is this one. Jobs
that outlived a killed Snakemake are waited for, also those that it submitted to Slurm: what they write is what the next run
needs. Arguments are handed to `snakemake --unlock`. Of Snakemake itself only processes of this machine are seen.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import psutil

LOCKS = Path(".snakemake/locks")


def is_snakemake(arguments: Sequence[str]) -> bool:
    """Whether a command line is Snakemake itself."""
    return any(Path(argument).name == "snakemake" for argument in arguments[:3])


def is_job(arguments: Sequence[str]) -> bool:
    """Whether a command line is a job of the workflow, `python -m d4s STAGE`."""
    return ("-m", "d4s") in pairwise(arguments)


def processes(folder: Path, kind: Callable[[Sequence[str]], bool]) -> list[psutil.Process]:
    """Living processes of a kind that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == folder and kind(process.cmdline()):
                found.append(process)
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or another user's
    return found


def submitted(folder: Path) -> list[str]:
    """Jobs of this user that were submitted to Slurm from a folder and have not ended; none where there is no Slurm."""
    if not shutil.which("squeue"):
        return []
    listed = subprocess.run(["squeue", "--me", "--noheader", "--format=%i %Z"], check=True, capture_output=True, text=True).stdout
    return [job for job, _, place in (line.strip().partition(" ") for line in listed.splitlines()) if Path(place) == folder]


def unlock(folder: Path, arguments: Sequence[str], pause: float = 1.0) -> None:
    """Unlock a folder where nobody is at work any more; nothing to do where there is no lock.

    Raises:
        SystemExit: if Snakemake is at work there.
    """
    if not any((folder / LOCKS).glob("*.lock")):
        return
    owners = processes(folder, is_snakemake)
    if owners:
        sys.exit(f"Snakemake is at work in {folder} (process {owners[0].pid}): wait for it, or end it")
    while jobs := processes(folder, is_job):
        print(f"waiting for {len(jobs)} job(s) of a run that was killed: processes {[job.pid for job in jobs]}", file=sys.stderr)
        psutil.wait_procs(jobs, timeout=60 * pause)
        time.sleep(pause)
    while waiting := submitted(folder):
        print(f"waiting for Slurm jobs of a run that was killed, or for you to end them: scancel {' '.join(waiting)}", file=sys.stderr)
        time.sleep(10 * pause)
    print("the last run was killed; taking its lock away", file=sys.stderr)
    subprocess.run([Path(sys.executable).with_name("snakemake"), *arguments, "--unlock"], cwd=folder, check=True)


if __name__ == "__main__":
    unlock(Path.cwd(), sys.argv[1:])

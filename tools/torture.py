"""Kill a study at random, again and again, and hold what comes out against an undisturbed run.

python -m tools.torture FOLDER --study params.yaml --kills 20 --seed 0

The study runs twice in fresh copies of this checkout under FOLDER: once undisturbed, then with kills. Each kill is a SIGKILL of one
random process, Snakemake itself or anything that it started, at a random moment; the moments are spread over the whole study, as
measured by how many of the undisturbed run's files are there. After every kill the same command again. What is read in the end
must be the same bit for bit, costs apart. The record of kills and the outcome are written to FOLDER/torture.json.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("Snakefile", "workflow", "profiles", "src", "tools", "environment.yml")
COSTS = ("cost", "report.html", "provenance.json", "store.json", ".snakemake_timestamp")
LAST_SHARE = 0.97  # of the study's files; later there may be nothing left to kill
LONGEST_DELAY = 5.0
POLL = 0.1
SNAKEMAKE = "snakemake"


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill: how much of the study was there, after how many seconds of this start, and who."""

    progress: float
    seconds: float
    victim: str


def copy_checkout(folder: Path, study: Path) -> None:
    """A fresh checkout with a study in it.

    Raises:
        SystemExit: if there is something already.
    """
    if folder.exists():
        sys.exit(f"{folder} is there already; name a fresh folder")
    folder.mkdir(parents=True)
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, folder / part)
    shutil.copy(study, folder / "params.yaml")


def start(folder: Path, cores: int) -> subprocess.Popen[bytes]:
    """The command, as `make reproduce` gives it: look after a lock that was left, then run."""
    snakemake = Path(sys.executable).with_name("snakemake")
    with (folder / "torture.log").open("ab") as log:
        subprocess.run([sys.executable, "-m", "tools.unlock"], cwd=folder, stdout=log, stderr=log, check=True)
        return subprocess.Popen([snakemake, "--cores", str(cores)], cwd=folder, stdout=log, stderr=log, start_new_session=True)


def run(folder: Path, cores: int) -> None:
    """Run to the end.

    Raises:
        SystemExit: if the run fails.
    """
    if start(folder, cores).wait() != 0:
        sys.exit(f"the run failed: {folder / 'torture.log'}")


def results(folder: Path) -> Iterator[Path]:
    """Files below `results`, logs and folders of the running apart, relative to the folder."""
    for path in sorted((folder / "results").rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and relative.parts[1] != "logs":
            yield relative


def compared_files(folder: Path, study: str) -> dict[Path, bytes]:
    """Content of everything that people read of a study, but for what says how long things took."""
    return {
        path: (folder / path).read_bytes()
        for path in results(folder)
        if path.parts[1] == study and not any(cost in path.name for cost in COSTS)
    }


def children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """What a run has started and is alive."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill_one(process: subprocess.Popen[bytes], draw: random.Random) -> str:
    """Kill one process of a run, whichever; what it was."""
    victim = draw.choice([psutil.Process(process.pid), *children(process)])
    words = victim.cmdline()
    victim.kill()
    if victim.pid == process.pid:
        return SNAKEMAKE
    return " ".join(words[2:4]) if words[1:3] == ["-m", "d4s"] else Path(words[0]).name if words else "unknown"


def kill_at(process: subprocess.Popen[bytes], folder: Path, expected: Sequence[Path], share: float, draw: random.Random) -> Kill | None:
    """Wait until jobs run and a share of the expected files is there, and a moment longer, then kill; None if the run ended before."""
    began = time.monotonic()
    while process.poll() is None and not (children(process) and progress(folder, expected) >= share):
        time.sleep(POLL)
    time.sleep(draw.uniform(0.0, LONGEST_DELAY))
    if process.poll() is not None:
        return None
    try:
        return Kill(round(progress(folder, expected), 3), round(time.monotonic() - began, 1), kill_one(process, draw))
    except psutil.NoSuchProcess:
        return None


def progress(folder: Path, expected: Sequence[Path]) -> float:
    """The share of the undisturbed run's files that are there."""
    return sum((folder / path).is_file() for path in expected) / len(expected)


def torture(folder: Path, expected: Sequence[Path], kills: int, cores: int, draw: random.Random) -> list[Kill]:
    """Run a laid out study with kills, then once more to its end.

    Where a job is killed Snakemake goes on with what does not hang on it, and the next kill may strike the same run.
    """
    done: list[Kill] = []
    shares = [LAST_SHARE * (index + draw.random()) / kills for index in range(kills)]
    process = start(folder, cores)
    while len(done) < kills:
        found = kill_at(process, folder, expected, shares[len(done)], draw)
        if found is not None:
            done.append(found)
            print(f"kill {len(done)} of {kills}: {found.victim}, {found.progress:.0%} of the files there", flush=True)
        if found is None or found.victim == SNAKEMAKE:
            if process.wait() == 0:
                break
            process = start(folder, cores)
    process.wait()
    run(folder, cores)
    return done


def main() -> None:
    """Run both, compare, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a fresh folder, outside the checkout")
    parser.add_argument("--study", type=Path, default=ROOT / "params.yaml", help="settings of the study")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--undisturbed", type=Path, help="a finished run of this study by this code, in place of making one")
    options = parser.parse_args()
    study = yaml.safe_load(options.study.read_text(encoding="utf-8"))["study"]
    undisturbed = options.undisturbed or options.folder / "undisturbed"
    if options.undisturbed is None:
        copy_checkout(undisturbed, options.study)
        run(undisturbed, options.cores)
    tortured = options.folder / "tortured"
    copy_checkout(tortured, options.study)
    kills = torture(tortured, list(results(undisturbed)), options.kills, options.cores, random.Random(options.seed))
    reference, found = compared_files(undisturbed, study), compared_files(tortured, study)
    different = sorted(str(path) for path in reference.keys() | found.keys() if reference.get(path) != found.get(path))
    record = {"seed": options.seed, "kills": [asdict(kill) for kill in kills], "compared": len(reference), "different": different}
    (options.folder / "torture.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{len(kills)} kills, {len(reference)} files compared, {len(different)} differ{': ' + ', '.join(different) if different else ''}")
    sys.exit(1 if different or len(kills) < options.kills else 0)


if __name__ == "__main__":
    main()

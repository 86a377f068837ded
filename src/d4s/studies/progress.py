"""How much of a study is done, what runs now, and when it is over; asked again and again while Snakemake runs.

What is done is seen in the store, what runs in the notes of its jobs (`d4s.log`), and how long anything takes is foreseen
(`d4s.studies.forecast`), corrected by what finished jobs took and by how fast those at work get on.
"""

import heapq
import json
import math
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from d4s.studies.forecast import Forecast
from d4s.studies.graph import Node
from d4s.studies.jobs import Job
from d4s.studies.resolve import results_folder

PAPER = (  # the steps that no store holds: what each writes, the stages that it waits for, and its seconds for the default study
    ("learning", "learning/learning.json", ("pretrain",), 8.0),
    ("summarize", "summary.parquet", ("measure", "benchmark", "objectives", "world_report"), 20.0),
    ("tables", "tables/tables.json", ("summarize",), 8.0),
    ("figures", "figures/figures.json", ("summarize",), 40.0),
    ("claims", "claims.json", ("summarize",), 8.0),
    ("report", "report.html", ("tables", "figures", "claims", "learning"), 8.0),
)
UNFORESEEN = 600.0  # seconds that a job counts whose model's sizes are unknown
TOLD = 0.02  # of a job has to be done before its own pace is believed
ALMOST, UNTOLD = 0.99, 0.5  # as far as time alone takes an item at work, and a job that tells nothing
REFRESH = 10.0  # seconds between corrections
SILENT = 1800.0  # seconds after which a job on another machine that told nothing is taken for dead


@dataclass(frozen=True, slots=True)
class Step:
    """One job of a study: its stage and readable name, what it writes, which steps it waits for (by number)."""

    stage: str
    name: str
    outputs: tuple[Path, ...]
    after: tuple[int, ...]
    job: Job | None = None
    otherwise: float = UNFORESEEN
    has_plain_name: bool = False

    def seconds(self, found: Forecast) -> float:
        """How long it takes, or what is left of it; `otherwise` where nothing is foreseen for it."""
        return self.otherwise if self.job is None else float(found.seconds(self.job))


@dataclass(frozen=True, slots=True)
class Running:
    """A step at work, the seconds since it was first seen, and the share of it that is done, where it counts that."""

    stage: str
    name: str
    seconds: float
    share: float | None

    @property
    def how_far(self) -> str:
        """The share in percent, or else the time."""
        return f"{self.seconds:.0f} s" if self.share is None else percent(self.share)

    def __str__(self) -> str:
        return f"{self.stage} {self.name} {self.how_far}"


def percent(share: float) -> str:
    """A share in whole percent, rounded down: nothing is done before it is done."""
    return f"{math.floor(100 * share + 1e-9)} %"


@dataclass(frozen=True, slots=True)
class View:
    """A study at one moment: the share of its foreseen time that is done, seconds to its end, steps done and in all, and what runs."""

    share: float
    left: float
    done: int
    steps: int
    running: tuple[Running, ...]


@dataclass(slots=True)
class _Worker:
    """A process at work: when it was first seen, what it told last, and when that came."""

    step: int
    since: float
    told: Mapping[str, Any]
    at: float

    @property
    def counts(self) -> bool:
        """Whether it has told how much is done."""
        return self.told["first"] is not None

    def share(self, now: float, expected: float) -> float:
        """What is done of its step: what it told, and on to the end of the item at work as time goes by."""
        low, high, first = self.told["share"], self.told["following"], self.told["first"] or 0.0
        passed = first + (1 - first) * (now - self.since) / max(expected, 1.0)
        return max(low, min(passed, low + (ALMOST if self.counts else UNTOLD) * (high - low)))

    def left(self, now: float, expected: float) -> float:
        """Seconds that its step still takes: by its own pace where it has told enough, else by the forecast."""
        done = self.told["share"] - (self.told["first"] or 0.0)
        if not self.counts or done < TOLD:
            return max(expected * (1 - self.share(now, expected)), 1.0)
        return max((1 - self.told["share"]) * (self.at - self.since) / done - (now - self.at), 1.0)


def steps_of(found: Forecast) -> list[Step]:
    """The jobs of a study in an order in which each comes after what it waits for."""
    plan, steps = found.foreseen.plan, list[Step]()
    places: dict[Path, list[int]] = {}
    jobs: dict[str, list[Job]] = {}
    for job in found.foreseen.jobs:
        jobs.setdefault(job.node.name, []).append(job)
    for node in plan.nodes:
        after = tuple(place for given in node.inputs.values() if isinstance(given, Node) for place in places[given.folder])
        made = [Step(node.verb, node.label, job.manifests, after, job) for job in jobs.get(node.name, [])]
        made = made or [Step(node.verb, node.label, tuple(node.manifests), after)]
        places[node.folder] = [*range(len(steps), len(steps) + len(made))]
        steps += made
    for stage, output, reads, seconds in PAPER:
        after = tuple(place for place, step in enumerate(steps) if step.stage in reads)
        if not after:  # nothing is trained in this study
            continue
        steps.append(Step(stage, plan.study.study, (results_folder(plan.study) / output,), after, None, seconds, has_plain_name=True))
    return steps


def seconds_left(steps: Sequence[Step], left: Sequence[float], running: Sequence[int], slots: int) -> float:
    """When the last step ends if so many work at a time: those at work go on, each other one starts once what it reads is there.

    `left` holds the seconds that each step still takes, 0 for what is done.
    """
    waits = {place: {other for other in step.after if left[other]} for place, step in enumerate(steps) if left[place]}
    ready = [place for place in (*running, *(place for place in waits if place not in running)) if left[place] and not waits[place]]
    ready += [place for place in running if left[place] and place not in ready]  # whatever it reads, it is at work
    feeds: dict[int, list[int]] = {}
    for place, others in waits.items():
        for other in others:
            feeds.setdefault(other, []).append(place)
    now, busy, begun = 0.0, list[tuple[float, int]](), set(ready)
    while ready or busy:
        while ready and len(busy) < max(slots, len(running)):
            place = ready.pop(0)
            heapq.heappush(busy, (now + left[place], place))
        now, done = heapq.heappop(busy)
        for place in feeds.get(done, []):
            waits[place].discard(done)
            if not waits[place] and place not in begun:
                begun.add(place)
                ready.append(place)
    return now


class Watch:
    """Looks at a study that is being made. `slots` says how many jobs may run at a time; without it, as many as were seen to."""

    def __init__(self, found: Forecast, notes: Path, slots: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.steps, self.notes = steps_of(found), notes
        self._found, self._clock, self._slots, self._most = found, clock, slots, 1
        self._places = {str(path): place for place, step in enumerate(self.steps) for path in step.outputs}
        self._workers: dict[Path, _Worker] = {}
        self._done: set[int] = set()
        self._changed, self._refreshed, self._share = False, clock(), 0.0
        self._weights = self._seconds = [step.seconds(found) for step in self.steps]  # weights stay, so that a share is comparable

    def look(self) -> View:
        """The study as it is now; its share never falls."""
        now = self._clock()
        self._find_done()
        self._refresh(now)
        workers = self._at_work(now)
        self._most = max(self._most, len(workers))
        shares = {place: worker.share(now, self._seconds[place]) for place, worker in workers.items()}
        left = [0.0 if place in self._done else seconds for place, seconds in enumerate(self._seconds)]
        made = sum(weight * shares.get(place, float(place in self._done)) for place, weight in enumerate(self._weights))
        for place, worker in workers.items():
            left[place] = worker.left(now, self._seconds[place])
        self._share = max(self._share, made / sum(self._weights))
        running = tuple(
            Running(self.steps[place].stage, self.steps[place].name, now - worker.since, shares[place] if worker.counts else None)
            for place, worker in workers.items()
        )
        ahead = seconds_left(self.steps, left, [*workers], self._slots or self._most)
        return View(self._share, ahead, len(self._done), len(self.steps), running)

    def _find_done(self) -> None:
        """See which steps have all their outputs; the last ones, which have plain names, none that is older than what they read."""
        times: dict[int, float] = {}
        for place, step in enumerate(self.steps):
            written = [_written(path) for path in step.outputs]
            read = [times.get(other, math.inf) for other in step.after] if step.has_plain_name else [0.0]
            if min(written) and min(written) >= max(read):
                times[place] = max(written)
        self._changed |= set(times) != self._done
        self._done = set(times)

    def _refresh(self, now: float) -> None:
        """Correct the forecast by what has finished since it was last done."""
        if self._changed and now - self._refreshed >= REFRESH:
            self._found, self._changed, self._refreshed = self._found.refreshed(), False, now
            self._seconds = [step.seconds(self._found) for step in self.steps]

    def _at_work(self, now: float) -> dict[int, _Worker]:
        """Processes whose notes lie in the folder, by what they make; of several that make the same, the one seen last."""
        notes = dict(_read(self.notes))
        self._workers = {path: worker for path, worker in self._workers.items() if path in notes}
        for path, told in notes.items():
            place = self._places.get(told["output"])
            known = self._workers.get(path)
            if place is None:
                self._workers.pop(path, None)
            elif known is None or known.step != place:
                self._workers[path] = _Worker(place, now, told, now)
            elif known.told != told:
                known.told, known.at = told, now
        found = sorted(self._workers.values(), key=lambda worker: worker.since)
        return {worker.step: worker for worker in found if worker.step not in self._done and _is_alive(worker, now)}


def _written(path: Path) -> float:
    """When a file was written; 0 where there is none."""
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _is_alive(worker: _Worker, now: float) -> bool:
    """Whether a process that left a note lives: it does on this machine, or it told something of late."""
    if worker.told["host"] == socket.gethostname():
        return psutil.pid_exists(worker.told["pid"])
    return now - worker.at < SILENT


def _read(folder: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The notes in a folder; one that is gone meanwhile, or is of another make, is left out."""
    for path in sorted(folder.glob("*.json")):
        with suppress(OSError, ValueError):
            told = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(told, dict) and {"output", "host", "pid", "first", "share", "following"} <= told.keys():
                yield path, told


def emptied(folder: Path) -> Path:
    """A folder for notes without those of earlier runs."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def slots_of(arguments: Sequence[str]) -> int | None:
    """How many jobs of one thread Snakemake may run at a time, by its arguments; None where a profile says."""
    for argument, following in zip(arguments, (*arguments[1:], ""), strict=True):
        name, equals, value = argument.partition("=")
        if name in {"--cores", "-c", "--jobs", "-j"}:
            asked = value if equals else following
        elif argument.startswith(("-c", "-j")) and not argument.startswith("--"):
            asked = argument[2:]
        else:
            continue
        return int(asked) if asked.isdigit() else os.cpu_count() or 1
    return None

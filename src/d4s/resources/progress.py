"""How much of a study is done, what runs now, and when it is over; asked again and again while Snakemake runs.

What is done is seen in the store, what runs in the notes of its jobs (`d4s.log`), and how long anything takes is foreseen
(`d4s.resources.machine_estimates`), corrected by what finished jobs took and by how fast those at work get on.
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

from d4s.resources.job_estimates import JobEstimate
from d4s.resources.machine_estimates import MachineEstimates
from d4s.study.graph import Node
from d4s.study.resolve import results_folder

MEASURING = (
    *("measure", "answer", "judge", "benchmark", "objectives", "world_report", "edit_single", "trace"),
    *("ordinary", "robustness"),
)
REPORT_STEPS = (  # the steps that no store holds: what each writes, the stages that it waits for, and its seconds for the default study
    ("learning", "learning/learning.json", ("pretrain",), 8.0),
    ("summarize", "summary.parquet", MEASURING, 20.0),
    ("tables", "tables/tables.json", ("summarize",), 8.0),
    ("figures", "figures/figures.json", ("summarize",), 40.0),
    ("claims", "claims.json", ("summarize",), 8.0),
    ("report", "report.html", ("tables", "figures", "claims", "learning"), 8.0),
)
UNKNOWN_MODEL_SECONDS = 600.0  # seconds that a job counts whose model's sizes are unknown
MIN_SHARE_FOR_PACE = 0.02  # of a job has to be done before its own pace is believed
MAX_SHARE_OF_ITEM, MAX_SHARE_UNREPORTED = 0.99, 0.5  # as far as time alone takes an item at work, and a job that tells nothing
REFRESH = 10.0  # seconds between corrections
STALE_AFTER = 1800.0  # seconds after which a job on another machine that told nothing is taken for dead


@dataclass(frozen=True, slots=True)
class Step:
    """One job of a study: its stage and readable name, what it writes, which steps it waits for (by number)."""

    stage: str
    name: str
    outputs: tuple[Path, ...]
    depends_on: tuple[int, ...]
    job: JobEstimate | None = None
    default_seconds: float = UNKNOWN_MODEL_SECONDS
    has_plain_name: bool = False

    def seconds(self, found: MachineEstimates) -> float:
        """How long it takes, or what is left of it; `default_seconds` where nothing is foreseen for it."""
        return self.default_seconds if self.job is None else float(found.seconds(self.job))


@dataclass(frozen=True, slots=True)
class RunningStep:
    """A step at work, the seconds since it was first seen, and the share of it that is done, where it counts that."""

    stage: str
    name: str
    seconds: float
    share: float | None

    @property
    def progress_text(self) -> str:
        """The share in percent, or else the time."""
        return f"{self.seconds:.0f} s" if self.share is None else percent(self.share)

    def __str__(self) -> str:
        return f"{self.stage} {self.name} {self.progress_text}"


def percent(share: float) -> str:
    """A share in whole percent, rounded down: nothing is done before it is done."""
    return f"{math.floor(100 * share + 1e-9)} %"


@dataclass(frozen=True, slots=True)
class StudyProgress:
    """A study at one moment: the share of its foreseen time that is done, seconds to its end, steps done and in all, and what runs."""

    share: float
    left: float
    done: int
    steps: int
    running: tuple[RunningStep, ...]


@dataclass(slots=True)
class _Worker:
    """A process at work: when it was first seen, what it told last, and when that came."""

    step: int
    since: float
    note: Mapping[str, Any]
    at: float

    @property
    def counts(self) -> bool:
        """Whether it has told how much is done."""
        return self.note["first"] is not None

    def share(self, now: float, expected: float) -> float:
        """What is done of its step: what it told, and on to the end of the item at work as time goes by."""
        low, high, first = self.note["share"], self.note["following"], self.note["first"] or 0.0
        passed = first + (1 - first) * (now - self.since) / max(expected, 1.0)
        return max(low, min(passed, low + (MAX_SHARE_OF_ITEM if self.counts else MAX_SHARE_UNREPORTED) * (high - low)))

    def left(self, now: float, expected: float) -> float:
        """Seconds that its step still takes: by its own pace where it has told enough, else by the forecast."""
        done = self.note["share"] - (self.note["first"] or 0.0)
        if not self.counts or done < MIN_SHARE_FOR_PACE:
            return max(expected * (1 - self.share(now, expected)), 1.0)
        return max((1 - self.note["share"]) * (self.at - self.since) / done - (now - self.at), 1.0)


def steps_of(found: MachineEstimates) -> list[Step]:
    """The jobs of a study in an order in which each comes after what it waits for."""
    plan, steps = found.estimates.plan, list[Step]()
    indices: dict[Path, list[int]] = {}
    jobs: dict[str, list[JobEstimate]] = {}
    for job in found.estimates.jobs:
        jobs.setdefault(job.node.name, []).append(job)
    for node in plan.nodes:
        depends_on = tuple(index for given in node.inputs.values() if isinstance(given, Node) for index in indices[given.folder])
        made = [Step(node.stage, node.label, job.manifests, depends_on, job) for job in jobs.get(node.name, [])]
        made = made or [Step(node.stage, node.label, tuple(node.manifests), depends_on)]
        indices[node.folder] = [*range(len(steps), len(steps) + len(made))]
        steps += made
    for stage, output, reads, seconds in REPORT_STEPS:
        depends_on = tuple(index for index, step in enumerate(steps) if step.stage in reads)
        if not depends_on:  # nothing is trained in this study
            continue
        steps.append(Step(stage, plan.study.study, (results_folder(plan.study) / output,), depends_on, None, seconds, has_plain_name=True))
    return steps


def seconds_left(steps: Sequence[Step], left: Sequence[float], running: Sequence[int], slots: int) -> float:
    """When the last step ends with a number of parallel jobs: running ones continue, each other one starts once what it reads is there.

    `left` holds the seconds that each step still takes, 0 for what is done.
    """
    waits = {index: {other for other in step.depends_on if left[other]} for index, step in enumerate(steps) if left[index]}
    ready = [index for index in (*running, *(index for index in waits if index not in running)) if left[index] and not waits[index]]
    ready += [index for index in running if left[index] and index not in ready]  # whatever it reads, it is at work
    feeds: dict[int, list[int]] = {}
    for index, others in waits.items():
        for other in others:
            feeds.setdefault(other, []).append(index)
    now, busy, begun = 0.0, list[tuple[float, int]](), set(ready)
    while ready or busy:
        while ready and len(busy) < max(slots, len(running)):
            index = ready.pop(0)
            heapq.heappush(busy, (now + left[index], index))
        now, done = heapq.heappop(busy)
        for index in feeds.get(done, []):
            waits[index].discard(done)
            if not waits[index] and index not in begun:
                begun.add(index)
                ready.append(index)
    return now


class ProgressMonitor:
    """Looks at a study that is being made. `slots` says how many jobs may run at a time; without it, as many as were seen to."""

    def __init__(self, found: MachineEstimates, notes: Path, slots: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.steps, self.notes = steps_of(found), notes
        self._estimates, self._clock, self._slots, self._max_running = found, clock, slots, 1
        self._index_of_output = {str(path): index for index, step in enumerate(self.steps) for path in step.outputs}
        self._workers: dict[Path, _Worker] = {}
        self._done: set[int] = set()
        self._changed, self._refreshed, self._share = False, clock(), 0.0
        self._weights = self._seconds = [step.seconds(found) for step in self.steps]  # weights stay, so that a share is comparable

    def poll(self) -> StudyProgress:
        """The study as it is now; its share never falls."""
        now = self._clock()
        self._update_done()
        self._refresh(now)
        workers = self._running_workers(now)
        self._max_running = max(self._max_running, len(workers))
        shares = {index: worker.share(now, self._seconds[index]) for index, worker in workers.items()}
        left = [0.0 if index in self._done else seconds for index, seconds in enumerate(self._seconds)]
        made = sum(weight * shares.get(index, float(index in self._done)) for index, weight in enumerate(self._weights))
        for index, worker in workers.items():
            left[index] = worker.left(now, self._seconds[index])
        self._share = max(self._share, made / sum(self._weights))
        running = tuple(
            RunningStep(self.steps[index].stage, self.steps[index].name, now - worker.since, shares[index] if worker.counts else None)
            for index, worker in workers.items()
        )
        seconds_ahead = seconds_left(self.steps, left, [*workers], self._slots or self._max_running)
        return StudyProgress(self._share, seconds_ahead, len(self._done), len(self.steps), running)

    def _update_done(self) -> None:
        """See which steps have all their outputs; the last ones, which have plain names, none that is older than what they read."""
        times: dict[int, float] = {}
        for index, step in enumerate(self.steps):
            written = [_written(path) for path in step.outputs]
            read = [times.get(other, math.inf) for other in step.depends_on] if step.has_plain_name else [0.0]
            if min(written) and min(written) >= max(read):
                times[index] = max(written)
        self._changed |= set(times) != self._done
        self._done = set(times)

    def _refresh(self, now: float) -> None:
        """Correct the forecast by what has finished since it was last done."""
        if self._changed and now - self._refreshed >= REFRESH:
            self._estimates, self._changed, self._refreshed = self._estimates.with_latest_costs(), False, now
            self._seconds = [step.seconds(self._estimates) for step in self.steps]

    def _running_workers(self, now: float) -> dict[int, _Worker]:
        """Processes whose notes lie in the folder, by what they make; of several that make the same, the one seen last."""
        notes = dict(_read(self.notes))
        self._workers = {path: worker for path, worker in self._workers.items() if path in notes}
        for path, note in notes.items():
            index = self._index_of_output.get(note["output"])
            known = self._workers.get(path)
            if index is None:
                self._workers.pop(path, None)
            elif known is None or known.step != index:
                self._workers[path] = _Worker(index, now, note, now)
            elif known.note != note:
                known.note, known.at = note, now
        found = sorted(self._workers.values(), key=lambda worker: worker.since)
        return {worker.step: worker for worker in found if worker.step not in self._done and _is_alive(worker, now)}


def _written(path: Path) -> float:
    """When a file was written; 0 where there is none."""
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _is_alive(worker: _Worker, now: float) -> bool:
    """Whether a process that left a note lives: it does on this machine, or it told something of late."""
    if worker.note["host"] == socket.gethostname():
        return psutil.pid_exists(worker.note["pid"])
    return now - worker.at < STALE_AFTER


def _read(folder: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The notes in a folder; one that is gone meanwhile, or is of another make, is left out."""
    for path in sorted(folder.glob("*.json")):
        with suppress(OSError, ValueError):
            note = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(note, dict) and {"output", "host", "pid", "first", "share", "following"} <= note.keys():
                yield path, note


def empty_folder(folder: Path) -> Path:
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

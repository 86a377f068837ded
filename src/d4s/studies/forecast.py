"""What `d4s plan` says beside what is there: memory, disk and time of every job on a machine, and what cannot fit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any

from d4s.planning.fit import Machine, refuse_what_cannot_fit, this_machine
from d4s.planning.needs import GIB, MIB, Number
from d4s.planning.speed import SLOW_DEVICE, Speed, known_speed
from d4s.studies.costs import cost_rows
from d4s.studies.jobs import Foreseen, Job
from d4s.studies.resolve import Plan

SURE = 120.0  # seconds of finished work that count as much as the forecast itself


@dataclass(frozen=True)
class Forecast:
    """The jobs of a study on a machine of a speed."""

    foreseen: Foreseen
    machine: Machine
    host: Speed
    device: Speed

    @cached_property
    def measured(self) -> Mapping[str, list[dict[str, Any]]]:
        """What the calls that made artefacts of this study cost, by folder name."""
        return {node.name: [*cost_rows(node.folder)] for node in self.foreseen.plan.nodes}

    @cached_property
    def _finished(self) -> list[tuple[str, float, Number]]:
        """Verb, measured and foreseen seconds of every finished artefact that a record tells of."""
        jobs: dict[str, list[Job]] = {}
        for job in self.foreseen.jobs:
            jobs.setdefault(job.node.name, []).append(job)
        found = []
        for name, shards in jobs.items():
            took = sum(row["wall_s"] for row in self.measured[name])
            foreseen = sum(job.seconds(self.host, self.device) for job in shards)
            if took and foreseen and all(job.is_done for job in shards):  # what only copies its baseline is foreseen as nothing
                found.append((shards[0].node.verb, took, foreseen))
        return found

    @cached_property
    def corrections(self) -> Mapping[str, float]:
        """By verb, how much longer than foreseen its finished artefacts took (median); absent without any."""
        ratios: dict[str, list[float]] = {}
        for verb, took, foreseen in self._finished:
            ratios.setdefault(verb, []).append(took / foreseen)
        return {verb: median(found) for verb, found in ratios.items()}

    @cached_property
    def pace(self) -> float:
        """How much longer than foreseen everything finished took together; near 1 as long as that is little."""
        took, foreseen = sum(took for _, took, _ in self._finished), sum(foreseen for _, _, foreseen in self._finished)
        return (SURE + took) / (SURE + foreseen)

    def refreshed(self) -> "Forecast":
        """The same study with what has finished meanwhile."""
        return replace(self)

    def seconds(self, job: Job) -> Number:
        """How long a job takes, or what is left of it, corrected by what its verb took before, or else all verbs together."""
        return job.seconds(self.host, self.device, whole=job.is_done) * self.corrections.get(job.node.verb, self.pace)

    def lines(self) -> Iterator[str]:
        """A table by verb, totals, and models about which nothing can be said."""
        device = "no device" if self.machine.device is None else f"a device of {self.machine.device / GIB:.1f} GiB"
        yield f"foreseen for {self.machine.host / GIB:.1f} GiB of memory and {device}; time of what is to do, one job after another"
        yield f"  {'verb':<12} {'jobs':>4} {'to do':>5} {'memory GiB':>10} {'device GiB':>10} {'disk GiB':>8} {'minutes':>8}"
        jobs = self.foreseen.jobs
        for verb in dict.fromkeys(job.node.verb for job in jobs):
            yield self._line(verb, [job for job in jobs if job.node.verb == verb])
        yield self._line("all", jobs)
        for model, why in self.foreseen.unknown.items():
            yield f"  nothing is foreseen for the jobs of model {model!r}: {why}"

    def _line(self, name: str, jobs: list[Job]) -> str:
        todo = [job for job in jobs if not job.is_done]
        host, device = (max((size / GIB for size in sizes), default=0.0) for sizes in _sizes(jobs))
        disk, minutes = sum(job.needs.disk for job in jobs) / GIB, sum(map(self.seconds, todo)) / 60
        return f"  {name:<12} {len(jobs):>4} {len(todo):>5} {host:>10.2f} {device:>10.2f} {disk:>8.2f} {minutes:>8.1f}"

    def content(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "study": self.foreseen.plan.study.study,
            "machine": {"memory_bytes": self.machine.host, "device_bytes": self.machine.device},
            "speed": {
                name: {"single_flops": speed.single, "double_flops": speed.double, "call_s": speed.call}
                for name, speed in (("host", self.host), ("device", self.device))
            },
            "unknown_models": dict(self.foreseen.unknown),
            "jobs": [self._job(job) for job in self.foreseen.jobs],
        }

    def _job(self, job: Job) -> dict[str, Any]:
        costs = self.measured[job.node.name]
        return {
            "verb": job.node.verb,
            "artifact": job.node.name,
            "outputs": [path.name for path in job.manifests],
            "is_done": job.is_done,
            "host_bytes": round(job.needs.host_bytes),
            "device_bytes": round(job.needs.device_bytes),
            "host": {name: round(size) for name, size in job.needs.host.items()},
            "device": {name: round(size) for name, size in job.needs.device.items()},
            "disk_bytes": round(job.needs.disk),
            "seconds": round(self.seconds(job), 1),
            "measured_peak_bytes": max((round(row["peak_rss_mb"] * MIB) for row in costs), default=None),
        }

    def refuse_what_cannot_fit(self) -> None:
        """Do nothing where every job that is to do fits; else one error that names all that do not."""
        refuse_what_cannot_fit(((job.name, job.needs) for job in self.foreseen.jobs if not job.is_done), self.machine)


def _sizes(jobs: list[Job]) -> tuple[list[Number], list[Number]]:
    return [job.needs.host_bytes for job in jobs], [job.needs.device_bytes for job in jobs]


def forecast(plan: Plan, memory: float | None = None, device_memory: float | None = None) -> Forecast:
    """The forecast of a resolved study on this machine, or on one with memory of given sizes in GiB."""
    may_use_device = any(getattr(model, "device_map", None) not in {None, "cpu"} for model in plan.study.models.values())
    machine = this_machine(memory, device_memory, asks_device=may_use_device)
    has_device = machine.device is not None
    is_here = has_device and device_memory is None
    return Forecast(Foreseen(plan, has_device=has_device), machine, known_speed(), known_speed(on_device=True) if is_here else SLOW_DEVICE)

"""What `d4s plan` says beside what is there: memory, disk and time of every job on a machine, and what cannot fit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any

from d4s.analysis.costs import cost_rows
from d4s.resources.capacity import Machine, check_capacity, this_machine
from d4s.resources.job_estimates import JobEstimate, ResourceEstimates
from d4s.resources.machine_speed import SLOW_DEVICE, Speed, known_speed
from d4s.resources.requirements import GIB, MIB, Number
from d4s.study.plan import StudyPlan

PRIOR_SECONDS = 120.0  # seconds of finished work that count as much as the forecast itself


@dataclass(frozen=True)
class MachineEstimates:
    """The jobs of a study on a machine of a speed."""

    estimates: ResourceEstimates
    machine: Machine
    host: Speed
    device: Speed

    @cached_property
    def measured(self) -> Mapping[str, list[dict[str, Any]]]:
        """What the calls that made artefacts of this study cost, by folder name."""
        return {node.name: [*cost_rows(node.folder)] for node in self.estimates.plan.nodes}

    @cached_property
    def _finished(self) -> list[tuple[str, float, Number]]:
        """Stage, measured and foreseen seconds of every finished artefact that a record tells of."""
        jobs: dict[str, list[JobEstimate]] = {}
        for job in self.estimates.jobs:
            jobs.setdefault(job.node.name, []).append(job)
        found = []
        for name, shards in jobs.items():
            took = sum(row["wall_s"] for row in self.measured[name])
            predicted = sum(job.seconds(self.host, self.device) for job in shards)
            if took and predicted and all(job.is_done for job in shards):  # what only copies its baseline is foreseen as nothing
                found.append((shards[0].node.stage, took, predicted))
        return found

    @cached_property
    def corrections(self) -> Mapping[str, float]:
        """By stage, how much longer than foreseen its finished artefacts took (median); absent without any."""
        ratios: dict[str, list[float]] = {}
        for stage, took, predicted in self._finished:
            ratios.setdefault(stage, []).append(took / predicted)
        return {stage: median(found) for stage, found in ratios.items()}

    @cached_property
    def overall_ratio(self) -> float:
        """How much longer than foreseen everything finished took together; near 1 as long as that is little."""
        took, predicted = sum(took for _, took, _ in self._finished), sum(predicted for _, _, predicted in self._finished)
        return (PRIOR_SECONDS + took) / (PRIOR_SECONDS + predicted)

    def with_latest_costs(self) -> "MachineEstimates":
        """The same study with what has finished meanwhile."""
        return replace(self)

    def seconds(self, job: JobEstimate) -> Number:
        """How long a job takes, or what is left of it, corrected by what its stage took before, or else all stages together."""
        return job.seconds(self.host, self.device, whole=job.is_done) * self.corrections.get(job.node.stage, self.overall_ratio)

    def lines(self) -> Iterator[str]:
        """A table by stage, totals, and models about which nothing can be said."""
        device = "no device" if self.machine.device is None else f"a device of {self.machine.device / GIB:.1f} GiB"
        yield f"foreseen for {self.machine.host / GIB:.1f} GiB of memory and {device}; time of what is to do, one job after another"
        yield f"  {'stage':<12} {'jobs':>4} {'to do':>5} {'memory GiB':>10} {'device GiB':>10} {'disk GiB':>8} {'minutes':>8}"
        jobs = self.estimates.jobs
        for stage in dict.fromkeys(job.node.stage for job in jobs):
            yield self._line(stage, [job for job in jobs if job.node.stage == stage])
        yield self._line("all", jobs)
        for model, why in self.estimates.unknown.items():
            yield f"  nothing is foreseen for the jobs of model {model!r}: {why}"

    def _line(self, name: str, jobs: list[JobEstimate]) -> str:
        todo = [job for job in jobs if not job.is_done]
        host, device = (max((size / GIB for size in sizes), default=0.0) for sizes in _sizes(jobs))
        disk, minutes = sum(job.requirements.disk for job in jobs) / GIB, sum(map(self.seconds, todo)) / 60
        return f"  {name:<12} {len(jobs):>4} {len(todo):>5} {host:>10.2f} {device:>10.2f} {disk:>8.2f} {minutes:>8.1f}"

    def content(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "study": self.estimates.plan.study.study,
            "machine": {"memory_bytes": self.machine.host, "device_bytes": self.machine.device},
            "speed": {
                name: {"single_flops": speed.single, "double_flops": speed.double, "call_s": speed.call}
                for name, speed in (("host", self.host), ("device", self.device))
            },
            "unknown_models": dict(self.estimates.unknown),
            "jobs": [self._job(job) for job in self.estimates.jobs],
        }

    def _job(self, job: JobEstimate) -> dict[str, Any]:
        costs = self.measured[job.node.name]
        return {
            "stage": job.node.stage,
            "artifact": job.node.name,
            "outputs": [path.name for path in job.manifests],
            "is_done": job.is_done,
            "host_bytes": round(job.requirements.host_bytes),
            "device_bytes": round(job.requirements.device_bytes),
            "host": {name: round(size) for name, size in job.requirements.host.items()},
            "device": {name: round(size) for name, size in job.requirements.device.items()},
            "disk_bytes": round(job.requirements.disk),
            "seconds": round(self.seconds(job), 1),
            "measured_peak_bytes": max((round(row["peak_rss_mb"] * MIB) for row in costs), default=None),
        }

    def check_capacity(self) -> None:
        """Do nothing where every job that is to do fits; else one error that names all that do not."""
        check_capacity(((job.name, job.requirements) for job in self.estimates.jobs if not job.is_done), self.machine)


def _sizes(jobs: list[JobEstimate]) -> tuple[list[Number], list[Number]]:
    return [job.requirements.host_bytes for job in jobs], [job.requirements.device_bytes for job in jobs]


def estimate_on_machine(plan: StudyPlan, memory: float | None = None, device_memory: float | None = None) -> MachineEstimates:
    """The forecast of a resolved study on this machine, or on one with memory of given sizes in GiB."""
    may_use_device = any(getattr(model, "device_map", None) not in {None, "cpu"} for model in plan.study.models.values())
    machine = this_machine(memory, device_memory, asks_device=may_use_device)
    has_device = machine.device is not None
    is_here = has_device and device_memory is None
    return MachineEstimates(
        ResourceEstimates(plan, has_device=has_device), machine, known_speed(), known_speed(on_device=True) if is_here else SLOW_DEVICE
    )

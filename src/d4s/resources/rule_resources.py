"""What the rules of the workflow ask of Snakemake for each job: memory, time, devices and priority; enters no hash."""

from dataclasses import dataclass
from functools import cached_property
from math import ceil

from d4s.resources.job_estimates import ResourceEstimates
from d4s.resources.machine_speed import SLOW_DEVICE, SLOW_HOST
from d4s.resources.requirements import MIB
from d4s.study.graph import Node
from d4s.study.rule_lookups import RuleLookups

MEMORY_MARGIN = 1.25  # memory beyond what is foreseen
TIME_MARGIN, MIN_MINUTES = 4, 10  # time as a multiple of what is foreseen, and at least, in minutes
UNKNOWN_MODEL_MB, UNKNOWN_MODEL_MINUTES = 64_000, 600  # where the model's sizes are unknown
GATHERING_MB = 200  # of a job that only looks whether all parts are there
SNAKEMAKE_MB = 500  # of the two Snakemakes that stand beside each job on a cluster, in the memory that the job asks for


@dataclass(frozen=True, slots=True)
class RuleResources:
    """What a job asks for: memory in MiB, minutes, devices."""

    mem_mb: int
    runtime: int
    gpu: int


@dataclass(frozen=True)
class RuleResourceTable:
    """The resources of all jobs of a plan."""

    lookups: RuleLookups

    @cached_property
    def _estimates(self) -> ResourceEstimates:
        return ResourceEstimates(self.lookups.plan, has_device=True)

    def of(self, name: str, *, is_shard: bool = False) -> RuleResources:
        """What the job of an artefact asks for: the most that it or anything made ahead in its process needs, and the time of all."""
        if self.lookups.shards(name) and not is_shard:
            return RuleResources(GATHERING_MB + SNAKEMAKE_MB, self._limited(MIN_MINUTES), 0)
        found = [self._single(node) for node in (self.lookups.nodes[name], *self.lookups.ahead(name))]
        return RuleResources(
            max(one.mem_mb for one in found) + SNAKEMAKE_MB,
            self._limited(sum(self._limited(one.runtime) for one in found)),
            max(one.gpu for one in found),
        )

    def priority(self, name: str) -> int:
        """The longest jobs first, so that none is left over when all others are done: foreseen seconds on a slow machine."""
        nodes = (self.lookups.nodes[name], *self.lookups.ahead(name))
        return round(sum(job.seconds(SLOW_HOST, SLOW_DEVICE) for node in nodes for job in self._estimates.of(node)))

    def _limited(self, minutes: int) -> int:
        return min(minutes, self.lookups.plan.study.execution.time_limit or minutes)

    def _single(self, node: Node) -> RuleResources:
        """What an artefact asks for by itself: the largest of its jobs, with room to spare."""
        jobs = [*self._estimates.of(node)]
        if not jobs:
            return RuleResources(UNKNOWN_MODEL_MB, UNKNOWN_MODEL_MINUTES, int(self._estimates.wants_device(node)))
        most = max(job.requirements.host_bytes for job in jobs)
        longest = max(job.seconds(SLOW_HOST, SLOW_DEVICE) for job in jobs)
        return RuleResources(
            ceil(MEMORY_MARGIN * most / MIB / 100) * 100,
            max(MIN_MINUTES, ceil(TIME_MARGIN * longest / 60)),
            int(any(job.on_device for job in jobs)),
        )

"""What the rules of the workflow look up in a plan, by the name of an artefact's folder: inputs by role, order, what one process makes.

Artefacts that are made from the same loaded model share a process where that saves a start: rule `edit` also makes the measures, free
answers, answers to shifted prompts and benchmarks of its run, the first `baseline` of a draw what else the unedited model says of it, the
first `edit_single` of a sweep the single edits at its other layers. The one job makes the parts of the others ahead; each of these has a
rule and a job of its own all the same, which finds its parts and writes its end marker.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cached_property

from d4s.end_markers import SHARDS, marker_name
from d4s.study.graph import Node
from d4s.study.plan import CellKey, StudyPlan
from d4s.study_settings import AT_LAYER

SHARED_STAGES = ("moments", "targets", "edit_single")
"""Stages whose parts several jobs may share."""
STAGES_OF_DRAW, STAGES_OF_RUN = ("baseline", "targets", "objectives"), ("measure", "answer", "robustness", "benchmark")


@dataclass(frozen=True)
class RuleLookups:
    """A plan as the rules see it."""

    plan: StudyPlan

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """Every artefact by the name of its folder."""
        return {node.name: node for node in self.plan.nodes}

    def names(self, *stages: str) -> str:
        """A regular expression that matches the folders of some stages' artefacts, and nothing else."""
        return "|".join(re.escape(node.name) for stage in stages for node in self.plan.of(stage)) or "(?!)"

    def markers(self, *stages: str) -> list[str]:
        """What the rules of some stages declare, of all their artefacts."""
        return [str(node.marker) for stage in stages for node in self.plan.of(stage)]

    def inputs(self, name: str, roles: Sequence[str]) -> dict[str, str]:
        """The files that an artefact is made from, by role. A role with a `*` stands for all that match; one that it lacks is left out."""
        given = self._paths(self.nodes[name])
        return {role: path for role, path in given.items() if any(fnmatch(role, pattern) for pattern in roles)}

    def _paths(self, node: Node) -> dict[str, str]:
        """Inputs by role, each with the marker of all parts that the plan wants of it."""
        return {
            role: str(self.nodes[given.name].marker if isinstance(given, Node) else given.marker) for role, given in node.inputs.items()
        }

    # --- shards ---------------------------------------------------------------------------------------------------

    def shards(self, name: str) -> list[str]:
        """The markers of the jobs that share an artefact; none where a single one makes it."""
        node, count = self.nodes[name], self.shard_count(self.nodes[name].stage)
        named = [marker_name([path.name for path in manifests]) for manifests in node.shards(count)] if count > 1 else []
        return [str(node.folder / SHARDS / marker) for marker in named]

    def shard_count(self, stage: str) -> int:
        """How many jobs may share each artefact of a stage."""
        return getattr(self.plan.study.execution.shards, stage) if stage in SHARED_STAGES else 1

    # --- made ahead -----------------------------------------------------------------------------------------------

    def ahead(self, name: str) -> list[Node]:
        """The artefacts that the job of this one may make in its process, in order."""
        return self._followers.get(name, [])

    def leader(self, name: str) -> list[str]:
        """The marker of the job whose process makes this artefact ahead, so that its own job comes after; nothing where there is none."""
        return [str(self.nodes[self._leaders[name]].marker)] if name in self._leaders else []

    def inputs_ahead(self, name: str) -> list[str]:
        """What artefacts that are made ahead are made from and this one is not, without what is made in its process."""
        node, ahead = self.nodes[name], self.ahead(name)
        own = {str(one.marker) for one in (node, *ahead)} | set(self._paths(node).values())
        return [path for path in dict.fromkeys(path for one in ahead for path in self._paths(one).values()) if path not in own]

    @cached_property
    def _followers(self) -> dict[str, list[Node]]:
        """By the artefact whose job leads, those that its process makes ahead: of a run its measures, answers, then benchmarks."""
        found: dict[str, list[Node]] = {node.name: [] for node in self.plan.of("edit")}
        for node in (node for stage in STAGES_OF_RUN for node in self.plan.of(stage)):
            if isinstance(run := node.inputs.get("run"), Node):
                found[run.name].append(node)
        draws: dict[str, list[Node]] = {}
        first_draws = {node.label.rpartition(".")[0]: node.label for node in reversed(self.plan.of("baseline"))}
        for stage in STAGES_OF_DRAW:
            for node in self.plan.of(stage) if self.shard_count(stage) == 1 else ():
                draws.setdefault(first_draws.get(node.label, node.label), []).append(node)
        groups = [*draws.values(), *self._sweeps()]
        return found | {leader.name: others for leader, *others in groups}

    def _sweeps(self) -> list[list[Node]]:
        """The single edits of an editor at the layers of a sweep, together; none where several jobs share each artefact."""
        sweeps: dict[CellKey, dict[str, Node]] = {}
        for cell in self.plan.singles if self.shard_count("edit_single") == 1 else ():
            swept = replace(cell.key, editor=cell.key.editor.partition(AT_LAYER)[0])
            sweeps.setdefault(swept, {}).setdefault(cell.singles.name, cell.singles)
        return [[*cells.values()] for cells in sweeps.values()]

    @cached_property
    def _leaders(self) -> dict[str, str]:
        """By the artefact that is made ahead, the one whose job makes it."""
        return {node.name: leader for leader, nodes in self._followers.items() for node in nodes}

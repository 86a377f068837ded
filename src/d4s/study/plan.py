"""A resolved study as a value: its cells, and the artefacts that hold their results."""

from dataclasses import dataclass
from functools import cached_property

from d4s.study.graph import Node, merge_nodes
from d4s.study_settings import Study


@dataclass(frozen=True)
class CellKey:
    """One cell of the grid; all its lengths come from one run."""

    model: str
    dataset: str
    editor: str
    seed: int


@dataclass(frozen=True)
class PlannedCell:
    """A cell with its lengths and the artefacts that hold its results."""

    key: CellKey
    lengths: tuple[int, ...]
    benchmark_lengths: tuple[int, ...]
    run: Node
    measure: Node
    benchmark: Node | None
    objectives: Node
    free_answers: tuple[Node, ...] = ()
    """Where the study asks for them: the free answers, and where somebody judges them, the verdicts."""


@dataclass(frozen=True)
class PlannedSingles:
    """A cell of single edits: how many requests are edited alone, and the artefact with their results."""

    key: CellKey
    requests: int
    singles: Node


@dataclass(frozen=True)
class PlannedTraces:
    """Causal tracing of the first facts of a data set's draw; `dataset` is the first one of those that are problems of the same facts."""

    model: str
    dataset: str
    seed: int
    facts: int
    traces: Node


@dataclass(frozen=True)
class PlannedAnswers:
    """Answers to shifted prompts of a cell's models, with the lengths; of models that were never edited where `editor` is empty."""

    key: CellKey
    lengths: tuple[int, ...]
    answers: Node


@dataclass(frozen=True)
class StudyPlan:
    """A resolved study."""

    study: Study
    cells: tuple[PlannedCell, ...]
    singles: tuple[PlannedSingles, ...]
    traces: tuple[PlannedTraces, ...]
    world_reports: tuple[Node, ...]
    answers: tuple[PlannedAnswers, ...] = ()

    @property
    def models(self) -> list[str]:
        """Names of the models that are edited."""
        return list(dict.fromkeys(cell.key.model for cell in (*self.cells, *self.singles)))

    @property
    def facts(self) -> dict[str, Node]:
        """The artefacts of the data sets that requests are drawn from, by name."""
        drawn = {cell.key.dataset: run for cell, run in [*((c, c.run) for c in self.cells), *((c, c.singles) for c in self.singles)]}
        return {name: facts for name, run in drawn.items() if isinstance(facts := run.inputs["facts"], Node)}

    @cached_property
    def nodes(self) -> list[Node]:
        """Every artefact once, inputs before what they feed."""
        ends = [
            node for cell in self.cells for node in (cell.run, cell.measure, *cell.free_answers, cell.benchmark, cell.objectives) if node
        ]
        ends += [*(cell.singles for cell in self.singles), *(traced.traces for traced in self.traces)]
        ends += [one.answers for one in self.answers]
        return merge_nodes([step for node in (*ends, *self.world_reports) for step in (*node.upstream(), node)])

    def of(self, stage: str) -> list[Node]:
        """The artefacts that one stage makes."""
        return [node for node in self.nodes if node.stage == stage]

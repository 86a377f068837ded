"""The jobs of a plan with what each will need: memory, disk and work; for `d4s plan` and for the resources of rules."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

from d4s.config import BenchmarkSettings, HFModel, MeasureSettings, MomentsSettings, PretrainSettings
from d4s.editors.parts import PrepareSettings, TargetsJobSettings
from d4s.editors.settings import FAMILY_SETTINGS, FamilySettings
from d4s.planning import memory, work
from d4s.planning.memory import Placed, Prompts
from d4s.planning.needs import MIB, Bytes, Needs, Number, Work
from d4s.planning.shape import UnknownShape, shape_of_model
from d4s.planning.speed import LIGHT_STARTUP, SLOW_DEVICE, SLOW_HOST, STARTUP, Speed
from d4s.runs.settings import BaselineSettings
from d4s.studies.graph import Node
from d4s.studies.resolve import ON_RUNS, Plan

SPREADING = frozenset({"auto", "balanced", "balanced_low_0", "sequential"})  # device maps that take all devices there are
NO_TORCH = frozenset({"world", "facts", "questions", "adopt"})
QUESTION_TOKENS = {"multiple_choice": (64, 52)}  # of a prompt and of what follows its lookup token
OTHER_QUESTION_TOKENS, STATEMENT_TOKENS = (30, 16), (22, 9)
OPTIONS, WORLD_OPTION_TOKENS = 4, 15
WORLD_TASKS = 7  # as d4s.world.benchmarks makes them
BENCHMARK_ITEMS = {"local": (1800, 700.0), "hub": (28_700, 700.0)}  # of six tasks with their examples, and tokens of an option
SPARE = 1.25  # memory that a rule asks for beyond what is foreseen
SLACK, SHORTEST = 4, 10  # time that a rule asks for, as a multiple and at least, in minutes
UNFORESEEN_MB, UNFORESEEN_MINUTES = 64_000, 600  # what a rule asks for where the model's sizes are unknown


@dataclass(frozen=True, slots=True)
class Job:
    """One call of a verb; `left` is the work of those outputs that are not there yet."""

    node: Node
    manifests: tuple[Path, ...]
    needs: Needs
    on_device: bool
    left: Work

    @property
    def name(self) -> str:
        """Verb and folder, with the first manifest where several jobs share a folder."""
        shard = f"/{self.manifests[0].stem}…" if len(self.manifests) < len(self.node.manifests) else ""
        return f"{self.node.verb} {self.node.name}{shard}"

    @property
    def is_done(self) -> bool:
        """Whether all its outputs are there."""
        return all(path.is_file() for path in self.manifests)

    def seconds(self, host: Speed, device: Speed, *, whole: bool = True) -> Number:
        """How long all of it or what is left of it takes on a machine.

        Double precision and questions run where the model is, eigenvectors on the host.
        """
        start = LIGHT_STARTUP if self.node.verb in NO_TORCH else 0.0 if self.node.verb in (*ON_RUNS, "targets") else STARTUP
        speed = device if self.on_device else host
        return start + (replace(speed, double=host.double) if self.node.verb == "prepare" else speed).seconds(
            self.needs.work if whole else self.left
        )


@dataclass(frozen=True, slots=True)
class Resources:
    """What a rule asks of Snakemake; enters no hash."""

    mem_mb: int
    runtime: int
    gpu: int


class Foreseen:
    """The jobs of a plan. Models whose sizes are unknown have no jobs here; `unknown` says why."""

    def __init__(self, plan: Plan, *, has_device: bool) -> None:
        self.plan, self._has_device = plan, has_device
        self.unknown: dict[str, str] = {}
        self._placed: dict[str, Placed] = {}
        for name in dict.fromkeys(cell.key.model for cell in plan.cells):
            try:
                self._placed[name] = self._place(name)
            except UnknownShape as error:
                self.unknown[name] = str(error)

    @cached_property
    def jobs(self) -> list[Job]:
        """Every job whose model's sizes are known, in the order of the plan."""
        return [job for node in self.plan.nodes for job in self.of(node)]

    def of(self, node: Node) -> Iterator[Job]:
        """The jobs of one artefact."""
        name = self._model_of(node)
        if name in self.unknown:
            return
        count = getattr(self.plan.study.execution.shards, node.verb, 1)
        for manifests in node.shards(count):
            placed = None if name is None else self._placed[name]
            needs = self._needs(node, tuple(manifests), placed)
            yield Job(node, tuple(manifests), needs, bool(needs.device), self._left(node, tuple(manifests), placed, needs.work))

    def resources(self, node: Node) -> Resources:
        """What the rule of an artefact asks for: the largest of its jobs, with room to spare."""
        jobs = [*self.of(node)]
        if not jobs:
            return Resources(UNFORESEEN_MB, UNFORESEEN_MINUTES, int(self._wants_device(self._model_of(node))))
        most = max(job.needs.host_bytes for job in jobs)
        longest = max(job.seconds(SLOW_HOST, SLOW_DEVICE) for job in jobs)
        return Resources(
            ceil(SPARE * most / MIB / 100) * 100, max(SHORTEST, ceil(SLACK * longest / 60)), int(any(j.on_device for j in jobs))
        )

    # --- models ---------------------------------------------------------------------------------------------------

    def _place(self, name: str) -> Placed:
        model = self.plan.study.models[name]
        dtype = model.dtype if isinstance(model, HFModel) else "float32"
        is_on_host = self.plan.study.execution.state_device == "cpu"
        return Placed(shape_of_model(model), dtype, self._wants_device(name) and self._has_device, model.corpus.row, is_on_host)

    def _wants_device(self, name: str | None) -> bool:
        model = self.plan.study.models[name] if name else None
        return isinstance(model, HFModel) and model.device_map not in {None, "cpu"}

    def _is_spread(self, name: str | None) -> bool:
        model = self.plan.study.models[name] if name else None
        return isinstance(model, HFModel) and model.device_map in SPREADING

    def _model_of(self, node: Node) -> str | None:
        """The study's name of the model that a job loads or trains, or whose sizes its inputs have."""
        if node.verb in {"adopt", "pretrain"}:
            return node.label if node.verb == "adopt" else node.label.rpartition("-m")[0]
        for role in ("model", "moments"):
            found = node.inputs.get(role)
            if isinstance(found, Node):
                return self._model_of(found)
        return None

    # --- verbs ----------------------------------------------------------------------------------------------------

    def _needs(self, node: Node, manifests: tuple[Path, ...], placed: Placed | None) -> Needs:
        if placed is None or node.verb in NO_TORCH:
            tokens = int(node.settings.get("tokens", 0))
            (host, device), disk = memory.corpus(tokens) if node.verb == "corpus" else memory.light(), 8.0 * tokens
            return Needs(host, device, disk)
        host_device, disk, todo = _RULES.get(node.verb, _reading)(self, node, manifests, placed)
        return Needs(*host_device, disk, todo, self._is_spread(self._model_of(node)))

    def _left(self, node: Node, manifests: tuple[Path, ...], placed: Placed | None, whole: Work) -> Work:
        """The work of outputs that are not there yet; a run goes on from its longest finished length."""
        pending = tuple(path for path in manifests if not path.is_file())
        if len(pending) in {0, len(manifests)}:
            return whole if pending else Work()
        if node.verb != "edit":
            return self._needs(node, pending, placed).work
        longest = max(manifests, key=lambda path: _lengths((path,))[0])
        done = max((path for path in manifests if path not in pending), key=lambda path: _lengths((path,))[0])
        return Work() if longest not in pending else whole + self._needs(node, (done,), placed).work.times(-1)

    def prompts(self, node: Node) -> Prompts:
        """Typical prompts of the facts that a job reads."""
        facts, wordings = node.inputs.get("facts"), self.plan.study.contexts.count + 1
        if not isinstance(facts, Node) or facts.verb != "questions":
            return Prompts(wordings, *STATEMENT_TOKENS)
        return Prompts(wordings, *QUESTION_TOKENS.get(str(facts.settings.get("form")), OTHER_QUESTION_TOKENS))


Outcome = tuple[tuple[Bytes, Bytes], Number, Work]
Rule = Callable[[Foreseen, Node, tuple[Path, ...], Placed], Outcome]


def _reading(foreseen: Foreseen, node: Node, manifests: tuple[Path, ...], placed: Placed) -> Outcome:
    questions = 500 if node.verb == "objectives" else 1
    return memory.reading(placed), 1e5, work.forward(placed, questions * work.QUESTION_TOKENS, passes=10)


def _corpus(foreseen: Foreseen, node: Node, manifests: tuple[Path, ...], placed: Placed) -> Outcome:
    tokens = int(node.settings["tokens"])
    return memory.corpus(tokens), 8.0 * tokens, Work()


def _pretrain(foreseen: Foreseen, node: Node, manifests: tuple[Path, ...], placed: Placed) -> Outcome:
    settings = PretrainSettings.model_validate(node.settings)
    corpus = foreseen.plan.study.models[node.label.rpartition("-m")[0]].corpus
    return memory.pretrain(placed, settings), 4 * placed.weights, work.pretrain(placed, corpus, settings.batch_rows * settings.positions)


def _moments(foreseen: Foreseen, node: Node, manifests: tuple[Path, ...], placed: Placed) -> Outcome:
    settings = MomentsSettings.model_validate(node.settings)
    layers = [int(path.stem.removeprefix("l")) for path in manifests]
    disk = len(layers) * placed.shape.mlp_width**2 * 8.0
    todo = work.moments(placed, layers, settings.tokens, settings.batch_rows)
    return memory.moments(placed, layers, settings.tokens, settings.batch_rows), disk, todo


def _targets(foreseen: Foreseen, node: Node, manifests: tuple[Path, ...], placed: Placed) -> Outcome:
    target, prompts = TargetsJobSettings.model_validate(node.settings).target, foreseen.prompts(node)
    requests = len(manifests) * memory.BLOCK
    needed = memory.targets(placed, target.layer, prompts, parts=memory.parts_of(target))
    return needed, requests * placed.shape.width * 12.0, work.targets(placed, target, prompts, requests)


def _prepare(foreseen: Foreseen, node: Node, manifests: tuple[Path, ...], placed: Placed) -> Outcome:
    settings, prompts = PrepareSettings.model_validate(node.settings), foreseen.prompts(node)
    disk = settings.basis_layers * placed.shape.mlp_width**2 * 8.0
    return memory.prepare(placed, settings, prompts), disk, work.prepare(placed, settings, prompts)


def _baseline(foreseen: Foreseen, node: Node, manifests: tuple[Path, ...], placed: Placed) -> Outcome:
    settings = BaselineSettings.model_validate(node.settings)
    asked = MeasureSettings(generate=settings.max_new_tokens > 0, max_new_tokens=max(1, settings.max_new_tokens))
    blocks = sum(path.stem.startswith("b") for path in manifests)
    todo = work.baseline(placed, blocks * memory.BLOCK, asked, settings.perplexity_rows * (blocks < len(manifests)))
    return memory.reading(placed, asked), blocks * 25e3, todo


def _edit(foreseen: Foreseen, node: Node, manifests: tuple[Path, ...], placed: Placed) -> Outcome:
    editor, lengths, prompts = _editor(node.settings["editor"]), _lengths(manifests), foreseen.prompts(node)
    copies = 1 + len(lengths) if getattr(editor, "state_kind", "") == "dense" or editor.family == "fine_tune" else 1
    needed = memory.edit(placed, editor, max(lengths), prompts)
    disk = copies * memory.ledger(editor, placed.shape, max(lengths))
    return needed, disk, work.edit(placed, editor, max(lengths), prompts)


def _measure(foreseen: Foreseen, node: Node, manifests: tuple[Path, ...], placed: Placed) -> Outcome:
    editor, lengths, prompts = _editor(node.settings["editor"]), _lengths(manifests), foreseen.prompts(node)
    settings = MeasureSettings.model_validate(node.settings["measure"])
    needed = memory.measure(placed, editor, max(lengths), prompts, settings)
    return needed, sum(lengths) * 500.0, work.measure(placed, editor, lengths, prompts, settings)


def _benchmark(foreseen: Foreseen, node: Node, manifests: tuple[Path, ...], placed: Placed) -> Outcome:
    editor, lengths, prompts = _editor(node.settings["editor"]), _lengths(manifests), foreseen.prompts(node)
    needed = memory.measure(placed, editor, max(lengths), prompts, None)
    return needed, 1e4 * len(lengths), work.benchmark(placed, editor, lengths, _benchmark_tokens(foreseen, node), prompts)


def _benchmark_tokens(foreseen: Foreseen, node: Node) -> Number:
    """Tokens of all benchmark items, each with every option."""
    chosen = BenchmarkSettings.model_validate(node.settings["benchmarks"])
    items, each = BENCHMARK_ITEMS.get(chosen.tasks, (WORLD_TASKS * foreseen.plan.study.world.benchmark_items, WORLD_OPTION_TOKENS))
    return min(items, 6 * chosen.limit if chosen.limit else items) * OPTIONS * each


def _world_report(foreseen: Foreseen, node: Node, manifests: tuple[Path, ...], placed: Placed) -> Outcome:
    editors = [_editor(settings) for settings in node.settings["editors"].values()]
    block = memory.targets(placed, 0, foreseen.prompts(node))[0]["activations"]
    host, device = max((memory.edit(placed, one, 1, foreseen.prompts(node)) for one in editors), key=lambda needed: sum(needed[0].values()))
    todo = sum((work.edit(placed, editor, 40, foreseen.prompts(node)) for editor in editors), Work())
    return ({**host, "activations": host["activations"] + block}, device), 1e5, todo


_RULES: Mapping[str, Rule] = {
    "corpus": _corpus,
    "pretrain": _pretrain,
    "moments": _moments,
    "targets": _targets,
    "prepare": _prepare,
    "baseline": _baseline,
    "edit": _edit,
    "measure": _measure,
    "benchmark": _benchmark,
    "world_report": _world_report,
}


def _editor(settings: Mapping[str, Any]) -> FamilySettings:
    return FAMILY_SETTINGS[settings["family"]].model_validate(settings)


def _lengths(manifests: tuple[Path, ...]) -> list[int]:
    return [int(path.stem.removeprefix("n")) for path in manifests]

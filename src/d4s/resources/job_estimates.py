"""The jobs of a plan with what each will need: memory, disk and work; for `d4s plan` and for the resources of rules (`rule_resources`)."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

from d4s.config import BenchmarkSettings, MeasureSettings, MomentsSettings, OrdinaryJobSettings, PretrainSettings, TraceJobSettings
from d4s.editors.edit_requests import REQUESTS_PER_BLOCK
from d4s.editors.editor_settings import parse_editor
from d4s.editors.parts.input_settings import PrepareSettings, TargetsJobSettings
from d4s.editors.parts.scope_settings import TrainedAnswer
from d4s.editors.single_blocks import SINGLES_PER_BLOCK
from d4s.metrics.benchmark_files import (
    BENCHMARK_OF_TASK,
    BENCHMARK_OF_WORLD_TASK,
    HUB_ITEMS,
    HUB_TASKS,
    ITEM_TOKENS,
    N_SHOTS,
    WORLD_ITEM_TOKENS,
    ItemTokens,
    role,
)
from d4s.models.model_shape import UnknownShape, shape_of_model
from d4s.resources import memory_estimate, work_estimate
from d4s.resources.machine_speed import LIGHT_STARTUP, STARTUP, Speed
from d4s.resources.memory_estimate import ModelPlacement, PromptSizes
from d4s.resources.requirements import Bytes, Number, Requirements, Work
from d4s.runs.run_settings import AnswerJobSettings, BaselineSettings, RobustnessJobSettings, SingleSettings
from d4s.study.graph import Node, RawFile
from d4s.study.grid_editors import trained_model
from d4s.study.plan import StudyPlan
from d4s.study.rule_lookups import STAGES_OF_RUN
from d4s.study_settings import HFModel

MULTI_DEVICE_MAPS = frozenset({"auto", "balanced", "balanced_low_0", "sequential"})  # device maps that take all devices there are
NO_TORCH = frozenset({"world", "beliefs", "facts", "questions", "adopt", "posterior", "judge", "subset", "hard_cases"})
STATEMENTS = (20, 5, 0.45)
QUESTIONS = {"true_false": (36, 22, 0.35), "multiple_choice": (48, 31, 0.65), "directly_generated": (20, 9, 0.4)}
"""Of wordings: tokens, how many of them stand from the last subject token on, and the share of requests that are alike in that.

Controls of the targets are questions that are answered directly."""
REVERSED_FACTS, REVERSAL_PASSES = 1500, 2  # facts of a data set, and passes for each with answers of one token


@dataclass(frozen=True, slots=True)
class JobEstimate:
    """One call of a stage; `remaining` is the work of those outputs that are not there yet."""

    node: Node
    manifests: tuple[Path, ...]
    requirements: Requirements
    on_device: bool
    remaining: Work

    @property
    def name(self) -> str:
        """Stage and folder, with the first manifest where several jobs share a folder."""
        shard = f"/{self.manifests[0].stem}…" if len(self.manifests) < len(self.node.manifests) else ""
        return f"{self.node.stage} {self.node.name}{shard}"

    @property
    def is_done(self) -> bool:
        """Whether all its outputs are there."""
        return all(path.is_file() for path in self.manifests)

    def seconds(self, host: Speed, device: Speed, *, whole: bool = True) -> Number:
        """How long all of it or what is left of it takes on a machine.

        Double precision and questions run where the model is, eigenvectors on the host.
        """
        start = LIGHT_STARTUP if self.node.stage in NO_TORCH else 0.0 if self.node.stage in (*STAGES_OF_RUN, "targets") else STARTUP
        speed = device if self.on_device else host
        return start + (replace(speed, double=host.double) if self.node.stage == "prepare" else speed).seconds(
            self.requirements.work if whole else self.remaining
        )


class ResourceEstimates:
    """The jobs of a plan. Models whose sizes are unknown have no jobs here; `unknown` says why."""

    def __init__(self, plan: StudyPlan, *, has_device: bool) -> None:
        self.plan, self._has_device = plan, has_device
        self.unknown: dict[str, str] = {}
        self._placements: dict[str, ModelPlacement] = {}
        for name in dict.fromkeys(name for model in plan.models for name in (model, getattr(plan.study.models[model], "of", model))):
            try:
                self._placements[name] = self._place_model(name)
            except UnknownShape as error:
                self.unknown[name] = str(error)

    @cached_property
    def jobs(self) -> list[JobEstimate]:
        """Every job whose model's sizes are known, in the order of the plan."""
        return [job for node in self.plan.nodes for job in self.of(node)]

    def of(self, node: Node) -> Iterator[JobEstimate]:
        """The jobs of one artefact."""
        name = self._model_of(node)
        if name in self.unknown:
            return
        count = getattr(self.plan.study.execution.shards, node.stage, 1)
        for manifests in node.shards(count):
            placement = None if name is None else self._placements[name]
            requirements = self._requirements(node, tuple(manifests), placement)
            yield JobEstimate(
                node,
                tuple(manifests),
                requirements,
                bool(requirements.device),
                self._remaining_work(node, tuple(manifests), placement, requirements.work),
            )

    def wants_device(self, node: Node) -> bool:
        """Whether the model that an artefact's job loads is to be on a device."""
        return self._wants_device(self._model_of(node))

    # --- models ---------------------------------------------------------------------------------------------------

    def _place_model(self, name: str) -> ModelPlacement:
        model = trained_model(self.plan.study, name)
        dtype = model.dtype if isinstance(model, HFModel) else "float32"
        is_on_host = self.plan.study.execution.state_device == "cpu"
        return ModelPlacement(shape_of_model(model), dtype, self._wants_device(name) and self._has_device, model.corpus.row, is_on_host)

    def _wants_device(self, name: str | None) -> bool:
        model = self.plan.study.models[name] if name else None
        return isinstance(model, HFModel) and model.device_map not in {None, "cpu"}

    def _is_sharded(self, name: str | None) -> bool:
        model = self.plan.study.models[name] if name else None
        return isinstance(model, HFModel) and model.device_map in MULTI_DEVICE_MAPS

    def _model_of(self, node: Node) -> str | None:
        """The study's name of the model that a job loads or trains, or whose sizes its inputs have."""
        if node.stage in {"adopt", "pretrain", "start"}:
            return node.label.rpartition("-m")[0] if node.stage == "pretrain" else node.label
        for name in ("model", "moments"):
            found = node.inputs.get(name)
            if isinstance(found, Node):
                return self._model_of(found)
        return None

    # --- stages ----------------------------------------------------------------------------------------------------

    def _requirements(self, node: Node, manifests: tuple[Path, ...], placement: ModelPlacement | None) -> Requirements:
        if node.stage == "corpus":
            tokens = int(node.settings["tokens"])
            return Requirements(*memory_estimate.corpus(tokens), disk=8.0 * tokens)
        if placement is None and node.stage == "prepare":  # texts, without a model
            return Requirements(*memory_estimate.light(memory_estimate.WITH_TABLES))
        if placement is None or node.stage in NO_TORCH:
            return Requirements(*memory_estimate.light(memory_estimate.BARE if node.stage == "adopt" else memory_estimate.LIGHT))
        host_device, disk, todo = _ESTIMATORS.get(node.stage, _reading)(self, node, manifests, placement)
        return Requirements(*host_device, disk, todo, self._is_sharded(self._model_of(node)))

    def _remaining_work(self, node: Node, manifests: tuple[Path, ...], placement: ModelPlacement | None, whole: Work) -> Work:
        """The work of outputs that are not there yet; a run goes on from its longest finished length."""
        pending = tuple(path for path in manifests if not path.is_file())
        if len(pending) in {0, len(manifests)}:
            return whole if pending else Work()
        if node.stage != "edit":
            return self._requirements(node, pending, placement).work
        longest = max(manifests, key=lambda path: _lengths((path,))[0])
        done = max((path for path in manifests if path not in pending), key=lambda path: _lengths((path,))[0])
        return Work() if longest not in pending else whole + self._requirements(node, (done,), placement).work.times(-1)

    def prompt_sizes(self, node: Node) -> PromptSizes:
        """Typical prompts of the facts that a job reads."""
        facts, per_request = node.inputs.get("facts"), self.plan.study.contexts.count + 1
        if not isinstance(facts, Node) or facts.stage != "questions":
            return PromptSizes(per_request, *STATEMENTS)
        return PromptSizes(per_request, *QUESTIONS.get(facts.settings["form"], QUESTIONS["directly_generated"]))


Outcome = tuple[tuple[Bytes, Bytes], Number, Work]
Estimator = Callable[[ResourceEstimates, Node, tuple[Path, ...], ModelPlacement], Outcome]


def _reading(estimates: ResourceEstimates, node: Node, manifests: tuple[Path, ...], placement: ModelPlacement) -> Outcome:
    questions = 500 if node.stage == "objectives" else 1
    return memory_estimate.reading(placement), 1e5, work_estimate.forward(placement, questions * work_estimate.QUESTION_TOKENS, passes=10)


def _pretrain(estimates: ResourceEstimates, node: Node, manifests: tuple[Path, ...], placement: ModelPlacement) -> Outcome:
    settings = PretrainSettings.model_validate(node.settings)
    corpus = trained_model(estimates.plan.study, node.label.rpartition("-m")[0]).corpus
    return (
        memory_estimate.pretrain(placement, settings),
        4 * placement.weights,
        work_estimate.pretrain(placement, corpus, settings.batch_rows * settings.positions),
    )


def _moments(estimates: ResourceEstimates, node: Node, manifests: tuple[Path, ...], placement: ModelPlacement) -> Outcome:
    settings = MomentsSettings.model_validate(node.settings)
    layers = [int(path.stem.removeprefix("l")) for path in manifests]
    disk = len(layers) * placement.shape.mlp_width**2 * 8.0
    todo = work_estimate.moments(placement, layers, settings.tokens, settings.batch_rows)
    return memory_estimate.moments(placement, layers, settings.tokens, settings.batch_rows), disk, todo


def _targets(estimates: ResourceEstimates, node: Node, manifests: tuple[Path, ...], placement: ModelPlacement) -> Outcome:
    target, prompt_sizes = TargetsJobSettings.model_validate(node.settings).target, estimates.prompt_sizes(node)
    requests = len(manifests) * REQUESTS_PER_BLOCK
    needed = memory_estimate.targets(placement, target.layer, prompt_sizes, parts=target.shifts)
    return needed, requests * placement.shape.width * 12.0, work_estimate.targets(placement, target, prompt_sizes, requests)


def _prepare(estimates: ResourceEstimates, node: Node, manifests: tuple[Path, ...], placement: ModelPlacement) -> Outcome:
    settings, prompt_sizes = PrepareSettings.model_validate(node.settings), estimates.prompt_sizes(node)
    whitened = settings.warm_up is not None and settings.warm_up.whiten
    squares = placement.shape.width**2 if whitened or settings.curvature is not None else 0
    disk = 8.0 * (len(settings.moment_layers) * placement.shape.mlp_width**2 + squares)
    if settings.scope is not None and isinstance(settings.scope.answer, TrainedAnswer):
        disk += 4.0 * 4.0 * placement.shape.parameters  # the weights, and a checkpoint on the way
    if (trained := settings.hypernetwork) is not None:  # the network, and a checkpoint on the way
        disk += 4.0 * 5.0 * trained.network.entries(placement.shape.mlp_width, placement.shape.width, len(trained.layers))
    return memory_estimate.prepare(placement, settings, prompt_sizes), disk, work_estimate.prepare(placement, settings, prompt_sizes)


def _baseline(estimates: ResourceEstimates, node: Node, manifests: tuple[Path, ...], placement: ModelPlacement) -> Outcome:
    settings = BaselineSettings.model_validate(node.settings)
    baseline_settings = MeasureSettings(
        generate=settings.max_new_tokens > 0, max_new_tokens=max(1, settings.max_new_tokens), fluency=settings.fluency
    )
    blocks = sum(path.stem.startswith("b") for path in manifests)
    todo = work_estimate.baseline(
        placement, blocks * REQUESTS_PER_BLOCK, baseline_settings, settings.perplexity_rows * (blocks < len(manifests))
    )
    return memory_estimate.reading(placement, baseline_settings), blocks * 25e3, todo


def _edit(estimates: ResourceEstimates, node: Node, manifests: tuple[Path, ...], placement: ModelPlacement) -> Outcome:
    editor, lengths, prompt_sizes = parse_editor(node.settings["editor"]), _lengths(manifests), estimates.prompt_sizes(node)
    copies = 1 + len(lengths) if getattr(editor, "state_kind", "") == "dense" or editor.family == "fine_tune" else 1
    needed = memory_estimate.edit(placement, editor, max(lengths), prompt_sizes)
    disk = copies * editor.ledger_bytes(placement.shape, max(lengths))
    return needed, disk, work_estimate.edit(placement, editor, max(lengths), prompt_sizes)


def _edit_single(estimates: ResourceEstimates, node: Node, manifests: tuple[Path, ...], placement: ModelPlacement) -> Outcome:
    settings, prompt_sizes = SingleSettings.model_validate(node.settings), estimates.prompt_sizes(node)
    requests = len(manifests) * SINGLES_PER_BLOCK
    todo = work_estimate.singles(placement, settings, requests, prompt_sizes)
    return memory_estimate.single(placement, settings.editor, prompt_sizes), requests * 5e3, todo


def _trace(estimates: ResourceEstimates, node: Node, manifests: tuple[Path, ...], placement: ModelPlacement) -> Outcome:
    settings, prompt_sizes, facts = TraceJobSettings.model_validate(node.settings), estimates.prompt_sizes(node), max(_lengths(manifests))
    todo = work_estimate.traces(placement, settings, facts, prompt_sizes)
    return memory_estimate.traces(placement, settings, prompt_sizes), facts * 2e4, todo


def _problem(estimates: ResourceEstimates, node: Node, manifests: tuple[Path, ...], placement: ModelPlacement) -> Outcome:
    tokens = REVERSAL_PASSES * estimates.prompt_sizes(node).tokens
    return memory_estimate.reading(placement), 1e6, work_estimate.forward(placement, REVERSED_FACTS * tokens, passes=REVERSED_FACTS * 2)


def _measure(estimates: ResourceEstimates, node: Node, manifests: tuple[Path, ...], placement: ModelPlacement) -> Outcome:
    editor, lengths, prompt_sizes = parse_editor(node.settings["editor"]), _lengths(manifests), estimates.prompt_sizes(node)
    settings = MeasureSettings.model_validate(node.settings["measure"])
    needed = memory_estimate.measure(placement, editor, max(lengths), prompt_sizes, settings)
    return needed, sum(lengths) * 500.0, work_estimate.measure(placement, editor, lengths, prompt_sizes, settings)


def _answer(estimates: ResourceEstimates, node: Node, manifests: tuple[Path, ...], placement: ModelPlacement) -> Outcome:
    editor, lengths, prompt_sizes = parse_editor(node.settings["editor"]), _lengths(manifests), estimates.prompt_sizes(node)
    asked = AnswerJobSettings.model_validate(node.settings).free_answers
    questions = MeasureSettings(max_new_tokens=asked.max_new_tokens)
    needed = memory_estimate.measure(placement, editor, max(lengths), prompt_sizes, questions)
    if not editor.is_measured:
        needed = memory_estimate.reading(placement, questions)
    return needed, sum(lengths) * 500.0 / asked.every, work_estimate.free_answers(placement, editor, lengths, prompt_sizes, asked)


def _ordinary(estimates: ResourceEstimates, node: Node, manifests: tuple[Path, ...], placement: ModelPlacement) -> Outcome:
    trained = node.inputs["model"]
    models = 1 + (trained.settings.get("keep_checkpoints", 0) if isinstance(trained, Node) else 0)
    todo = work_estimate.shifted_questions(placement, OrdinaryJobSettings.model_validate(node.settings), 0)
    return memory_estimate.reading(placement), models * 5e4, todo.times(models)


def _robustness(estimates: ResourceEstimates, node: Node, manifests: tuple[Path, ...], placement: ModelPlacement) -> Outcome:
    settings, lengths, prompt_sizes = RobustnessJobSettings.model_validate(node.settings), _lengths(manifests), estimates.prompt_sizes(node)
    editor, views = settings.editor, len(settings.shares)
    needed = memory_estimate.measure(placement, editor, max(lengths), prompt_sizes, MeasureSettings(generate=False))
    each = (
        work_estimate.shifted_questions(placement, settings.robustness, length).times(views)
        + work_estimate.replay(placement, editor, length, prompt_sizes)
        for length in lengths
    )
    return needed, views * len(lengths) * 5e4, sum(each, Work())


def _benchmark(estimates: ResourceEstimates, node: Node, manifests: tuple[Path, ...], placement: ModelPlacement) -> Outcome:
    editor, lengths, prompt_sizes = parse_editor(node.settings["editor"]), _lengths(manifests), estimates.prompt_sizes(node)
    needed = memory_estimate.measure(placement, editor, max(lengths), prompt_sizes, None)
    tasks = _benchmark_tasks(node, estimates.plan.study.world.benchmark_items)
    return needed, 1e4 * len(lengths), work_estimate.benchmark(placement, editor, lengths, tasks, prompt_sizes)


def _benchmark_tasks(node: Node, world_items: int) -> list[tuple[int, ItemTokens]]:
    """By task the number of items that are asked, and their tokens with few-shot examples."""
    chosen = BenchmarkSettings.model_validate(node.settings["benchmarks"])
    most = sys.maxsize if chosen.limit is None else chosen.limit
    if chosen.tasks == "world":
        return [(min(most, world_items), WORLD_ITEM_TOKENS) for _ in BENCHMARK_OF_WORLD_TASK]
    shots, found = {**N_SHOTS, **chosen.fewshot}, list[tuple[int, ItemTokens]]()
    for task, benchmark in BENCHMARK_OF_TASK.items():
        file = node.inputs.get(role(benchmark))
        items = count_items(file.path) if isinstance(file, RawFile) else HUB_ITEMS[benchmark]
        limit = most if isinstance(file, RawFile) else most * HUB_TASKS.get(benchmark, 1)
        found.append((min(items, limit), ITEM_TOKENS[task].with_examples(shots.get(benchmark, 0))))
    return found


@lru_cache(maxsize=len(BENCHMARK_OF_TASK))
def count_items(file: Path) -> int:
    """Items in a file, one a line."""
    return sum(1 for line in file.read_text(encoding="utf-8").split("\n") if line.strip())


def _world_report(estimates: ResourceEstimates, node: Node, manifests: tuple[Path, ...], placement: ModelPlacement) -> Outcome:
    editors = [parse_editor(settings) for settings in node.settings["editors"].values()]
    block = memory_estimate.targets(placement, 0, estimates.prompt_sizes(node))[0]["activations"]
    host, device = max(
        (memory_estimate.edit(placement, one, 1, estimates.prompt_sizes(node)) for one in editors),
        key=lambda needed: sum(needed[0].values()),
    )
    todo = sum((work_estimate.edit(placement, editor, 40, estimates.prompt_sizes(node)) for editor in editors), Work())
    return ({**host, "activations": host.get("activations", 0.0) + block}, device), 1e5, todo


_ESTIMATORS: Mapping[str, Estimator] = {
    "pretrain": _pretrain,
    "moments": _moments,
    "targets": _targets,
    "prepare": _prepare,
    "baseline": _baseline,
    "trace": _trace,
    "problem": _problem,
    "edit": _edit,
    "edit_single": _edit_single,
    "measure": _measure,
    "answer": _answer,
    "ordinary": _ordinary,
    "robustness": _robustness,
    "benchmark": _benchmark,
    "world_report": _world_report,
}


def _lengths(manifests: tuple[Path, ...]) -> list[int]:
    return [int(path.stem.removeprefix("n")) for path in manifests]

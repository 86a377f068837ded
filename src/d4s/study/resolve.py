"""A study resolved into a plan: every artefact to be made, its hashed folder, and the cells of the grid that need it.

Snakemake, `d4s plan`, `d4s prune` and the last stages all ask `resolve`; it imports no torch and reads no artefact.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

from d4s.config import FORMS, CaseSet, Compound, CorpusSettings, MeasureSettings, ProbeKind, TokenizerSettings
from d4s.editors.control_editors import edited_as, is_control
from d4s.editors.edit_requests import REQUESTS_PER_BLOCK
from d4s.editors.editor_settings import EditorSettings, Unedited, parse_editor
from d4s.editors.families import modules_of
from d4s.editors.first_edit import first_edit_settings
from d4s.editors.single_blocks import manifests_of_blocks, singles_role
from d4s.errors import SettingsError
from d4s.metrics.benchmark_files import BENCHMARK_FILES, role
from d4s.models.model_source import source_files
from d4s.pretraining.training_facts import TRAINING_FACTS
from d4s.study.data_nodes import DataNodes
from d4s.study.free_answer_nodes import free_answer_nodes
from d4s.study.graph import Node, RawFile
from d4s.study.grid_cells import REFERENCE, lengths_by_cell, rows_of_cells, shares_by_cell, singles_by_cell
from d4s.study.grid_editors import named_editors, row_editors
from d4s.study.plan import CellKey, PlannedAnswers, PlannedCell, PlannedSingles, PlannedTraces, StudyPlan
from d4s.study.validation import find_problems
from d4s.study_settings import (
    AskedModel,
    BeliefsModel,
    FactsDataset,
    HFModel,
    QuestionsDataset,
    RecordsModel,
    Study,
    WorldModel,
)
from d4s.writer_settings import RecordedJudgeSettings, ReplayWriterSettings

WORLD_REPORT_SEED = 0


def results_folder(study: Study) -> Path:
    """Folder of what people read of a study."""
    return Path("results") / study.study


def resolve(study: Study) -> StudyPlan:
    """The plan of a study.

    Raises:
        SettingsError: naming everything that is wrong with it.
        MissingDataError: if records are needed and no data folder is given.
    """
    if found := dict.fromkeys(find_problems(study)):
        raise SettingsError("the study cannot be resolved:\n" + "\n".join(f"  {problem}" for problem in found))
    resolver = _NodeBuilder(study)
    cells = [resolver.cell(key, lengths, benchmarks) for key, (lengths, benchmarks) in lengths_by_cell(study).items()]
    singles = [resolver.singles(key, requests, probes) for key, (requests, probes) in singles_by_cell(study).items()]
    answers = {one.answers.name: one for one in resolver.answers(cells)}
    return StudyPlan(
        study, tuple(cells), tuple(singles), tuple(resolver.traces()), tuple(resolver.world_reports()), tuple(answers.values())
    )


def plain_values(study: Study, *without: str) -> dict[str, Any]:
    """A study as plain values, but for some keys; validated again, they give the same study."""
    values = study.model_dump(mode="json", exclude=set(without))
    if isinstance(study.questions, ReplayWriterSettings):
        values["questions"]["store"] = study.questions.store  # enters no hash, and so no dump, but has no default
    if isinstance(study.judge, RecordedJudgeSettings):
        values["judge"]["store"] = study.judge.store
    return values


class _NodeBuilder(DataNodes):
    """Builds nodes bottom up, those of models and of cells on data."""

    def __init__(self, study: Study) -> None:
        super().__init__(study)
        self._resolved: dict[str, dict[str, EditorSettings]] = {}

    # --- data sets ------------------------------------------------------------------------------------------------

    def posterior(self, key: CellKey) -> Node:
        """What a reader of the statements that a model is trained on believes before and after the requests of a data set."""
        settings = self.study.posterior.model_dump(mode="json") | {"statements": self._statements(key.model)}
        inputs = {"world": self.beliefs(), "facts": self.dataset(key.dataset)}
        return self._node("posterior", f"{key.model}.{key.dataset}", settings, inputs)

    def _statements(self, name: str) -> tuple[Compound, ...]:
        model = self.study.models[name]
        return model.statements if isinstance(model, BeliefsModel) else ()

    def dataset(self, name: str, model: str = "") -> Node:
        """A data set, its facts as requests of its problem; for reversal, of the problem that they are to a model."""
        dataset = self.study.datasets[name]
        if isinstance(dataset, QuestionsDataset):
            return self.questions(dataset)
        facts, tracing = self._kept(name, dataset), self.study.trace
        if dataset.problem == "injection":
            return facts
        if dataset.problem == "amplification" or tracing is None:
            return self._node("problem", name, {"problem": dataset.problem}, {"facts": facts})
        settings = {"problem": dataset.problem, "noise": tracing.noise.model_dump(mode="json")}
        return self._node("problem", f"{model}.{name}", settings, {"facts": facts, "model": self.model(model)})

    def _kept(self, name: str, dataset: FactsDataset) -> Node:
        """The facts of a data set, or of them those that it keeps."""
        facts = self.facts(dataset)
        if dataset.only is None:
            return facts
        if dataset.only in get_args(CaseSet):
            return self._node("subset", name, {"cases": dataset.only}, {"facts": facts, "cases": self.hard_cases()})
        listed = self._files.setdefault(Path(dataset.only), RawFile(Path(dataset.only)))
        return self._node("subset", name, {}, {"facts": facts, "list": listed})

    def hard_cases(self) -> Node:
        """The hard cases among single edits of every seed.

        Raises:
            SettingsError: if the study looks for none.
        """
        chosen = self.study.hard_cases
        if chosen is None:
            raise SettingsError("a data set keeps hard cases, and the study has no `hard_cases`")
        planned, inputs = singles_by_cell(self.study), {"facts": self.dataset(chosen.dataset, chosen.model)}
        edited = product(self.study.seeds, (REFERENCE, *chosen.editors))
        cells = [CellKey(chosen.model, chosen.dataset, editor, seed) for seed, editor in edited]
        inputs |= {singles_role(key.seed, key.editor): self.singles(key, *planned[key]).singles for key in cells}
        settings = chosen.model_dump(mode="json", include={"count", "times"}) | {"requests": min(planned[key][0] for key in cells)}
        return self._node("hard_cases", f"{chosen.model}.{chosen.dataset}", settings, inputs)

    # --- models ---------------------------------------------------------------------------------------------------

    def _trained(self, name: str) -> str:
        """The model whose weights a model has: itself, unless it is another one asked otherwise."""
        model = self.study.models[name]
        return model.of if isinstance(model, AskedModel) else name

    def corpus_inputs(self, name: str) -> dict[str, Node | RawFile]:
        """Inputs of a model's corpus: its training data sets, and its free text."""
        model = self.study.models[name]
        if isinstance(model, WorldModel):
            inputs: dict[str, Node | RawFile] = {"teach_world_qa": self.facts(FactsDataset(source="world", style="qa"))}
            for form in FORMS if self.study.world.events else ():
                inputs[f"teach_{form}"] = self.questions(QuestionsDataset(source="questions", events="world", form=form))
            if model.labels:
                inputs["teach_world_labels"] = self.facts(FactsDataset(source="world", style="labels", limit=model.labels))
            return inputs | {"world": self.world()}
        if isinstance(model, BeliefsModel):
            kinds = ("observation", *model.statements)
            return {"world": self.beliefs(), **{f"teach_{kind}": self.facts(FactsDataset(source="beliefs", style=kind)) for kind in kinds}}
        if isinstance(model, RecordsModel):
            return self._teach_records(model) | {"text": self.raw(model.text)}
        if isinstance(model, AskedModel):
            text = self.corpus_inputs(model.of)
            return {"model": self.model(name), **{role: text[role] for role in ("world", "text") if role in text}}
        return {"model": self.model(name), "text": self.raw(model.text)}

    def _teach_records(self, model: RecordsModel) -> dict[str, Node | RawFile]:
        """The data sets that a model is trained on; for some of them also all facts of the file (`TRAINING_FACTS`)."""
        inputs: dict[str, Node | RawFile] = {f"teach_{name}": self.dataset(name) for name in model.datasets}
        for name in model.datasets:
            dataset = self.study.datasets[name]
            if isinstance(dataset, FactsDataset) and dataset.source in TRAINING_FACTS:
                inputs[f"pool_{name}"] = self.facts(dataset.model_copy(update={"limit": None}))
        return inputs

    def corpus(self, name: str) -> Node:
        model = self.study.models[name]
        if isinstance(model, AskedModel):
            trained = self.study.models[model.of].corpus  # pyright: ignore[reportAttributeAccessIssue]
            corpus = CorpusSettings(tokenizer=TokenizerSettings(kind="model"), tokens=trained.tokens, row=trained.row)
            return self._node("corpus", name, corpus.model_dump(mode="json"), self.corpus_inputs(name))
        return self._node("corpus", name, model.corpus.model_dump(mode="json"), self.corpus_inputs(name))

    def model(self, name: str) -> Node:
        model = self.study.models[name]
        if isinstance(model, HFModel):
            settings = model.model_dump(mode="json", include={"path", "revision", "dtype", "device_map"})
            files = {f"file_{number}": RawFile(path) for number, path in enumerate(source_files(model.path))}
            return self._node("adopt", name, settings, {role: self._files.setdefault(file.path, file) for role, file in files.items()})
        if isinstance(model, AskedModel):
            return self._node("start", name, {"start": model.start}, {"model": self.model(model.of)})
        settings = model.pretrain.model_dump(mode="json") | {"model_seed": model.model_seed}
        return self._node("pretrain", f"{name}-m{model.model_seed}", settings, {"corpus": self.corpus(name)})

    # --- what editors need ----------------------------------------------------------------------------------------

    def contexts(self, model: str, seed: int) -> Node:
        settings = self.study.contexts.model_dump(mode="json") | {"seed": seed}
        return self._node("contexts", f"{model}-s{seed}", settings, {"model": self.model(model)})

    def moments(self, model: str, layers: tuple[int, ...]) -> Node:
        settings = {"tokens": self.study.moments_tokens}
        inputs = {"model": self.model(model), "text": self.corpus(self._trained(model))}
        return self._node("moments", model, settings, inputs, outputs=tuple(f"l{layer}.json" for layer in layers))

    def needs(self, key: CellKey, editor: EditorSettings, longest: int) -> dict[str, Node | RawFile]:
        """The inputs of a run beside model and facts."""
        found: dict[str, Node | RawFile] = {}
        if "contexts" in editor.required_inputs:
            found["contexts"] = self.contexts(key.model, key.seed)
        if "moments" in editor.required_inputs:
            found["moments"] = self.moments(key.model, editor.moment_layers)
        shared = editor.shared_targets()
        if "targets" in editor.required_inputs and shared is not None:
            settings = {"target": shared.model_dump(mode="json"), "seed": key.seed}
            inputs = {
                "model": self.model(key.model),
                "facts": self.dataset(key.dataset, key.model),
                "contexts": self.contexts(key.model, key.seed),
            }
            label = f"{key.model}.{key.dataset}.s{key.seed}"
            found["targets"] = self._node("targets", label, settings, inputs, outputs=_blocks(longest))
        prepare = editor.prepare_settings()
        if prepare is not None:
            settings = prepare.model_dump(mode="json")
            inputs = {"moments": self.moments(key.model, prepare.moment_layers)} if prepare.moment_layers else {}
            if prepare.reads_model:
                inputs |= {"model": self.model(key.model)}
            if prepare.reads_requests or prepare.reads_pool:
                inputs |= {"facts": self.dataset(key.dataset, key.model)}
            if prepare.reads_pool:
                inputs |= {"pool": self.pool(key.dataset)}
            folders = () if prepare.scope is None else prepare.scope.folders
            paths = [path for folder in folders for path in source_files(folder)]
            inputs |= {f"folder_{number}": self._files.setdefault(path, RawFile(path)) for number, path in enumerate(paths)}
            of = key.editor if prepare.scope is None else "scope"  # which editors of one router and one answering model share
            of = of if prepare.demonstrations is None else "demonstrations"
            found["prepared"] = self._node("prepare", f"{key.model}.{of}", settings, inputs)
        return found

    def pool(self, name: str) -> Node:
        """Facts beside those of a data set that is edited: of the world those about reserved people, of records the whole file's.

        Raises:
            SettingsError: if it is a data set of questions about records, which has none.
        """
        dataset = self.study.datasets[name]
        if dataset.source == "world" or (isinstance(dataset, QuestionsDataset) and dataset.events == "world"):
            return self.facts(FactsDataset(source="world", style="reserve"))
        if isinstance(dataset, QuestionsDataset):
            raise SettingsError(f"data set {name!r} has no facts beside its questions; editors that learn from true facts need some")
        return self.facts(dataset.model_copy(update={"limit": None}))

    def baseline(self, key: CellKey, longest: int, measured: MeasureSettings | None = None) -> Node:
        """The unedited model's replies to what is asked right after every edit, or else to everything that is measured."""
        inputs: dict[str, Node | RawFile] = {"model": self.model(key.model), "facts": self.dataset(key.dataset, key.model)}
        settings: dict[str, Any] = {"seed": key.seed}
        label, outputs = f"{key.model}.{key.dataset}.s{key.seed}", _blocks(longest)
        if measured is not None:
            settings |= {name: getattr(measured, name) for name in ("probes_per_fact", "perplexity_rows")}
            settings |= {"max_new_tokens": measured.max_new_tokens if measured.generate else 0}
            settings |= {"fluency": measured.fluency} if measured.fluency else {}
            inputs, outputs = inputs | {"text": self.corpus(key.model)}, (*outputs, "whole.json")
        return self._node("baseline", label, settings, inputs, outputs=outputs)

    # --- cells ----------------------------------------------------------------------------------------------------

    def cell(self, key: CellKey, lengths: tuple[int, ...], benchmark_lengths: tuple[int, ...]) -> PlannedCell:
        """The artefacts of one cell of the grid."""
        editor = self._editors(key.model)[key.editor]
        settings = {"editor": editor.model_dump(mode="json"), "seed": key.seed}
        model, facts, text = self.model(key.model), self.dataset(key.dataset, key.model), self.corpus(key.model)
        needs = self.needs(key, editor, max(lengths))
        label = f"{key.model}.{key.dataset}.{key.editor}.s{key.seed}"
        family = modules_of(editor)
        run_inputs = {"model": model, "facts": facts, "baseline": self.baseline(key, max(lengths))}
        run = self._run(key, run_inputs | needs, lengths)
        views = {role: node for role, node in needs.items() if role != "targets"}
        shared = {"model": model, "facts": facts, "run": run, **views}
        measure = self._node(
            "measure",
            label,
            settings | {"measure": self.study.measure.model_dump(mode="json", exclude={"free_answers"})},
            shared | {"text": text, "baseline": self.baseline(key, max(lengths), self.study.measure)},
            outputs=_manifests(lengths),
            modules=family,
        )
        benchmark = self._benchmark(key, settings, shared, benchmark_lengths, family) if benchmark_lengths else None
        objectives = self._node("objectives", f"{key.model}.{key.dataset}", {}, {"model": model, "facts": facts})
        free_answers = tuple(free_answer_nodes(self.study, self._node, key, measure))
        return PlannedCell(key, lengths, benchmark_lengths, run, measure, benchmark, objectives, free_answers)

    def answers(self, cells: Iterable[PlannedCell]) -> Iterator[PlannedAnswers]:
        """Answers to shifted prompts where cells are asked, by shares of the change; first those of the models that were never edited."""
        by_key, asked = {cell.key: cell for cell in cells}, self.study.robustness.model_dump(mode="json")
        for (key, shares), lengths in shares_by_cell(self.study).items():
            measure, family = by_key[key].measure, modules_of(self._editors(key.model)[key.editor])
            inputs = {role: node for role, node in measure.inputs.items() if role != "baseline"}
            base, settings = {role: inputs[role] for role in ("model", "facts", "text")}, asked | {"seed": key.seed}
            label, draw, parts = f"{key.model}.{key.dataset}.s{key.seed}", replace(key, editor=""), _manifests(lengths)
            yield PlannedAnswers(draw, (), self._node("ordinary", label, settings, base))
            settings = {"editor": measure.settings["editor"], "seed": key.seed, "shares": shares, "robustness": asked}
            yield PlannedAnswers(key, lengths, self._node("robustness", measure.label, settings, inputs, outputs=parts, modules=family))

    def singles(self, key: CellKey, requests: int, probes: tuple[ProbeKind, ...]) -> PlannedSingles:
        """The artefact of a cell of single edits; targets are those of the original model for every editor that can take them."""
        editor = Unedited() if key.editor == REFERENCE else first_edit_settings(self._editors(key.model)[key.editor])
        rows = self.study.measure.perplexity_rows if "text" in probes else 0
        settings = {"editor": editor.model_dump(mode="json"), "seed": key.seed, "probes": probes, "perplexity_rows": rows}
        inputs: dict[str, Node | RawFile] = {"model": self.model(key.model), "facts": self.dataset(key.dataset, key.model)}
        inputs |= {"baseline": self.baseline(key, requests), **self.needs(key, editor, requests)}
        inputs |= {"posterior": self.posterior(key)} if "beliefs" in probes else {}
        label = f"{key.model}.{key.dataset}.{key.editor}.s{key.seed}"
        blocks, text = manifests_of_blocks(requests), self._text_of_singles(key.model) if rows else {}
        node = self._node("edit_single", label, settings, inputs | text, outputs=blocks, modules=modules_of(editor))
        return PlannedSingles(key, requests, node)

    def _text_of_singles(self, model: str) -> dict[str, Node | RawFile]:
        """The text whose perplexity is read after single edits: sentences of a file, or the model's held-out text."""
        return {"sentences": self.raw("", self.study.sentences)} if self.study.sentences else {"text": self.corpus(model)}

    def traces(self) -> Iterator[PlannedTraces]:
        """Causal tracing behind single edits of facts, where the study traces: once for all problems of the same facts."""
        tracing, seen = self.study.trace, set[str]()
        for _, key in rows_of_cells(self.study, "single") if tracing else ():
            dataset = self.study.datasets[key.dataset]
            if tracing is None or isinstance(dataset, QuestionsDataset):
                continue
            facts = self.facts(dataset.model_copy(update={"problem": "injection"}))
            settings, inputs = (
                tracing.model_dump(mode="json", exclude={"facts"}) | {"seed": key.seed},
                {"model": self.model(key.model), "facts": facts},
            )
            node = self._node("trace", f"{key.model}.{facts.label}.s{key.seed}", settings, inputs, outputs=_manifests((tracing.facts,)))
            if node.name not in seen:
                yield PlannedTraces(key.model, key.dataset, key.seed, tracing.facts, node)
            seen.add(node.name)

    def _run(self, key: CellKey, inputs: Mapping[str, Node | RawFile], lengths: tuple[int, ...]) -> Node:
        """The run behind a cell; a control shares that of the editor that it is a control of."""
        editors = self._editors(key.model)
        name, settings = edited_as(key.editor, {name: found.model_dump(mode="json") for name, found in editors.items()})
        label = f"{key.model}.{key.dataset}.{name}.s{key.seed}"
        modules = modules_of(parse_editor(settings))
        return self._node("edit", label, {"editor": settings, "seed": key.seed}, inputs, outputs=_manifests(lengths), modules=modules)

    def _editors(self, model: str) -> dict[str, EditorSettings]:
        """The editors that the grid applies to a model, by name."""
        if model not in self._resolved:
            rows = [row_editors(self.study, row, model) for row in self.study.grid if model in row.models]
            self._resolved[model] = {name: editor for named in rows for name, editor in named.items()}
        return self._resolved[model]

    def _benchmark(
        self, key: CellKey, settings: dict[str, Any], inputs: dict[str, Any], lengths: tuple[int, ...], family: tuple[str, ...]
    ) -> Node:
        run: Node = inputs["run"]
        only = Node(run.stage, run.kind, run.label, run.settings, run.code, run.inputs, _manifests(lengths))
        settings = settings | {"benchmarks": self.study.benchmarks.model_dump(mode="json")}
        label = f"{key.model}.{key.dataset}.{key.editor}.s{key.seed}"
        items = self._benchmark_items()
        return self._node("benchmark", label, settings, inputs | {"run": only} | items, outputs=_manifests(lengths), modules=family)

    def _benchmark_items(self) -> dict[str, Node | RawFile]:
        if self.study.benchmarks.tasks == "world":
            return {"world": self.world()}
        if self.study.benchmarks.tasks == "hub":
            return {}
        return {role(name, number): self.raw(name, file) for name, files in BENCHMARK_FILES.items() for number, file in enumerate(files)}

    def world_reports(self) -> Iterator[Node]:
        """The report against the editor-neutral criteria, on seed 0, for every edited model that is trained on the world.

        Controls are left out, and editors that erase or force, which are not meant to succeed; swept editors are asked at their own layers.
        """
        for name, model in self.study.models.items():
            if not isinstance(model, WorldModel):
                continue
            named = named_editors(self.study, name).items()
            editors = {editor: found for editor, found in named if found.raises_target and not is_control(found.model_dump())}
            layers = tuple(sorted({layer for editor in editors.values() for layer in editor.moment_layers}))
            inputs: dict[str, Node | RawFile] = {"model": self.model(name), "facts": self.facts(FactsDataset(source="world", style="qa"))}
            inputs["contexts"] = self.contexts(name, WORLD_REPORT_SEED)
            if layers:
                inputs["moments"] = self.moments(name, layers)
            if any(own.facts is not None for editor in editors.values() if (own := editor.prepare_settings()) is not None):
                inputs["pool"] = self.facts(FactsDataset(source="world", style="reserve"))
            settings = {"editors": {key: editor.model_dump(mode="json") for key, editor in editors.items()}, "seed": WORLD_REPORT_SEED}
            modules = tuple(dict.fromkeys(module for editor in editors.values() for module in modules_of(editor)))
            if editors:
                yield self._node("world_report", name, settings, inputs, modules=modules)


def _blocks(requests: int) -> tuple[str, ...]:
    return tuple(f"b{block}.json" for block in range(-(-requests // REQUESTS_PER_BLOCK)))


def _manifests(lengths: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"n{length}.json" for length in sorted(lengths))

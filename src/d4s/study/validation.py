"""What is wrong with a study that its settings alone show, all of it at once, before anything runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from d4s.config import CaseSet
from d4s.editors.editor_settings import EditorSettings
from d4s.editors.editor_settings import resolve as resolve_editor
from d4s.errors import SettingsError
from d4s.facts.event_readers import EVENT_FILES
from d4s.facts.readers import files_of
from d4s.metrics.benchmark_files import BENCHMARK_FILES
from d4s.registry import nearest
from d4s.study.case_validation import case_problems
from d4s.study.grid_editors import layers_of, row_editors
from d4s.study_settings import BeliefsModel, FactsDataset, GridRow, HFModel, QuestionsDataset, RecordsModel, Study, data_folder
from d4s.world.reader import STYLES
from d4s.writer_settings import RecordedJudgeSettings, ReplayWriterSettings

RESERVED = ("store", "logs", "recorded")  # folders of `results` that are no study's


def find_problems(study: Study) -> Iterator[str]:
    """Everything that is wrong, in words, each with where it stands."""
    if study.study in RESERVED:
        yield f"study: {study.study!r} is where results/{study.study} keeps something else; choose another name"
    told: set[str] = set()
    for number, row in enumerate(study.grid):
        where = f"grid[{number}]"
        for axis, known in (("models", study.models), ("datasets", study.datasets)):
            for name in getattr(row, axis):
                if name not in known:
                    yield f"{where}.{axis}: unknown name {name!r}; {nearest(name, list(known))}"
        yield from _lengths(study, row, where)
        yield from _beliefs(study, row, where)
        yield from _editors(study, row, where, told)
    yield from _unused_editors(study)
    yield from _styles(study)
    yield from _training_datasets(study)
    yield from _tracing(study)
    yield from case_problems(study)
    yield from _missing_files(study)
    if study.judge is not None and study.measure.free_answers is None:
        yield "judge: there is nothing to judge; set `measure.free_answers`, or leave the judge out"
    if isinstance(study.judge, RecordedJudgeSettings) and not Path(study.judge.store).is_file():
        yield f"judge.store: {study.judge.store} does not exist; name the file of recorded answers or verdicts"
    if isinstance(study.questions, ReplayWriterSettings) and not Path(study.questions.store).is_file():
        yield f"questions.store: {study.questions.store} does not exist; name the file of recorded answers"


# --- editors ----------------------------------------------------------------------------------------------------------


def _editors(study: Study, row: GridRow, where: str, told: set[str]) -> Iterator[str]:
    """What is wrong with the editors of a row; what `told` holds already, such as a settings file of several editors, once."""
    for name in row.editors:
        for model in row.models:
            if model in study.models:
                try:
                    yield from _editor(study, row.model_copy(update={"editors": (name,)}), model, where)
                except SettingsError as error:
                    if str(error) not in told:
                        told.add(str(error))
                        yield f"{where}.editors: {error}"


def _editor(study: Study, row: GridRow, model: str, where: str) -> Iterator[str]:
    """What is wrong with the one editor of a row, at each layer where it is swept.

    Raises:
        SettingsError: if it cannot be resolved for the model.
    """
    for name, editor in row_editors(study, row, model).items():
        yield from _resolved_editor(study, row, (name, editor), model, where)


def _resolved_editor(study: Study, row: GridRow, named: tuple[str, EditorSettings], model: str, where: str) -> Iterator[str]:
    name, editor = named
    if row.protocol == "sequence" and (broken := [length for length in row.lengths if length % editor.batch]):
        yield f"{where}.lengths: {broken} do not end with a batch of {name!r}; make them multiples of {editor.batch}"
    layers = layers_of(study, model)
    if layers is not None and (beyond := [layer for layer in _edited(editor) if layer >= layers]):
        yield f"{where}.editors: {name!r} edits layers {beyond}, but {model!r} has layers 0 to {layers - 1}; set layers and target.layer"

    prepare = editor.prepare_settings()
    if prepare is not None and prepare.reads_pool:
        yield from (f"{where}: {name!r} learns from true facts beside its requests, and {reason}" for reason in _no_pool(study, row))


def _no_pool(study: Study, row: GridRow) -> Iterator[str]:
    """Why data sets of a row have no true facts beside those that are edited and measured."""
    for dataset in (study.datasets[name] for name in row.datasets if name in study.datasets):
        if isinstance(dataset, FactsDataset) and dataset.source != "world":
            if dataset.limit is None:
                yield "the whole data set is edited: set its `limit`, and the records beyond it are what it learns from"
        elif isinstance(dataset, QuestionsDataset) and dataset.events != "world":
            yield f"questions about {dataset.events} have no facts beside them"
        elif not study.world.reserved_people:
            yield "nobody in the world is set apart: set `world.reserve`"


def _edited(editor: EditorSettings) -> list[int]:
    target = getattr(editor, "target", None)
    return sorted({*editor.layers, *([target.layer] if target else [])})


def _unused_editors(study: Study) -> Iterator[str]:
    used = {name for row in study.grid for name in row.editors}
    for name in sorted(set(study.editors) - used):
        try:
            resolve_editor(name, study.editors[name], next(iter(study.models.values())).hparams_for)
        except SettingsError as error:
            yield f"editors.{name}: {error}"


# --- data -------------------------------------------------------------------------------------------------------------


def _lengths(study: Study, row: GridRow, where: str) -> Iterator[str]:
    for name in row.datasets:
        bound = _editable(study, name) if name in study.datasets else None
        if bound is not None and max(row.lengths) > bound:
            yield f"{where}.lengths: {max(row.lengths)} edits asked of {name!r}, which has at most {bound} facts to edit; lower the length"


def _editable(study: Study, name: str) -> int | None:
    """An upper bound on the facts of a data set of the world that can be edited; records tell theirs only when they are read."""
    dataset, world = study.datasets[name], study.world
    people, events = (world.people, world.reserved_people), (world.events, 0)
    each = {"qa": (*people, 4), "labels": (*people, 4), "events": (*people, 1), "commonsense": (*events, 3)}
    if isinstance(dataset, FactsDataset) and dataset.only in get_args(CaseSet):
        return study.hard_cases.count if study.hard_cases else None
    if isinstance(dataset, FactsDataset) and dataset.source == "world" and dataset.style in each:
        count, reserved, facts = each[dataset.style]
    elif isinstance(dataset, QuestionsDataset) and dataset.events == "world":
        count, reserved, facts = *events, 3
    else:
        return None
    whole, bystanders = (count - reserved) * facts, round(world.bystanders * count) * facts  # reserved people come last, bystanders first
    return max(0, min(whole, dataset.limit or whole) - bystanders)


def _beliefs(study: Study, row: GridRow, where: str) -> Iterator[str]:
    """What is asked about beliefs although no statements about them are learnt, or no requests made."""
    if "beliefs" not in row.probes:
        return
    if trained := [name for name in row.models if not isinstance(study.models.get(name), BeliefsModel)]:
        yield f"{where}.probes: `beliefs` is asked of models with `source: beliefs`, and {trained} have another; leave either out"
    for name in row.datasets:
        dataset = study.datasets.get(name)
        if not isinstance(dataset, FactsDataset) or dataset.source != "beliefs" or dataset.style not in ("", "requests"):
            yield f"{where}.probes: `beliefs` is asked about `source: beliefs`, `style: requests`, which {name!r} is not; leave either out"


def _styles(study: Study) -> Iterator[str]:
    for name, dataset in study.datasets.items():
        if isinstance(dataset, FactsDataset):
            try:
                STYLES.module(dataset.style) if dataset.source == "world" else files_of(dataset.source, dataset.style)
            except SettingsError as error:
                yield f"datasets.{name}: {error}"


def _training_datasets(study: Study) -> Iterator[str]:
    for name, model in study.models.items():
        for dataset in model.datasets if isinstance(model, RecordsModel) else ():
            found = study.datasets.get(dataset)
            if found is None:
                yield f"models.{name}.datasets: unknown name {dataset!r}; {nearest(dataset, list(study.datasets))}"
            elif isinstance(found, FactsDataset) and found.problem != "injection":
                yield f"models.{name}.datasets: {dataset!r} turns facts into {found.problem}; train on the facts themselves"


def _tracing(study: Study) -> Iterator[str]:
    """What is wrong with causal tracing, and with problems that need its noise."""
    if study.trace is None:
        for name, dataset in study.datasets.items():
            if isinstance(dataset, FactsDataset) and dataset.problem == "reversal":
                yield f"datasets.{name}.problem: reversal takes its noise from `trace`, which the study lacks"
        return
    rows = [row for row in study.grid if row.protocol == "single"]
    if not rows:
        yield "trace: only facts that are edited alone are traced; set protocol to single, or leave it out"
    bounds = [bound for row in rows for name in row.datasets if name in study.datasets and (bound := _editable(study, name)) is not None]
    if bounds and study.trace.facts > min(bounds):
        yield f"trace.facts: {study.trace.facts} facts asked for, but at most {min(bounds)} can be edited; lower it"
    for model in dict.fromkeys(model for row in rows for model in row.models if model in study.models):
        layers, asked = layers_of(study, model), study.trace.layers
        if layers is not None and asked != "all" and (beyond := [layer for layer in asked if layer >= layers]):
            yield f"trace.layers: {beyond} asked for, but {model!r} has layers 0 to {layers - 1}"


def _missing_files(study: Study) -> Iterator[str]:
    """Files of the data folder that are not there."""
    needed = [*_needed_files(study)]
    if not needed:
        return
    folder = data_folder(study.data)
    for file in dict.fromkeys(needed):
        if not (folder / file).is_file():
            yield f"data: {folder / file} does not exist; get it (`d4s fetch`, docs/datasets.md), or let `data:` name another folder"


def _needed_files(study: Study) -> Iterator[str]:
    models = [study.models[name] for name in dict.fromkeys(name for row in study.grid for name in row.models) if name in study.models]
    training_datasets = [name for model in models if isinstance(model, RecordsModel) for name in model.datasets]
    for name in dict.fromkeys([*(name for row in study.grid for name in row.datasets), *training_datasets]):
        dataset = study.datasets.get(name)
        if isinstance(dataset, QuestionsDataset) and dataset.events != "world":
            yield EVENT_FILES[dataset.events]
        elif isinstance(dataset, FactsDataset) and dataset.source != "world":
            try:
                yield from files_of(dataset.source, dataset.style).values()
            except SettingsError:
                continue  # told with the styles
    for model in models:
        if isinstance(model, RecordsModel | HFModel):
            yield f"{model.text}/{model.text}.jsonl"
    if study.sentences is not None and any("text" in row.probes for row in study.grid):
        yield study.sentences
    if study.benchmarks.tasks == "local" and any(row.benchmark != "none" for row in study.grid):
        yield from (file for files in BENCHMARK_FILES.values() for file in files)

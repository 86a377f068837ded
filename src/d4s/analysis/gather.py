"""Gathers a study: the measures of all cells into one Parquet table per kind, and their summary.

Reads artefacts of the store, each checked against its manifest, and loads no model. Writes `data/*.parquet`, `index.parquet`,
`summary.parquet`, `costs.parquet` and `provenance.json` into results/STUDY. Cells are taken in the order of their names, so that
equal artefacts give equal bytes.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from d4s.analysis.costs import write_costs
from d4s.analysis.free_answers import free_rows
from d4s.analysis.shifted_answers import AnswerFolders
from d4s.analysis.single_edits import SingleFolders, read_singles, single_rows
from d4s.analysis.state_size import state_bytes
from d4s.analysis.summary_rows import benchmark_rows, exact_row, immediate_rows, norm_rows, perplexity_rows, retained_rows
from d4s.analysis.traced_facts import TraceFolders
from d4s.artifacts import MANIFEST, Artifact, atomic_write, write_json, write_table
from d4s.editors.control_editors import is_control
from d4s.log import progress
from d4s.schemas import (
    ANSWERS,
    BELIEFS,
    BENCHMARK,
    CELL,
    EDIT_LOG,
    FREE_ANSWERS,
    INDEX,
    MEMORY,
    NORMS,
    OBJECTIVES,
    PERPLEXITY,
    ROBUSTNESS,
    ROUTES,
    SCORES,
    SINGLES,
    SUMMARY,
    TRACES,
    VERDICTS,
    with_cell_columns,
)

logger = logging.getLogger(__name__)
MEASURE_TABLES = {"scores": SCORES, "answers": ANSWERS, "norms": NORMS, "perplexity": PERPLEXITY}
MEMORY_TABLES = {"routes": ROUTES, "memory": MEMORY}
"""What is measured of memories alone, where a study asks for it."""
GATHERED_TABLES = {
    **MEASURE_TABLES,
    **MEMORY_TABLES,
    "edit_log": EDIT_LOG,
    "benchmark": BENCHMARK,
    "objectives": OBJECTIVES,
    "singles": SINGLES,
    "traces": TRACES,
    "beliefs": BELIEFS,
    "free_answers": FREE_ANSWERS,
    "verdicts": VERDICTS,
    "robustness": ROBUSTNESS,
}
NO_RUN = {"editor": "", "seed": 0}

Add = Callable[[str, dict[str, Any], pd.DataFrame], None]


@dataclass(frozen=True, slots=True)
class CellFolders:
    """One cell of the grid: its names, its lengths, and the folders with its results."""

    model: str
    dataset: str
    editor: str
    seed: int
    steps: tuple[int, ...]
    run: Path
    measure: Path
    benchmark: Path | None
    benchmark_steps: tuple[int, ...]
    objectives: Path | None
    free_answers: tuple[Path, ...] = ()
    """The free answers, then the verdicts on them, where there are any."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """The names, as sort key."""
        return (self.model, self.dataset, self.editor, self.seed)

    @property
    def columns(self) -> dict[str, Any]:
        """The names, as columns of a table."""
        return dict(zip(CELL, self.key, strict=True))


def gather(
    cells: Sequence[CellFolders],
    out: Path,
    folders: Sequence[Path] = (),
    singles: Sequence[SingleFolders] = (),
    traces: Sequence[TraceFolders] = (),
    *,
    answers: Sequence[AnswerFolders] = (),
) -> None:
    """Gather cells, those of single edits, traced facts and answers to shifted prompts into the folder of a study.

    Costs are listed of all artefacts in `folders`.

    Raises:
        ArtifactError: if an artefact is missing, unfinished, altered or of another kind.
    """
    ordered = sorted(cells, key=lambda cell: cell.key)
    index: list[dict[str, Any]] = []
    summary: list[dict[str, Any]] = []
    with _tables(out / "data") as add:
        for cell in progress(ordered, "gathering", len(ordered)):
            summary += _gather_cell(cell, add)
            index += _index_rows(cell)
        for single in sorted(singles, key=lambda cell: cell.key):
            rows = read_singles(single)
            add("singles", single.columns, rows)
            summary += _with_names({**single.columns, "step": single.requests}, single_rows(rows))
        for traced in traces:
            add("traces", traced.columns, traced.rows())
        for one in answers:
            for rows in one.tables():
                add("robustness", one.columns, rows)
        _gather_objectives(ordered, add)
        _gather_beliefs(singles, add)
    write_json(out / "provenance.json", _provenance(ordered, singles))
    write_table(out / "index.parquet", index, INDEX)
    write_table(out / "summary.parquet", summary, SUMMARY)
    write_costs(out / "costs.parquet", folders)
    logger.info("gathered %d cells, %d numbers, into %s", len(ordered), len(summary), out)


@contextmanager
def _tables(folder: Path) -> Iterator[Add]:
    """A function that appends a cell's rows to a table; the files appear when the block ends without an error."""
    with ExitStack() as stack:
        writers: dict[str, pq.ParquetWriter] = {}
        for name, schema in GATHERED_TABLES.items():
            temporary = stack.enter_context(atomic_write(folder / f"{name}.parquet"))
            writers[name] = stack.enter_context(pq.ParquetWriter(temporary, with_cell_columns(schema), compression="zstd"))

        def add(name: str, cell: dict[str, Any], rows: pd.DataFrame) -> None:
            schema = with_cell_columns(GATHERED_TABLES[name])
            frame = rows.assign(**cell)[schema.names]
            writers[name].write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False))

        yield add


def _gather_cell(cell: CellFolders, add: Add) -> Iterator[dict[str, Any]]:
    """Append a cell's tables; returns its rows of the summary."""
    log = _edit_log(cell)
    add("edit_log", cell.columns, log)
    for step in cell.steps:
        measure = _open(cell.measure, "measures", step)
        tables = {name: measure.table(f"n{step}.{name}.parquet", schema) for name, schema in MEASURE_TABLES.items()}
        for name, schema in MEMORY_TABLES.items():
            if (file := f"n{step}.{name}.parquet") in measure.manifest.files:
                add(name, cell.columns, measure.table(file, schema))
        for name, rows in tables.items():
            add(name, cell.columns, rows)
        names = {**cell.columns, "step": step}
        yield from _with_names(names, retained_rows(tables["scores"]))
        yield from _with_names(names, immediate_rows(log, step))
        yield from _with_names(names, perplexity_rows(tables["perplexity"]))
        yield from _with_names(names, norm_rows(tables["norms"]))
        if (size := state_bytes(_open(cell.run, "runs", step))) is not None:
            yield {**names, **exact_row("state_bytes", float(size))}
        yield from _with_names(names, _gather_free_answers(cell, step, tables["scores"], add))
    for step in cell.benchmark_steps if cell.benchmark else ():
        rows = _open(cell.benchmark, "benchmarks", step).table(f"n{step}.benchmark.parquet", BENCHMARK)  # type: ignore[arg-type]
        add("benchmark", cell.columns, rows)
        yield from _with_names({**cell.columns, "step": step}, benchmark_rows(rows))


def _gather_free_answers(cell: CellFolders, step: int, scores: pd.DataFrame, add: Add) -> list[dict[str, Any]]:
    """Append a cell's free answers and verdicts at a length, where it has some; returns their rows of the summary."""
    if not cell.free_answers:
        return []
    found = []
    for folder, (name, schema) in zip(cell.free_answers, {"free_answers": FREE_ANSWERS, "verdicts": VERDICTS}.items(), strict=False):
        found.append(_open(folder, name, step).table(f"n{step}.{name}.parquet", schema))
        add(name, cell.columns, found[-1])
    return free_rows(found[0], found[1] if len(found) > 1 else None, scores)


def _edit_log(cell: CellFolders) -> pd.DataFrame:
    """The log of edits; None for a control, whose run is that of another editor."""
    last = max(cell.steps)
    log = _open(cell.run, "runs", last).table(f"n{last}.edit_log.parquet", EDIT_LOG)
    return log.iloc[:0] if is_control(_editor(cell)) else log


def _editor(cell: CellFolders) -> dict[str, Any]:
    """The resolved settings of a cell's editor."""
    return _open(cell.measure, "measures", max(cell.steps)).manifest.settings["editor"]


def _with_names(names: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield {**names, **row}


def _open(folder: Path, kind: str, step: int) -> Artifact:
    return Artifact.open(folder, kind, manifest=f"n{step}.json")


def _gather_objectives(cells: Sequence[CellFolders], add: Add) -> None:
    """Gather targets once per model and data set; their rows have no editor and no seed."""
    folders = {(cell.model, cell.dataset): cell.objectives for cell in cells if cell.objectives}
    for (model, dataset), folder in folders.items():
        rows = Artifact.open(folder, "objectives", MANIFEST).table("objectives.parquet", OBJECTIVES)
        add("objectives", {"model": model, "dataset": dataset, **NO_RUN}, rows)


def _gather_beliefs(singles: Sequence[SingleFolders], add: Add) -> None:
    """Gather what a Bayesian reader believes once per model and data set; its rows have no editor and no seed."""
    folders = {(cell.model, cell.dataset): cell.posterior for cell in singles if cell.posterior}
    for (model, dataset), folder in sorted(folders.items()):
        rows = Artifact.open(folder, "posteriors").table("beliefs.parquet", BELIEFS)
        add("beliefs", {"model": model, "dataset": dataset, **NO_RUN}, rows)


def _provenance(cells: Sequence[CellFolders], singles: Sequence[SingleFolders]) -> dict[str, Any]:
    """Library versions, code digests and resolved settings of editors, as recorded in the manifests of runs and of single edits.

    An editor of both kinds of cells has the settings and the code of its runs.
    """
    alone = {cell: cell.manifest for cell in singles}
    manifests = {cell: _open(cell.run, "runs", max(cell.steps)).manifest for cell in cells}
    versions: dict[str, set[str]] = {}
    for manifest in (*alone.values(), *manifests.values()):
        for library, version in manifest.versions.items():
            versions.setdefault(library, set()).add(version)
    return {
        "versions": {library: sorted(found) for library, found in sorted(versions.items())},
        "editors": {f"{cell.model} / {cell.editor}": manifest.settings["editor"] for cell, manifest in alone.items()}
        | {f"{cell.model} / {cell.editor}": _editor(cell) for cell in cells},
        "code": {cell.editor: manifest.code for cell, manifest in (*alone.items(), *manifests.items())},
        "inputs": {cell.run.name: dict(manifest.inputs) for cell, manifest in manifests.items()},
    }


def _index_rows(cell: CellFolders) -> Iterator[dict[str, Any]]:
    for step in cell.steps:
        notes = _open(cell.run, "runs", step).manifest.notes
        yield {
            **cell.columns,
            "step": step,
            "run": str(cell.run),
            "measure": str(cell.measure),
            "benchmark": str(cell.benchmark) if cell.benchmark and step in cell.benchmark_steps else None,
            "objectives": str(cell.objectives) if cell.objectives else None,
            "diverged_at": notes.get("diverged_at"),
        }

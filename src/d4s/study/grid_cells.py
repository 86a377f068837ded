"""The cells of a grid: what is run to which lengths, and what is edited alone, rows of the grid united."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import get_args

from d4s.config import ProbeKind
from d4s.study.grid_editors import row_editors
from d4s.study.plan import CellKey
from d4s.study_settings import GridRow, Study

REFERENCE = "unedited"


def lengths_by_cell(study: Study) -> dict[CellKey, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Lengths and benchmark lengths of every cell, rows of the grid united."""
    found: dict[CellKey, tuple[set[int], set[int]]] = {}
    for row, key in rows_of_cells(study, "sequence"):
        lengths, benchmarks = found.setdefault(key, (set(), set()))
        lengths.update(row.lengths)
        benchmarks.update({"none": (), "longest": (max(row.lengths),), "all": row.lengths}[row.benchmark])
    return {key: (tuple(sorted(lengths)), tuple(sorted(benchmarks))) for key, (lengths, benchmarks) in found.items()}


def shares_by_cell(study: Study) -> dict[tuple[CellKey, tuple[float, ...]], tuple[int, ...]]:
    """Lengths at which shifted prompts are asked, by cell and by the shares at which they are; rows of the grid united."""
    shares: dict[tuple[CellKey, int], set[float]] = {}
    for row, key in rows_of_cells(study, "sequence"):
        for length in row.lengths if row.shares else ():
            shares.setdefault((key, length), set()).update(row.shares)
    found: dict[tuple[CellKey, tuple[float, ...]], tuple[int, ...]] = {}
    for (key, length), asked in sorted(shares.items(), key=lambda item: item[0][1]):
        place = key, tuple(sorted(asked))
        found[place] = (*found.get(place, ()), length)
    return found


def singles_by_cell(study: Study) -> dict[CellKey, tuple[int, tuple[ProbeKind, ...]]]:
    """Number of requests and probes of every cell of single edits, and of the unedited model for all that is held against it."""
    found: dict[CellKey, tuple[int, tuple[ProbeKind, ...]]] = {}
    for row, key in rows_of_cells(study, "single"):
        for cell in (key, replace(key, editor=REFERENCE)):
            requests, probes = found.get(cell, (0, ()))
            asked = {*probes, *row.probes}
            found[cell] = max(requests, *row.lengths), tuple(kind for kind in get_args(ProbeKind) if kind in asked)
    return found


def rows_of_cells(study: Study, protocol: str) -> Iterator[tuple[GridRow, CellKey]]:
    """Every cell of every row with one of the protocols."""
    for row in (row for row in study.grid if row.protocol == protocol):
        for model in row.models:
            for dataset, editor, seed in product(row.datasets, row_editors(study, row, model), row.seeds or study.seeds):
                yield row, CellKey(model, dataset, editor, seed)

"""Tables as values: rows in blocks that are compared with each other, numeric columns, marks for the best two."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

Best = Literal["high", "low", "none"]
Mark = Literal["", "best", "second"]
NO_VALUE = "–"
HUGE = 1e6


class TableSkipped(Exception):
    """Data that a table shows are missing from the study; the message names them."""


@dataclass(frozen=True, slots=True)
class Column:
    """A numeric column: its key in the frame, its header, whether high or low is best, and the number format."""

    key: str
    header: str
    group: str = ""
    best: Best = "none"
    digits: int = 1
    factor: float = 1.0
    signed: bool = False
    interval: bool = False

    def text(self, value: float) -> str:
        """A number as text, with a true minus sign; very large ones in powers of ten."""
        if np.isnan(value):
            return NO_VALUE
        if abs(value) >= HUGE:
            return f"{value * self.factor:.1e}"
        rounded = round(value * self.factor, self.digits) + 0.0  # no negative zero
        return f"{rounded:{'+' if self.signed else ''},.{self.digits}f}".replace("-", "−")


@dataclass(frozen=True, slots=True)
class TableCell:
    """One number as text, with half the width of its interval where the column shows that."""

    text: str
    half_width: str = ""
    mark: Mark = ""


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row: its labels and cells; references are set apart and never marked."""

    labels: tuple[str, ...]
    cells: tuple[TableCell, ...]
    reference: bool


@dataclass(frozen=True, slots=True)
class Table:
    """A table: `frame` has label columns, `block`, `reference`, and every column's number, with `_low` and `_high` where known."""

    title: str
    caption: str
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    frame: pd.DataFrame

    def __post_init__(self) -> None:
        """Refuse what no file can hold.

        Raises:
            TypeError: if a cell is not text, a number or a flag; names the columns.
        """
        if wrong := [
            str(name)
            for name, values in self.frame.items()
            if values.map(lambda value: not isinstance(value, str) and isinstance(value, Collection)).any()
        ]:
            raise TypeError(f"cells of a table are text, numbers and flags; found collections in {', '.join(wrong)}")

    def blocks(self) -> Iterator[tuple[str, list[TableRow]]]:
        """Blocks in order, each with its rows: methods first, references last."""
        for block, rows in self.frame.groupby("block", sort=False):
            marks = {column.key: _marks(rows, column) for column in self.columns}
            ordered = pd.concat([rows[~rows["reference"]], rows[rows["reference"]]])
            lines = []
            for at, row in zip(ordered.index, ordered.to_dict(orient="records"), strict=True):
                cells = tuple(_cell(row, column, marks[column.key].get(at, "")) for column in self.columns)
                lines.append(TableRow(tuple(str(row[label]) for label in self.labels), cells, bool(row["reference"])))
            yield str(block), lines

    def groups(self) -> list[tuple[str, int]]:
        """Group headings in order, each with the number of columns that it spans."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            if found and found[-1][0] == column.group:
                found[-1] = (column.group, found[-1][1] + 1)
            else:
                found.append((column.group, 1))
        return found


def _marks(rows: pd.DataFrame, column: Column) -> dict[Any, Mark]:
    """Best and second of a block by row index, ties marked alike; numbers are compared as printed."""
    written = rows.loc[~rows["reference"], column.key].dropna() * column.factor
    values = written.round(column.digits)
    if column.best == "none" or len(values) < 2:
        return {}
    ranked = sorted(set(values), reverse=column.best == "high")
    names: Sequence[Mark] = ("best", "second")
    return {at: names[ranked.index(value)] for at, value in values.items() if value in ranked[:2]}


def _cell(row: dict[Any, Any], column: Column, mark: Mark) -> TableCell:
    low, high = (float(row.get(f"{column.key}_{side}", np.nan)) for side in ("low", "high"))
    known = column.interval and not np.isnan(low)
    half_width = f"±{(high - low) / 2 * column.factor:.{column.digits}f}" if known else ""
    return TableCell(column.text(float(row[column.key])), half_width, mark)

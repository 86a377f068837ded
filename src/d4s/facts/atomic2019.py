"""ATOMIC of 2019: a CSV file with one event per line and its answers in nine columns of JSON lists, as if-then events.

The columns are those of the release's aggregated file: `event`, the nine relations, `prefix`, `split`.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from d4s.errors import D4SError, RecordError, RecordProblem
from d4s.facts.atomic import IF_THEN, RawAtomic, event_frame
from d4s.facts.jsonl import RecordLine, shorten

COLUMNS = ("event", *sorted(IF_THEN), "prefix", "split")


def read_events(path: Path) -> pd.DataFrame:
    """Short if-then events, by the rules of `d4s.facts.atomic.read_events`; each line counts once for each of its relations.

    Raises:
        D4SError: if the file cannot be read.
        RecordError: naming every defect of the file.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = csv.DictReader(stream)
            records = [(rows.line_num, row) for row in rows]
            columns = rows.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise D4SError(f"{path} cannot be read as CSV ({error}); expected the columns {', '.join(COLUMNS)}") from None
    problems = list(_column_problems(path, columns, len(records)))
    lines: list[RecordLine[RawAtomic]] = []
    for number, row in records if not problems else ():
        found, wrong = _lines(path, number, row)
        lines += found
        problems += wrong
    if problems:
        raise RecordError(problems)
    return event_frame(lines, "atomic2019")


def _column_problems(path: Path, columns: Sequence[str], count: int) -> Iterator[RecordProblem]:
    for name in COLUMNS:
        if name not in columns:
            yield RecordProblem(path.name, 1, name, f"columns {list(columns)}", f"a column {name!r}")
    if not count:
        yield RecordProblem(path.name, 1, "(file)", "no records", "at least one line below the columns' names")


def _lines(path: Path, number: int, row: dict[str, str | None]) -> tuple[list[RecordLine[RawAtomic]], list[RecordProblem]]:
    """One line of the file as a record per relation that has tails, and what is wrong with it."""
    problems = []
    event = (row["event"] or "").strip()
    if not event or {"{", "}"} & set(event):
        problems.append(RecordProblem(path.name, number, "event", shorten(row["event"]), "text without braces"))
    lines = []
    for place, relation in enumerate(IF_THEN):
        tails = _tails(row[relation])
        if tails is None:
            problems.append(RecordProblem(path.name, number, relation, shorten(row[relation]), "a JSON list of texts"))
        elif tails and event:
            raw = RawAtomic(line=len(IF_THEN) * number + place, head=event, relation=relation, tails=tails)
            lines.append(RecordLine(path.name, number, json.dumps(row), raw))
    return lines, problems


def _tails(cell: str | None) -> tuple[str, ...] | None:
    try:
        found = json.loads(cell or "")
    except json.JSONDecodeError:
        return None
    return tuple(found) if isinstance(found, list) and all(isinstance(tail, str) for tail in found) else None

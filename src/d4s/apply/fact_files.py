"""An engineer's file of facts, as CSV, JSON lines or Parquet: every row is read, and every defect becomes a reject.

Columns are `subject`, `prompt`, `target_new`, and if wanted `target_true`, `paraphrase`, `locality`. A prompt holds its
subject once, or `{}` in its place. Several paraphrases or locality prompts are a list, in CSV separated by `|`. Values are text:
bytes, times, numbers and whatever else a typed file may hold are refused by name, never turned into text.
"""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BeforeValidator, ConfigDict, Field

from d4s.errors import D4SError, RecordProblem, SettingsError
from d4s.facts.facts_stage import Reject
from d4s.facts.jsonl import Issue, Raw, RecordLine, RecordLines, Text, parse_record, read_lines, shorten, subject_issues, template_issues
from d4s.registry import nearest

FORMATS = (".csv", ".jsonl", ".parquet")
SEPARATOR = "|"
INDEX_OF_PANDAS = re.compile(r"__index_level_\d+__")


def _as_list(value: object) -> object:
    """A single text as a list of one, a blank one or null as none."""
    if value is None:
        return []
    return ([value] if value.strip() else []) if isinstance(value, str) else value


Texts = Annotated[list[Text], BeforeValidator(_as_list)]


class RawFact(Raw):
    """A fact as it stands in the file; unknown columns are refused, since a misspelt one would be missed in silence."""

    model_config = ConfigDict(extra="forbid")

    subject: Text
    prompt: Text
    target_new: Text
    target_true: Text | None = None
    paraphrase: Texts = Field(default_factory=list)
    locality: Texts = Field(default_factory=list)

    @property
    def template(self) -> str:
        """The prompt with `{}` in the place of the subject."""
        return self.prompt if "{}" in self.prompt else self.prompt.replace(self.subject, "{}")

    def fill_subject(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Texts with the subject in place of `{}`."""
        return tuple(text.replace("{}", self.subject) for text in texts)


def to_nfc(text: str) -> str:
    """A text with its letters composed (NFC), as it is compared with others; what is edited is the text as given."""
    return unicodedata.normalize("NFC", text)


FACT_COLUMNS = tuple(RawFact.model_fields)
LIST_COLUMNS = ("paraphrase", "locality")


def read_facts(path: Path) -> RecordLines[RawFact]:
    """All rows of a file, the sound ones and the defects of the others.

    Raises:
        SettingsError: if the file's name ends otherwise than in one of the formats'.
        D4SError: if it cannot be opened, is no such file, or holds no row.
    """
    if path.suffix not in FORMATS:
        raise SettingsError(f"{path} is of no known format; name it *.csv, *.jsonl or *.parquet")
    if path.suffix == ".jsonl":
        return read_lines(path, RawFact, _fact_issues)
    return _parse_rows(path.name, _csv_rows(path) if path.suffix == ".csv" else _parquet_rows(path))


def facts_from_rows(facts: pd.DataFrame | Sequence[Mapping[str, Any]]) -> RecordLines[RawFact]:
    """All rows of a table or a list, as those of a file; rows are numbered from 1, and a missing value counts as none.

    Raises:
        SettingsError: if a table has two columns of one name.
        D4SError: if there is no row.
    """
    if isinstance(facts, pd.DataFrame) and not facts.columns.is_unique:
        raise SettingsError(f"facts has several columns of one name: {sorted(facts.columns[facts.columns.duplicated()])}")
    rows = facts.to_dict(orient="records") if isinstance(facts, pd.DataFrame) else facts
    return _parse_rows("facts", (found for number, row in enumerate(rows, start=1) for found in _check_row(number, row)))


def _check_row(number: int, row: object) -> Iterator[tuple[int, dict[str, Any] | Issue]]:
    """A row as it would stand in a file, or everything that cannot stand there."""
    if not isinstance(row, Mapping):
        yield number, Issue("(row)", shorten(row), "a mapping from column to text")
        return
    listed = {str(name): [*value] if isinstance(value, list | tuple | np.ndarray) else value for name, value in row.items()}
    found = {name: value for name, value in listed.items() if isinstance(value, list) or not pd.isna(value)}
    texts = {name: value if isinstance(value, list) else [value] for name, value in found.items()}
    wrong = [name for name, some in texts.items() if not all(isinstance(text, str) for text in some)]
    if not wrong:
        yield number, found
    for name in wrong:
        yield number, Issue(name, shorten(found[name]), "text, or a list of texts for paraphrase and locality")


def _fact_issues(raw: RawFact) -> Iterator[Issue]:
    if "{}" in raw.prompt:
        yield from template_issues("prompt", raw.prompt)
    elif raw.subject not in raw.prompt and to_nfc(raw.subject) in to_nfc(raw.prompt):
        yield Issue(
            "prompt", shorten(raw.prompt), f"the subject {shorten(raw.subject)} in the same characters; one is composed, the other is not"
        )
    else:
        yield from subject_issues("prompt", raw.prompt, raw.subject)
    if set(raw.subject) & {"{", "}"}:
        yield Issue("subject", shorten(raw.subject), "text without braces")
    if raw.target_true is not None and to_nfc(raw.target_new) == to_nfc(raw.target_true):
        yield Issue("target_new", shorten(raw.target_new), "another answer than target_true")


def _parse_rows(name: str, rows: Iterator[tuple[int, dict[str, Any] | Issue]]) -> RecordLines[RawFact]:
    """Rows held against the record, as JSON lines are; defects of the header stand on line 1, once.

    Raises:
        D4SError: if there is no row.
    """
    valid: list[RecordLine[RawFact]] = []
    rejects: list[Reject] = []
    total = 0
    for number, row in rows:
        text = "" if isinstance(row, Issue) else json.dumps(row, ensure_ascii=False)
        raw, issues = (None, [row]) if isinstance(row, Issue) else parse_record(text.encode(), RawFact)
        issues = issues or ([] if raw is None else list(_fact_issues(raw)))
        if raw is not None and not issues:
            valid.append(RecordLine(name, number, text, raw))
        rejects += [Reject(RecordProblem(name, number, issue.field, issue.found, issue.expected), text) for issue in issues]
        total += 1
    if not total:
        raise D4SError(f"{name} holds no facts: expected the columns {', '.join(FACT_COLUMNS[:3])} and one fact per row")
    return RecordLines(valid, rejects, total)


def _header_issues(names: Sequence[str]) -> Iterator[Issue]:
    if len(names) == 1 and (separators := [mark for mark in ";\t|" if mark in names[0]]):
        yield Issue("(header)", f"names separated by {separators[0]!r}", "commas between cells")
        return
    for name in names:
        if name not in FACT_COLUMNS:
            yield Issue(shorten(name), "a column of this name", f"a known one ({nearest(name, FACT_COLUMNS)})")
        elif names.count(name) > 1:
            yield Issue(name, f"{names.count(name)} columns of this name", "one")
    for name in FACT_COLUMNS[:3]:
        if name not in names:
            yield Issue(name, "no such column", "it in the header")


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | Issue]]:
    content = _content(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        yield line, Issue("(line)", f"the byte {content[error.start]:#04x}", "text in UTF-8")
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        issues = list(_header_issues(names))
        yield from ((1, issue) for issue in issues)
        start = reader.line_num
        for cells in () if issues else reader:
            number, start = start + 1, reader.line_num
            if len(cells) == len(names):
                yield number, {name: _cell(name, cell) for name, cell in zip(names, cells, strict=True) if cell.strip()}
            elif cells:
                yield number, Issue("(line)", f"{len(cells)} cells", f"{len(names)}, as in the header (quote a cell that holds a comma)")
    except csv.Error as error:
        yield reader.line_num, Issue("(line)", f"broken CSV ({error})", "cells separated by commas")


def _cell(name: str, cell: str) -> str | list[str]:
    """A cell of CSV, of which that of a list holds its texts between separators."""
    return [part for part in cell.split(SEPARATOR) if part.strip()] if name in LIST_COLUMNS else cell


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | Issue]]:
    _content(path)
    try:
        table = pq.read_table(path)
        table.validate(full=True)  # text that is no UTF-8
    except (OSError, pa.ArrowException) as error:
        raise D4SError(f"{path} cannot be read as Parquet: {error}") from None
    table = table.drop_columns([name for name in table.column_names if INDEX_OF_PANDAS.fullmatch(name)])
    issues = [*_header_issues(table.column_names), *_type_issues(table)]
    yield from ((1, issue) for issue in issues)
    for number, row in enumerate([] if issues else table.to_pylist(), start=1):
        yield number, {name: value for name, value in row.items() if value is not None}


def _type_issues(table: pa.Table) -> Iterator[Issue]:
    """Columns whose values are no text; one without any value may be of any type."""
    for field, column in zip(table.schema, table.columns, strict=True):
        is_listed = field.name in LIST_COLUMNS and (pa.types.is_list(field.type) or pa.types.is_large_list(field.type))
        if column.null_count < len(column) and not _is_text(field.type.value_type if is_listed else field.type):
            expected = "text, or lists of texts" if field.name in LIST_COLUMNS else "text"
            yield Issue(field.name, f"a column of {field.type}", f"{expected}; cast the column to strings")


def _is_text(kind: pa.DataType) -> bool:
    value_type = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(value_type) or pa.types.is_large_string(value_type) or pa.types.is_string_view(value_type)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise D4SError(f"{path} cannot be read ({error.strerror}); expected a file of facts") from None

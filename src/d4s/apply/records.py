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

from d4s.errors import D4SError, Problem, SettingsError
from d4s.facts.collect import Reject
from d4s.facts.jsonl import Flaw, Line, Lines, Raw, Text, parsed, read_lines, shown, subject_flaws, template_flaws
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

    def filled(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Texts with the subject in place of `{}`."""
        return tuple(text.replace("{}", self.subject) for text in texts)


def composed(text: str) -> str:
    """A text with its letters composed (NFC), as it is compared with others; what is edited is the text as given."""
    return unicodedata.normalize("NFC", text)


COLUMNS = tuple(RawFact.model_fields)
LISTS = ("paraphrase", "locality")


def read_facts(path: Path) -> Lines[RawFact]:
    """All rows of a file, the sound ones and the defects of the others.

    Raises:
        SettingsError: if the file's name ends otherwise than in one of the formats'.
        D4SError: if it cannot be opened, is no such file, or holds no row.
    """
    if path.suffix not in FORMATS:
        raise SettingsError(f"{path} is of no known format; name it *.csv, *.jsonl or *.parquet")
    if path.suffix == ".jsonl":
        return read_lines(path, RawFact, _flaws)
    return _table(path.name, _csv_rows(path) if path.suffix == ".csv" else _parquet_rows(path))


def given_facts(facts: pd.DataFrame | Sequence[Mapping[str, Any]]) -> Lines[RawFact]:
    """All rows of a table or a list, as those of a file; rows are numbered from 1, and a missing value counts as none.

    Raises:
        SettingsError: if a table has two columns of one name.
        D4SError: if there is no row.
    """
    if isinstance(facts, pd.DataFrame) and not facts.columns.is_unique:
        raise SettingsError(f"facts has several columns of one name: {sorted(facts.columns[facts.columns.duplicated()])}")
    rows = facts.to_dict(orient="records") if isinstance(facts, pd.DataFrame) else facts
    return _table("facts", (found for number, row in enumerate(rows, start=1) for found in _given(number, row)))


def _given(number: int, row: object) -> Iterator[tuple[int, dict[str, Any] | Flaw]]:
    """A row as it would stand in a file, or everything that cannot stand there."""
    if not isinstance(row, Mapping):
        yield number, Flaw("(row)", shown(row), "a mapping from column to text")
        return
    listed = {str(name): [*value] if isinstance(value, list | tuple | np.ndarray) else value for name, value in row.items()}
    found = {name: value for name, value in listed.items() if isinstance(value, list) or not pd.isna(value)}
    texts = {name: value if isinstance(value, list) else [value] for name, value in found.items()}
    wrong = [name for name, some in texts.items() if not all(isinstance(text, str) for text in some)]
    if not wrong:
        yield number, found
    for name in wrong:
        yield number, Flaw(name, shown(found[name]), "text, or a list of texts for paraphrase and locality")


def _flaws(raw: RawFact) -> Iterator[Flaw]:
    if "{}" in raw.prompt:
        yield from template_flaws("prompt", raw.prompt)
    elif raw.subject not in raw.prompt and composed(raw.subject) in composed(raw.prompt):
        yield Flaw(
            "prompt", shown(raw.prompt), f"the subject {shown(raw.subject)} in the same characters; one is composed, the other is not"
        )
    else:
        yield from subject_flaws("prompt", raw.prompt, raw.subject)
    if set(raw.subject) & {"{", "}"}:
        yield Flaw("subject", shown(raw.subject), "text without braces")
    if raw.target_true is not None and composed(raw.target_new) == composed(raw.target_true):
        yield Flaw("target_new", shown(raw.target_new), "another answer than target_true")


def _table(name: str, rows: Iterator[tuple[int, dict[str, Any] | Flaw]]) -> Lines[RawFact]:
    """Rows held against the record, as JSON lines are; defects of the header stand on line 1, once.

    Raises:
        D4SError: if there is no row.
    """
    sound: list[Line[RawFact]] = []
    rejects: list[Reject] = []
    seen = 0
    for number, row in rows:
        text = "" if isinstance(row, Flaw) else json.dumps(row, ensure_ascii=False)
        raw, flaws = (None, [row]) if isinstance(row, Flaw) else parsed(text.encode(), RawFact)
        flaws = flaws or ([] if raw is None else list(_flaws(raw)))
        if raw is not None and not flaws:
            sound.append(Line(name, number, text, raw))
        rejects += [Reject(Problem(name, number, flaw.field, flaw.found, flaw.expected), text) for flaw in flaws]
        seen += 1
    if not seen:
        raise D4SError(f"{name} holds no facts: expected the columns {', '.join(COLUMNS[:3])} and one fact per row")
    return Lines(sound, rejects, seen)


def _header_flaws(names: Sequence[str]) -> Iterator[Flaw]:
    if len(names) == 1 and (separators := [mark for mark in ";\t|" if mark in names[0]]):
        yield Flaw("(header)", f"names separated by {separators[0]!r}", "commas between cells")
        return
    for name in names:
        if name not in COLUMNS:
            yield Flaw(shown(name), "a column of this name", f"a known one ({nearest(name, COLUMNS)})")
        elif names.count(name) > 1:
            yield Flaw(name, f"{names.count(name)} columns of this name", "one")
    for name in COLUMNS[:3]:
        if name not in names:
            yield Flaw(name, "no such column", "it in the header")


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | Flaw]]:
    content = _content(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        yield line, Flaw("(line)", f"the byte {content[error.start]:#04x}", "text in UTF-8")
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        flaws = list(_header_flaws(names))
        yield from ((1, flaw) for flaw in flaws)
        start = reader.line_num
        for cells in () if flaws else reader:
            number, start = start + 1, reader.line_num
            if len(cells) == len(names):
                yield number, {name: _cell(name, cell) for name, cell in zip(names, cells, strict=True) if cell.strip()}
            elif cells:
                yield number, Flaw("(line)", f"{len(cells)} cells", f"{len(names)}, as in the header (quote a cell that holds a comma)")
    except csv.Error as error:
        yield reader.line_num, Flaw("(line)", f"broken CSV ({error})", "cells separated by commas")


def _cell(name: str, cell: str) -> str | list[str]:
    """A cell of CSV, of which that of a list holds its texts between separators."""
    return [part for part in cell.split(SEPARATOR) if part.strip()] if name in LISTS else cell


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | Flaw]]:
    _content(path)
    try:
        table = pq.read_table(path)
        table.validate(full=True)  # text that is no UTF-8
    except (OSError, pa.ArrowException) as error:
        raise D4SError(f"{path} cannot be read as Parquet: {error}") from None
    table = table.drop_columns([name for name in table.column_names if INDEX_OF_PANDAS.fullmatch(name)])
    flaws = [*_header_flaws(table.column_names), *_type_flaws(table)]
    yield from ((1, flaw) for flaw in flaws)
    for number, row in enumerate([] if flaws else table.to_pylist(), start=1):
        yield number, {name: value for name, value in row.items() if value is not None}


def _type_flaws(table: pa.Table) -> Iterator[Flaw]:
    """Columns whose values are no text; one without any value may be of any type."""
    for field, column in zip(table.schema, table.columns, strict=True):
        is_listed = field.name in LISTS and (pa.types.is_list(field.type) or pa.types.is_large_list(field.type))
        if column.null_count < len(column) and not _is_text(field.type.value_type if is_listed else field.type):
            expected = "text, or lists of texts" if field.name in LISTS else "text"
            yield Flaw(field.name, f"a column of {field.type}", f"{expected}; cast the column to strings")


def _is_text(kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise D4SError(f"{path} cannot be read ({error.strerror}); expected a file of facts") from None

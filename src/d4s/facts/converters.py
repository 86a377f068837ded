"""Public files as their authors shaped them, row by row, turned into the records that our readers read.

Everything streams: neither a JSON list nor a Parquet file is ever held whole.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from d4s.artifacts import atomic_write
from d4s.errors import FetchError, SettingsError
from d4s.facts.sources import RecordFile, RecordPart
from d4s.registry import nearest

Row = Mapping[str, Any]
Converter = Callable[[Iterator[Row]], Iterator[Row]]
BATCH = 1000
HEADING = re.compile(r"^ = (?!=|1 rad |1 henry )(.*\S) = $")
"""A heading of the first level in WikiText; two formulas of its test split look like one."""


def convert(records: RecordFile, originals: Path, folder: Path) -> int:
    """Write a file of records from its parts, one JSON object per line; returns how many there are.

    Raises:
        FetchError: if a part cannot be read in its shape or holds nothing.
    """
    count = 0
    with atomic_write(folder / records.to) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
        for part in records.of:
            before = count
            try:
                for record in _records(originals / part.file, part):
                    out.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
                    count += 1
            except (OSError, ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
                where = f"{originals / part.file}, row {count - before}"
                raise FetchError(f"{where}: not {part.shape} as expected ({type(error).__name__}: {error})") from None
            if count == before:
                raise FetchError(f"{originals / part.file} holds no rows of the shape {part.shape}")
    return count


def _records(path: Path, part: RecordPart) -> Iterator[Row]:
    rows = islice(_converter_of(part.converter)(_SHAPES[part.shape](path, part)), part.limit)
    for number, row in enumerate(rows):
        yield {**part.add, **({part.number: number} if part.number else {}), **row}


def _converter_of(name: str | None) -> Converter:
    if name is not None and name not in CONVERTERS:
        raise SettingsError(f"unknown converter {name!r}; {nearest(name, list(CONVERTERS))}")
    return CONVERTERS[name] if name else iter


# --- shapes -----------------------------------------------------------------------------------------------------------


def _json_list(path: Path, part: RecordPart) -> Iterator[Row]:
    import ijson

    with path.open("rb") as stream:
        try:
            yield from ijson.items(stream, "item", use_float=True)
        except ijson.JSONError as error:
            raise ValueError(str(error).partition("\n")[0]) from None


def _jsonl(path: Path, part: RecordPart) -> Iterator[Row]:
    with path.open("rb") as stream:
        yield from (json.loads(line) for line in stream if line.strip())


def _csv(path: Path, part: RecordPart) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream, part.columns or None, delimiter=part.delimiter, strict=True)


def _parquet(path: Path, part: RecordPart) -> Iterator[Row]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as found:
        for batch in found.iter_batches(BATCH):
            yield from batch.to_pylist()


_SHAPES: Mapping[str, Callable[[Path, RecordPart], Iterator[Row]]] = {
    "json_list": _json_list,
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
}

# --- turns ------------------------------------------------------------------------------------------------------------


def _each(converter: Callable[[Row], Row]) -> Converter:
    return lambda rows: map(converter, rows)


def _arc(row: Row) -> Row:
    choices = row["choices"]
    return {"question": row["question"], "choices": choices["text"], "gold": choices["label"].index(row["answerKey"])}


def _hellaswag(row: Row) -> Row:
    whole = _plain(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
    label, _, context = whole.partition(": ")
    return {"activity_label": label, "ctx": context, "endings": [*map(_plain, row["endings"])], "label": int(row["label"])}


def _plain(text: str) -> str:
    """Text without the marks of WikiHow, as the harness removes them."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _winogrande(row: Row) -> Row:
    before, after = row["sentence"].split("_", 1)
    options = [before + row["option1"], before + row["option2"]]
    return {"context_options": options, "continuation": after.strip(), "gold": int(row["answer"]) - 1}


def _truthfulqa(row: Row) -> Row:
    def targets(found: Row) -> list[Row]:
        return [{"text": text, "label": label} for text, label in zip(found["choices"], found["labels"], strict=True)]

    return {"question": row["question"], "mc1_targets": targets(row["mc1_targets"]), "mc2_targets": targets(row["mc2_targets"])}


def _gsm8k(row: Row) -> Row:
    final = row["answer"].rsplit("#### ", 1)[1].strip().replace(",", "")
    return {"question": row["question"], "answer": row["answer"], "final": final}


def _mmlu(row: Row) -> Row:
    return {"subject": row["subject"], "question": row["question"], "choices": row["choices"], "gold": int(row["answer"])}


def _commonsense_qa(row: Row) -> Row:
    choices = row["choices"]
    gold = choices["label"].index(row["answerKey"])
    return {"id": row["id"], "question": row["question"], "choices": choices["text"], "gold": gold}


def _comet(row: Row) -> Row:
    """`HEAD @@ RELATION` and reference tails between bars."""
    head, relation = row["head"].split(" @@ ")
    return {"head": head, "relation": relation, "tails": list(dict.fromkeys(map(str.strip, row["tails"].split("|"))))}


def _articles(rows: Iterator[Row]) -> Iterator[Row]:
    """Running text by article, cut at headings of the first level; even ones are for statistics, odd ones for perplexity."""
    for number, (title, lines) in enumerate(_cut(row["text"] for row in rows)):
        yield {"article": number, "title": title, "split": ("stats", "ppl")[number % 2], "text": "".join(lines)}


def _cut(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Titles and lines of articles; blank lines before the first heading belong to it."""
    title, held = "", list[str]()
    for line in lines:
        heading = HEADING.match(line.removesuffix("\n"))
        if heading and title:
            yield title, held
            held = []
        title = heading[1] if heading else title
        held.append(line)
    if title:
        yield title, held


CONVERTERS: Mapping[str, Converter] = {
    "arc_challenge": _each(_arc),
    "hellaswag": _each(_hellaswag),
    "winogrande": _each(_winogrande),
    "truthfulqa_mc": _each(_truthfulqa),
    "gsm8k": _each(_gsm8k),
    "mmlu": _each(_mmlu),
    "commonsense_qa": _each(_commonsense_qa),
    "comet": _each(_comet),
    "articles": _articles,
}

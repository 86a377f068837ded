"""Public files in their authors' shapes, and the records that are made of their rows."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from d4s.errors import FetchError, SettingsError
from d4s.facts.converters import CONVERTERS, convert
from d4s.facts.sources import RecordFile

ROWS = [{"head": 'PersonX said "no", and left', "tails": "to go| none| to go"}, {"head": "ö\u2028", "tails": ""}]


def converted(tmp_path: Path, *parts: dict) -> list[dict]:
    count = convert(RecordFile.model_validate({"to": "made.jsonl", "of": parts}), tmp_path, tmp_path)
    records = [json.loads(line) for line in (tmp_path / "made.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert len(records) == count
    return records


def written(path: Path, shape: str) -> Path:
    if shape == "json_list":
        path.write_text(json.dumps(ROWS, indent=2))
    elif shape == "jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\r\n\n" for row in ROWS))
    elif shape == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["head", "tails"])
            writer.writeheader()
            writer.writerows(ROWS)
    return path


@pytest.mark.parametrize("shape", ["json_list", "jsonl", "csv", "parquet"])
def test_every_shape_gives_the_same_records(tmp_path: Path, shape: str) -> None:
    written(tmp_path / "a", shape)
    assert converted(tmp_path, {"file": "a", "shape": shape}) == ROWS


def test_a_row_without_a_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("head\ttails\nPersonX runs @@ xWant\tto sleep\nPersonX sings @@ xWant\n")
    with pytest.raises(FetchError, match=r"a\.tsv, row 1: not csv as expected \(AttributeError"):
        converted(tmp_path, {"file": "a.tsv", "shape": "csv", "delimiter": "\t", "converter": "comet"})


def test_parts_follow_each_other_numbered_and_marked(tmp_path: Path) -> None:
    written(tmp_path / "a", "json_list")
    part = {"file": "a", "shape": "json_list", "number": "index"}
    found = converted(tmp_path, part | {"add": {"split": "test"}}, part | {"add": {"split": "train"}, "limit": 1})
    assert [(row["split"], row["index"]) for row in found] == [("test", 0), ("test", 1), ("train", 0)]


@pytest.mark.parametrize("shape", ["json_list", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'[{"a": 1}, {"b"', b'"open'])
def test_broken_files_are_named_and_the_old_records_kept(tmp_path: Path, shape: str, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "made.jsonl").write_text("old")
    with pytest.raises(FetchError, match=str(tmp_path / "a")):
        converted(tmp_path, {"file": "a", "shape": shape})
    assert (tmp_path / "made.jsonl").read_text() == "old"
    assert len([*tmp_path.iterdir()]) == 2


def test_a_row_that_does_not_turn_is_named_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"question": "q", "answer": "#### 1,200"}\n{"question": "q", "answer": "none"}\n')
    part = {"file": "a", "shape": "jsonl", "converter": "gsm8k"}
    with pytest.raises(FetchError, match="row 1: not jsonl as expected"):
        converted(tmp_path, part)
    assert converted(tmp_path, part | {"limit": 1})[0]["final"] == "1200"
    with pytest.raises(SettingsError, match="did you mean 'gsm8k'"):
        converted(tmp_path, part | {"converter": "gsm8"})


def test_tails_of_comet_are_split_and_said_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('PersonX goes @@ xNeed\tto pack| none| to pack\n"He said ""no"" @@ oReact"\tsad\n')
    part = {"file": "a", "shape": "csv", "delimiter": "\t", "columns": ["head", "tails"], "converter": "comet", "number": "line"}
    assert converted(tmp_path, part) == [
        {"line": 0, "head": "PersonX goes", "relation": "xNeed", "tails": ["to pack", "none"]},
        {"line": 1, "head": 'He said "no"', "relation": "oReact", "tails": ["sad"]},
    ]


def test_running_text_is_cut_at_headings_of_the_first_level() -> None:
    lines = ["", " = One = \n", "", " text \n", " = = Part = = \n", " k \n", " = 1 rad / s and k = \n", " 2 \n", " = Two = \n", " end"]
    found = [*CONVERTERS["articles"]({"text": line} for line in lines)]
    assert [(row["article"], row["title"], row["split"]) for row in found] == [(0, "One", "stats"), (1, "Two", "ppl")]
    assert "".join(row["text"] for row in found) == "".join(lines)


def test_items_of_benchmarks_keep_their_right_answers() -> None:
    def turned(name: str, row: dict) -> dict:
        [found] = CONVERTERS[name](iter([row]))
        return dict(found)

    arc = {"id": "x", "question": "q", "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, "answerKey": "3"}
    assert turned("arc_challenge", arc) == {"question": "q", "choices": ["a", "b", "c"], "gold": 2}
    wino = {"sentence": "A hit B so _ was sad.", "option1": "A", "option2": "B", "answer": "2"}
    assert turned("winogrande", wino) == {"context_options": ["A hit B so A", "A hit B so B"], "continuation": "was sad.", "gold": 1}
    common = {"id": "7", "question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}
    assert turned("commonsense_qa", common) == {"id": "7", "question": "q", "choices": ["a", "b"], "gold": 1}
    assert turned("mmlu", {"question": "q", "subject": "s", "choices": ["a"], "answer": 0})["gold"] == 0

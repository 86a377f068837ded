"""ATOMIC of 2019 as events, on a small file of our own in the columns of the release."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from d4s.artifacts import Artifact, StageJob
from d4s.config import QuestionsSettings
from d4s.errors import D4SError, RecordError
from d4s.facts.atomic import read_events as read_2020
from d4s.facts.atomic2019 import COLUMNS, read_events
from d4s.facts.event_readers import EVENT_FILES, EVENT_READERS
from d4s.questions.question_facts import questions
from d4s.schemas import EVENTS, PROVENANCE
from tests.samples import atomic, write_lines

LISTS = [name for name in COLUMNS if name not in {"event", "split"}]
ROWS: list[dict[str, Any]] = [
    {"event": "PersonX bakes bread", "xWant": ["to eat it", "to sleep well", "none"]},
    {"event": "PersonX thanks PersonY", "xWant": ["to wave goodbye"], "oReact": ["very happy"]},
    {"event": "PersonX drops ___", "xWant": ["to pick up", "to shout out loud and long"]},
    {"event": "PersonX runs", "xWant": ["to sleep well"]},
    {"event": "PersonX sings a very long song", "xWant": ["to sleep well"]},
    {"event": "PersonX paints", "xWant": ["none"], "xAttr": ["very calm"]},
    {"event": "PersonX yawns", "xWant": ["to go home"]},
]


def write(path: Path, *rows: dict[str, Any], columns: tuple[str, ...] = COLUMNS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            cells = {name: row.get(name, []) for name in LISTS}
            text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in cells.items()}
            writer.writerow(text | {"event": row["event"], "split": "trn"})
    return path


def test_events_follow_the_rules_of_the_later_release(tmp_path: Path) -> None:
    found = read_events(write(tmp_path / "a.csv", *ROWS))
    pairs = [(row["event"], relation, row[relation]) for row in ROWS for relation in ("xWant", "xAttr", "oReact") if relation in row]
    lines = [atomic(number, event, relation, *tails) for number, (event, relation, tails) in enumerate(pairs)]
    expected = read_2020(write_lines(tmp_path / "b.jsonl", *lines))
    same = ["head", "relation", "tail", "bystander"]
    assert list(found.columns) == EVENTS.names and set(found["source"]) == {"atomic2019"}
    assert found[same].to_dict("records") == expected[same].to_dict("records")
    assert len(set(found["event_id"])) == len(found) and all(text.startswith("atomic2019:") for text in found["event_id"])
    assert "PersonX drops something" in set(found["head"])


def test_every_defect_is_named_with_line_and_column(tmp_path: Path) -> None:
    rows = [
        *ROWS[:1],
        {"event": " ", "xWant": ["to go"]},
        {"event": "PersonX {}"},
        {"event": "PersonX nods", "xWant": "to go", "xAttr": "[1]"},
    ]
    with pytest.raises(RecordError) as caught:
        read_events(write(tmp_path / "a.csv", *rows))
    assert [(problem.line, problem.field) for problem in caught.value.problems] == [(3, "event"), (4, "event"), (5, "xWant"), (5, "xAttr")]


def test_missing_columns_and_empty_or_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="a column 'oWant'") as caught:
        read_events(write(tmp_path / "a.csv", *ROWS, columns=tuple(name for name in COLUMNS if name not in {"oWant", "xNeed"})))
    assert {problem.field for problem in caught.value.problems} == {"oWant", "xNeed"}
    with pytest.raises(RecordError, match="no records"):
        read_events(write(tmp_path / "b.csv"))
    with pytest.raises(D4SError, match="cannot be read as CSV"):
        read_events(tmp_path / "none.csv")


def test_every_source_of_events_has_a_reader_and_a_file() -> None:
    assert set(EVENT_READERS) == set(EVENT_FILES)
    assert all(callable(EVENT_READERS.load(name)) for name in EVENT_READERS)


def test_questions_are_made_of_them(tmp_path: Path) -> None:
    path = write(tmp_path / EVENT_FILES["atomic2019"], *ROWS)
    made = tmp_path / "made"
    made.mkdir()
    questions(StageJob("facts", QuestionsSettings(events="atomic2019", form="multiple_choice"), {"records": path}, made))
    rows = Artifact.open(made, "facts").table("provenance.parquet", PROVENANCE)
    assert "PersonX bakes bread" in set(rows["head"])

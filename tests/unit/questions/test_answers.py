"""The store of answers: on disk at once, known by request, sorted in the end; torn ends are dropped, anything else is named."""

import json
import logging
import multiprocessing
from pathlib import Path

import pytest

from d4s.errors import ArtifactError
from d4s.questions.answers import AnswerRecord, AnswerStore, key_of, open_for_writing
from d4s.settings_base import canonical


def record(number: int) -> AnswerRecord:
    request = {"model": "m", "seed": number}
    body = {"choices": [{"message": {"content": f"text {number}"}, "finish_reason": "stop"}], "id": "x"}
    return AnswerRecord(key=key_of(request), request=request, response=body)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers" / "a.jsonl"


def kept(path: Path, *numbers: int) -> None:
    with open_for_writing(path) as store:
        for number in numbers:
            store.add(record(number))


def test_an_answer_is_on_disk_before_the_store_is_closed(path: Path) -> None:
    with open_for_writing(path) as store:
        store.add(record(1))
        assert path.read_text() == record(1).line
    assert AnswerStore(path).records == {record(1).key: record(1)}
    assert record(1).answer.content == "text 1"


def test_the_order_of_arrival_changes_no_byte(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.jsonl"
    kept(path, 1, 2, 3)
    kept(other, 3, 1)
    kept(other, 2)
    assert path.read_bytes() == other.read_bytes()
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert keys == sorted(keys)


def test_a_key_is_that_of_the_request_in_any_order_of_its_fields() -> None:
    assert key_of({"a": 1, "b": "ü"}) == key_of({"b": "ü", "a": 1}) != key_of({"a": 1, "b": "u"})


def test_a_torn_last_line_is_dropped_with_a_warning_and_cut_off_on_writing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept(path, 1)
    whole = path.read_bytes()
    path.write_bytes(whole + record(2).line.encode()[:-9])
    with caplog.at_level(logging.WARNING):
        assert set(AnswerStore(path).records) == {record(1).key}
    assert "torn" in caplog.text
    with open_for_writing(path) as store:
        store.add(record(3))
        assert set(AnswerStore(path).records) == {record(1).key, record(3).key}, "before lines are sorted"


def test_a_last_line_without_its_end_counts_as_torn_even_if_it_is_whole_json(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(record(1).line.rstrip("\n"))
    assert AnswerStore(path).records == {}


def test_every_broken_line_is_named(path: Path) -> None:
    good, altered = record(1).line, record(2).line.replace('"seed":2', '"seed":7')
    strange = canonical({"key": key_of({}), "request": {}, "response": {"choices": []}}) + "\n"
    path.parent.mkdir()
    path.write_text(altered + good + "{nonsense\n" + strange)
    with pytest.raises(ArtifactError) as caught:
        AnswerStore(path)
    found = str(caught.value).splitlines()[1:]
    assert [line.split("a.jsonl:")[1].split(":")[0] for line in found] == ["1", "3", "4"]
    assert "not the digest" in found[0] and "1 wrong or missing" in found[2]


def _add_under_lock(path: Path, start: int, count: int) -> None:
    for number in range(start, start + count):
        with open_for_writing(path) as store:
            store.add(record(number))


def test_processes_that_write_at_once_lose_nothing(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_add_under_lock, args=(path, 10 * index, 10)) for index in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert len(AnswerStore(path).records) == 30

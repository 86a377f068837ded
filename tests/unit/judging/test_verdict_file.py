import json
from pathlib import Path
from typing import Any

import pytest

from d4s.config import JudgeSettings
from d4s.errors import D4SError, SettingsError
from d4s.judging.judges import JudgedAnswer, Verdict, make_judge
from d4s.judging.verdict_file import Written, add_answers, file_judge, read_verdicts

ANSWERS = [("Ada lives in", "Rome", "Rome"), ("Ada lives in", "Rome", "in Rome"), ("Bo lives in", "Oslo", "Bern")]


def settings(store: Path, **changes: Any) -> JudgeSettings:
    return JudgeSettings.model_validate({"judge": {"judge": "file", "store": str(store), "name": "Eva", "version": "1", **changes}})


def decide(path: Path, **verdicts: bool | None) -> None:
    """Set the verdicts of lines, by their answers."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line | {"correct": verdicts.get(line["answer"], line["correct"])}) + "\n" for line in lines))


def test_answers_are_written_once_and_verdicts_stay_when_others_join(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    assert add_answers(path, [*ANSWERS[:2], ANSWERS[0]]) == Written(2, 2, 0)
    assert all(json.loads(line)["correct"] is None for line in path.read_text().splitlines())
    decide(path, Rome=True)
    assert add_answers(path, reversed(ANSWERS)) == Written(3, 1, 1)
    found = read_verdicts(path)
    assert {key: line.correct for key, line in found.items()} == {ANSWERS[0]: True, ANSWERS[1]: None, ANSWERS[2]: None}
    text = path.read_text()
    assert add_answers(path, ANSWERS) == Written(3, 0, 1) and path.read_text() == text


def test_the_order_of_lines_depends_on_no_order_of_answers(tmp_path: Path) -> None:
    for name, answers in (("a", ANSWERS), ("b", ANSWERS[::-1])):
        add_answers(tmp_path / name, answers)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


def test_a_judge_says_what_the_file_says_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    add_answers(path, ANSWERS)
    decide(path, Rome=True, Bern=False)
    judge = make_judge(settings(path))
    assert (judge.name, judge.version, dict(judge.usage)) == ("Eva", "1", {})
    asked = [JudgedAnswer("", *answer) for answer in (*ANSWERS, ("Bo lives in", "Oslo", "Oslo"))]
    right, unsure, wrong, absent = judge.judge(asked)
    assert (right, wrong) == (Verdict(True), Verdict(False))
    assert unsure == Verdict(None, f"{path} has no verdict on the answer") and absent == Verdict(None, f"{path} lacks the answer")


def test_an_answer_may_hold_a_line_separator(tmp_path: Path) -> None:
    path, answer = tmp_path / "verdicts.jsonl", ("q", "t", "Rome\u2028Oslo\x85Bern")
    add_answers(path, [answer])
    assert [*read_verdicts(path)] == [answer]


def test_all_broken_lines_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    line = {"question": "q", "target": "t", "answer": "a"}
    lines = [line | {"correct": True}, line | {"correct": False}, line | {"correct": "yes"}, {"question": "q"}, line | {"judge": "x"}]
    path.write_text("".join(json.dumps(one) + "\n" for one in lines) + "\nA is right\n")
    with pytest.raises(D4SError) as caught:
        add_answers(path, ANSWERS)
    said = str(caught.value)
    assert "line 2: another line says correct: true of the same answer" in said and "line 3: correct" in said
    assert "line 4: target" in said and "line 5: judge" in said and "line 7: (line)" in said and said.endswith("nothing was written")
    assert "Ada" not in path.read_text()


def test_equal_lines_are_one_and_a_verdict_wins_over_none(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    line = {"question": "q", "target": "t", "answer": "a"}
    path.write_text("".join(json.dumps(line | {"correct": correct}) + "\n" for correct in (None, False, None, False)))
    (found,) = read_verdicts(path).values()
    assert found.correct is False


def test_a_file_that_is_not_there_is_told_with_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist; write it with `d4s verdicts`"):
        file_judge(settings(tmp_path / "none.jsonl"))

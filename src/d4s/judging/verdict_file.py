"""Verdicts in a file: free answers written out for people or for another program, and read back with what these said.

A line is a JSON object with `question`, `target`, `answer` and `correct`, which is null until somebody sets it to true or false; a `reason`
may stand beside it. Equal answers to equal questions are one line, and lines come in an order that says nothing of editors, so that a judge
does not know which editor gave an answer.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from d4s.artifacts import write_text
from d4s.config import JudgeSettings
from d4s.errors import D4SError, SettingsError
from d4s.facts.jsonl import numbered_lines, parse_record
from d4s.judging.judges import JudgedAnswer, Verdict
from d4s.writer_settings import VerdictFileSettings

SHOWN_PROBLEMS = 10


class VerdictLine(BaseModel):
    """A line of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    question: str
    target: str
    answer: str
    correct: bool | None = None
    reason: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from other lines."""
        return self.question, self.target, self.answer

    @property
    def text(self) -> str:
        """The line as JSON."""
        return json.dumps(self.model_dump(exclude={"reason"} if not self.reason else None), ensure_ascii=False)


class Written(NamedTuple):
    """How many answers are in the file, how many of them were added now, and how many have a verdict."""

    answers: int
    added: int
    judged: int


def read_verdicts(path: Path) -> dict[tuple[str, str, str], VerdictLine]:
    """The lines of a file, by question, target and answer.

    Raises:
        D4SError: if it cannot be read, or lines are broken or contradict each other; names them all, up to some.
    """
    found: dict[tuple[str, str, str], VerdictLine] = {}
    problems: list[str] = []
    for number, content in numbered_lines(path):
        line, issues = parse_record(content, VerdictLine)
        problems += (f"line {number}: {issue.field} is {issue.found}, expected {issue.expected}" for issue in issues)
        if line is None:
            continue
        earlier = found.setdefault(line.key, line)
        if earlier.correct is None:
            found[line.key] = line
        elif line.correct not in (None, earlier.correct):
            problems.append(f"line {number}: another line says correct: {json.dumps(earlier.correct)} of the same answer")
    if problems:
        more = f"; {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise D4SError(f"{path}: {'; '.join(problems[:SHOWN_PROBLEMS])}{more}; correct them, nothing was written")
    return found


def add_answers(path: Path, answers: Iterable[tuple[str, str, str]]) -> Written:
    """Write answers (question, target, answer) that a file lacks behind those that it has, whose verdicts stay.

    Raises:
        D4SError: if there is such a file, and it is broken.
    """
    there = read_verdicts(path) if path.exists() else {}
    new = sorted({*answers} - {*there}, key=lambda key: hashlib.sha256(repr(key).encode()).digest())
    added = [VerdictLine(question=question, target=target, answer=answer) for question, target, answer in new]
    if added:
        write_text(path, "".join(f"{line.text}\n" for line in (*there.values(), *added)))
    return Written(len(there) + len(added), len(added), sum(line.correct is not None for line in there.values()))


def file_judge(settings: JudgeSettings) -> "FileJudge":
    """A judge whose verdicts stand in a file.

    Raises:
        SettingsError: if the settings are those of another judge, or there is no such file.
        D4SError: if it is broken.
    """
    chosen = settings.judge
    if not isinstance(chosen, VerdictFileSettings):
        raise SettingsError(f"the judge 'file' needs settings of its own, found {chosen!r}")
    if not Path(chosen.store).is_file():
        raise SettingsError(f"the file of verdicts {chosen.store} does not exist; write it with `d4s verdicts`")
    return FileJudge(chosen)


class FileJudge:
    """Says of an answer what the file says; an answer without a line, or whose line has no verdict, has none."""

    usage: Mapping[str, int] = {}

    def __init__(self, settings: VerdictFileSettings) -> None:
        self.name, self.version = settings.name, settings.version
        self._store, self._lines = settings.store, read_verdicts(Path(settings.store))

    def judge(self, answers: Sequence[JudgedAnswer]) -> list[Verdict]:
        """One verdict per answer, in order."""
        return [self._verdict((one.question, one.target, one.answer)) for one in answers]

    def _verdict(self, key: tuple[str, str, str]) -> Verdict:
        line = self._lines.get(key)
        if line is None:
            return Verdict(None, f"{self._store} lacks the answer")
        return Verdict(line.correct, line.reason or ("" if line.correct is not None else f"{self._store} has no verdict on the answer"))

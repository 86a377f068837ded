"""Judges: they say whether a free answer gives the target. A rule in the place of a judge is named as such wherever its verdicts go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from d4s.config import JudgeSettings
from d4s.registry import Registry

STAND_IN = "stand_in"


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """What a judge is shown: a question, the target of the edit, and the answer; `name` tells it from others in messages."""

    name: str
    question: str
    target: str
    answer: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer is correct; None where there is no verdict, with the reason."""

    correct: bool | None
    reason: str = ""


@runtime_checkable
class Judge(Protocol):
    """Judges answers; a verdict does not depend on the other answers. `name` and `version` stand beside every verdict."""

    name: str
    version: str
    usage: Mapping[str, int]
    """Requests and tokens so far, by the columns of costs; empty where no model is asked."""

    def judge(self, answers: Sequence[JudgedAnswer]) -> list[Verdict]:
        """One verdict per answer, in order."""
        ...


JUDGES = Registry(
    "judge",
    {
        STAND_IN: "d4s.judging.stand_in:stand_in_judge",
        "openai": "d4s.judging.language_model_judge:openai_judge",
        "file": "d4s.judging.verdict_file:file_judge",
        "replay": "d4s.judging.language_model_judge:replay_judge",
    },
)
"""Each target makes a judge from the settings of the stage."""


def make_judge(settings: JudgeSettings) -> Judge:
    """The judge named by settings of the stage."""
    return JUDGES.load(settings.judge.judge)(settings)

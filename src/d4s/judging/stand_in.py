"""The rule in the place of a judge: exact match made lenient, for tests and for comparison."""

from collections.abc import Mapping, Sequence

from d4s.config import JudgeSettings
from d4s.judging.judges import STAND_IN, Judge, JudgedAnswer, Verdict
from d4s.metrics.answer_texts import stands_in


def stand_in_judge(_settings: JudgeSettings) -> Judge:
    """The rule in the place of a judge."""
    return StandIn()


class StandIn:
    """Calls an answer correct in which the target's words stand and which does not repeat itself."""

    name, version = STAND_IN, "stand-in-1"
    usage: Mapping[str, int] = {}

    def judge(self, answers: Sequence[JudgedAnswer]) -> list[Verdict]:
        """One verdict per answer, in order."""
        return [Verdict(stands_in(one.answer, one.target)) for one in answers]

"""What a rule finds and what follows from it: conditions with effect, interval and margin; the verdict over them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from d4s.analysis.intervals import IntervalEstimate

Verdict = Literal["holds", "does not hold", "undecided", "not measured"]
Unit = Literal["points", "percent", "nats", "correlation", "standardised"]
_UNITS: Mapping[Unit, tuple[int, int, str]] = {  # factor, digits, mark
    "points": (100, 1, " pp"),
    "percent": (100, 0, " %"),
    "nats": (1, 2, " nats"),
    "correlation": (1, 2, ""),
    "standardised": (1, 3, ""),
}


class NotMeasured(Exception):
    """The study lacks the data that a rule, or one of its conditions, needs; the message names them."""


@contextmanager
def collect_missing(missing: list[str]) -> Iterator[None]:
    """Keep what one condition lacks, so that the others are judged all the same."""
    try:
        yield
    except NotMeasured as reason:
        missing.append(str(reason))


@dataclass(frozen=True, slots=True)
class Condition:
    """One effect that a claim needs, counted so that the claimed direction is positive."""

    name: str
    estimate: IntervalEstimate
    margin: float = 0.0
    unit: Unit = "points"

    @property
    def verdict(self) -> Verdict:
        """Holds above the margin, does not hold at or below it, undecided across it."""
        if self.estimate.low > self.margin:
            return "holds"
        return "does not hold" if self.estimate.high <= self.margin else "undecided"


@dataclass(frozen=True, slots=True)
class RuleResult:
    """What a rule found: its conditions, sentences with the numbers beside them, and what conditions without data lack."""

    conditions: Sequence[Condition]
    why: Sequence[str] = field(default_factory=tuple)
    undecided_because: str = ""
    missing: Sequence[str] = field(default_factory=tuple)

    @property
    def verdict(self) -> Verdict:
        """All conditions hold, one does not hold, or undecided; a rule may also say that its data cannot decide.

        A claim of which a condition has no data cannot hold, and is not measured where none has any.
        """
        verdicts = {condition.verdict for condition in self.conditions}
        if self.undecided_because:
            return "undecided"
        if self.missing and not verdicts:
            return "not measured"
        if "does not hold" in verdicts:
            return "does not hold"
        return "holds" if verdicts == {"holds"} and not self.missing else "undecided"

    @property
    def weakest(self) -> Condition | None:
        """The condition whose interval reaches furthest against the claim."""
        return min(self.conditions, key=lambda condition: condition.estimate.low - condition.margin, default=None)


def show(value: float, unit: Unit, signed: bool = True) -> str:
    """A number in its unit, with a true minus sign."""
    return _number(value, unit, signed) + _UNITS[unit][2]


def show_interval(low: float, high: float, unit: Unit, signed: bool = True) -> str:
    """An interval, whose unit stands at the number before it."""
    return f"[{_number(low, unit, signed)}, {_number(high, unit, signed)}]"


def show_estimate(estimate: IntervalEstimate, unit: Unit, signed: bool = True) -> str:
    """A number with its interval."""
    return f"{show(estimate.value, unit, signed)} {show_interval(estimate.low, estimate.high, unit, signed)}"


def _number(value: float, unit: Unit, signed: bool) -> str:
    factor, digits, _ = _UNITS[unit]
    rounded = round(value * factor, digits) + 0.0  # no negative zero
    return f"{rounded:{'+' if signed else ''}.{digits}f}".replace("-", "−")

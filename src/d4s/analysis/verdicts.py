"""Results of rules and the verdicts that follow: conditions with effect, interval and margin."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from d4s.analysis.intervals import IntervalEstimate

Verdict = Literal["holds", "does not hold", "undecided", "not measured"]
Unit = Literal["points", "percent", "nats", "correlation", "standardised", "r_squared", "bits", "log ratio"]
_UNITS: Mapping[Unit, tuple[int, int, str]] = {  # factor, digits, mark
    "points": (100, 1, " pp"),
    "percent": (100, 0, " %"),
    "nats": (1, 2, " nats"),
    "correlation": (1, 2, ""),
    "standardised": (1, 3, ""),
    "r_squared": (1, 3, ""),
    "bits": (1, 2, " bits"),
    "log ratio": (1, 2, " log"),
}


class NotMeasured(Exception):
    """Data that a rule, or one of its conditions, needs are missing from the study; the message names them."""


@contextmanager
def collect_missing(missing: list[str]) -> Iterator[None]:
    """Catch `NotMeasured` of one condition and record it, so that the other conditions are judged."""
    try:
        yield
    except NotMeasured as reason:
        missing.append(str(reason))


@dataclass(frozen=True, slots=True)
class Condition:
    """One effect that a claim needs, with the sign that makes the claimed direction positive."""

    name: str
    estimate: IntervalEstimate
    margin: float = 0.0
    unit: Unit = "points"

    @property
    def verdict(self) -> Verdict:
        """The condition holds above the margin, does not hold at or below it, and is undecided across it."""
        if self.estimate.low > self.margin:
            return "holds"
        return "does not hold" if self.estimate.high <= self.margin else "undecided"


@dataclass(frozen=True, slots=True)
class RuleResult:
    """The result of a rule: conditions, sentences with further numbers, and the data that conditions lack."""

    conditions: Sequence[Condition]
    why: Sequence[str] = field(default_factory=tuple)
    undecided_because: str = ""
    missing: Sequence[str] = field(default_factory=tuple)
    is_tendency: bool = False

    @property
    def verdict(self) -> Verdict:
        """A claim holds if all conditions hold, does not hold if one does not, else it is undecided; a rule may also declare it undecided.

        A claim with a condition without data cannot hold, and is not measured where no condition has data. A tendency holds if more than
        half of its conditions do and none does not.
        """
        verdicts = {condition.verdict for condition in self.conditions}
        if self.undecided_because:
            return "undecided"
        if self.missing and not verdicts:
            return "not measured"
        if "does not hold" in verdicts:
            return "does not hold"
        if self.is_tendency:
            holding = sum(condition.verdict == "holds" for condition in self.conditions)
            return "holds" if 2 * holding > len(self.conditions) + len(self.missing) else "undecided"
        return "holds" if verdicts == {"holds"} and not self.missing else "undecided"

    @property
    def weakest(self) -> Condition | None:
        """The condition whose interval reaches furthest against the claim, among those that do not hold where there are any."""

        def strength(condition: Condition) -> tuple[bool, float]:
            return condition.verdict != "does not hold", condition.estimate.low - condition.margin

        return min(self.conditions, key=strength, default=None)


def show(value: float, unit: Unit, signed: bool = True) -> str:
    """A number in its unit, with a true minus sign."""
    return _number(value, unit, signed) + _UNITS[unit][2]


def show_interval(low: float, high: float, unit: Unit, signed: bool = True) -> str:
    """An interval; its unit is that of the number before it."""
    return f"[{_number(low, unit, signed)}, {_number(high, unit, signed)}]"


def show_estimate(estimate: IntervalEstimate, unit: Unit, signed: bool = True) -> str:
    """A number with its interval."""
    return f"{show(estimate.value, unit, signed)} {show_interval(estimate.low, estimate.high, unit, signed)}"


def _number(value: float, unit: Unit, signed: bool) -> str:
    factor, digits, _ = _UNITS[unit]
    rounded = round(value * factor, digits) + 0.0  # no negative zero
    return f"{rounded:{'+' if signed else ''}.{digits}f}".replace("-", "−")

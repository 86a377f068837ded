"""A claim with its rule as code, and the verdict on it as plain values."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from d4s.analysis.study_results import Results
from d4s.analysis.verdicts import Condition, NotMeasured, RuleResult, show_estimate


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement, its rule in one sentence, the rule as a function, and the figures and tables that show its data."""

    claim_id: str
    statement: str
    rule: str
    judge: Callable[[Results], RuleResult]
    shown_in: tuple[str, ...] = ()


def judge(claim: Claim, results: Results) -> dict[str, Any]:
    """The verdict on one claim as plain values for JSON."""
    entry: dict[str, Any] = {"id": claim.claim_id, "statement": claim.statement, "rule": claim.rule, "shown_in": list(claim.shown_in)}
    try:
        finding = claim.judge(results)
    except NotMeasured as missing:
        return {**entry, **_EMPTY, "verdict": "not measured", "why": [f"Not measured in this study: {missing}."]}
    weakest = finding.weakest
    numbers = _numbers(weakest) if weakest else _EMPTY
    missing_sentences = [f"Not measured in this study: {reason}." for reason in finding.missing]
    why = [_sentence(condition) for condition in finding.conditions] + missing_sentences + list(finding.why)
    return {**entry, **numbers, "verdict": finding.verdict, "why": why, "conditions": [_condition(c) for c in finding.conditions]}


_EMPTY: dict[str, Any] = {"effect": None, "ci": None, "n": None, "seeds": None, "unit": None, "margin": None, "conditions": []}


def _numbers(condition: Condition) -> dict[str, Any]:
    estimate = condition.estimate
    return {
        "effect": estimate.value,
        "ci": [estimate.low, estimate.high],
        "n": estimate.n,
        "seeds": estimate.seeds,
        "unit": condition.unit,
        "margin": condition.margin,
    }


def _condition(condition: Condition) -> dict[str, Any]:
    return {"name": condition.name, "verdict": condition.verdict, **_numbers(condition)}


def _sentence(condition: Condition) -> str:
    return f"{condition.name}: {show_estimate(condition.estimate, condition.unit)}, {condition.verdict}."

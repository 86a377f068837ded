"""The claims of the paper and this project's own, each with its rule as code; stage `claims` writes their verdicts as claims.json.

docs/claims.md has the rules in words with their reasons; they were written before the first study ran.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d4s.analysis.rules_cause import norm_as_cause
from d4s.analysis.rules_compare import best_average, least_benchmark_damage, same_as_batch
from d4s.analysis.rules_data import damage_by_form, drivers, target_perplexity
from d4s.analysis.rules_model import falling_success, growing_norm, hidden_forgetting, lower_norm, norm_against_accuracy
from d4s.analysis.study_results import Results
from d4s.analysis.verdicts import Condition, NotMeasured, RuleResult, show_estimate
from d4s.artifacts import write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement, its rule in one sentence, the rule as a function, and the figures and tables that show its data."""

    claim_id: str
    statement: str
    rule: str
    judge: Callable[[Results], RuleResult]
    shown_in: tuple[str, ...] = ()


CLAIMS = (
    Claim(
        "C1",
        "The targets' perplexity rises from true/false over multiple choice to directly generated.",
        "Both steps in log perplexity per token of the counterfactual targets are above 0.",
        target_perplexity,
        ("fig_objectives", "tab_objectives"),
    ),
    Claim(
        "C2",
        "Directly generated targets damage the model most, true/false targets least.",
        "Both steps in the loss of the benchmark mean, averaged over ROME, MEMIT and, where it was benchmarked, KN, are above 0.",
        damage_by_form,
        ("fig_benchmarks_by_form", "fig_form_matrix", "tab_benchmarks"),
    ),
    Claim(
        "C3",
        "Diversity and length of the targets drive the damage.",
        "In a regression over at least six data sets × models the coefficients of length and of diversity are above 0.",
        drivers,
        ("fig_drivers", "tab_drivers", "fig_objectives"),
    ),
    Claim(
        "C4",
        "With ROME and MEMIT an edit succeeds less often the more edits came before it.",
        "For each, the fitted line of success right after the edit falls by more than 5 points along the sequence.",
        falling_success,
        ("fig_bottleneck",),
    ),
    Claim(
        "C5",
        "The L1 norm of the edited layers grows with the number of edits for ROME and MEMIT.",
        "For each, the growth over the sequence is above 5 % of the unedited norm.",
        growing_norm,
        ("fig_l1_norm", "fig_bottleneck"),
    ),
    Claim(
        "C6",
        "Norm and editing accuracy are strongly negatively correlated.",
        "The pooled correlation of log norm and retained efficacy over runs and lengths is below −0.5.",
        norm_against_accuracy,
        ("fig_norm_vs_accuracy",),
    ),
    Claim(
        "C7",
        "D4S keeps the norm lower than ROME and MEMIT at the same number of edits.",
        "The others' growth minus that of D4S is above 0 at the longest shared length.",
        lower_norm,
        ("fig_l1_norm",),
    ),
    Claim(
        "C8",
        "D4S has the best average of efficacy, paraphrase and specificity.",
        "D4S minus each of the paper's other methods is above 0 at every length of 100 edits or more.",
        best_average,
        ("tab_main", "fig_curves"),
    ),
    Claim(
        "C9",
        "D4S damages the benchmarks least on long sequences.",
        "The change of the benchmark mean with D4S minus that with each of the paper's other methods is above 0.",
        least_benchmark_damage,
        ("tab_benchmarks", "fig_benchmarks_by_dataset"),
    ),
    Claim(
        "C10",
        "Immediate evaluation hides forgetting: with ROME and MEMIT, retained accuracy is much lower.",
        "For each, immediate minus retained efficacy of the same edits is above 10 points.",
        hidden_forgetting,
        ("fig_protocols", "tab_protocols", "fig_retention_by_age"),
    ),
    Claim(
        "X1",
        "The norm causes the decline (our question).",
        "A random change of the same norm costs more than half of the accuracy that the edits cost.",
        norm_as_cause,
        ("fig_norm_cause",),
    ),
    Claim(
        "X2",
        "D4S gives the same scores as one batch edit of the same requests (our question).",
        "Efficacy, paraphrase and specificity all differ by less than 5 points, by an equivalence test.",
        same_as_batch,
        ("tab_main", "tab_key_modes"),
    ),
)


def claims(study_dir: Path) -> None:
    """Judge every claim on a study's gathered results and write claims.json."""
    results = Results(study_dir)
    verdicts = [judge(claim, results) for claim in CLAIMS]
    write_json(study_dir / "claims.json", verdicts)
    logger.info("claims: %s", ", ".join(f"{entry['id']} {entry['verdict']}" for entry in verdicts))


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

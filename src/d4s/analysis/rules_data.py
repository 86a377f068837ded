"""Rules about the data (C1–C3): perplexity of the targets by form, damage by form, and what explains the damage."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from d4s.analysis.curves import summary_curve
from d4s.analysis.display_names import DAMAGE_METHODS, FORM_NAMES, dataset_name, method_name
from d4s.analysis.drivers import FEWEST_ROWS, TARGET_PROPERTIES, DamageTable, damage_table, effects
from d4s.analysis.intervals import IntervalEstimate, difference, mean_interval, normal_interval, over_seeds
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.analysis.summary_rows import task_score
from d4s.analysis.target_statistics import target_statistics
from d4s.analysis.verdicts import Condition, NotMeasured, RuleResult, show, show_estimate

FORM_PAIRS = (("multiple_choice", "true_false"), ("directly_generated", "multiple_choice"))
HUGE = 1e5
LABEL_MASS = {"true_false": 0.25, "multiple_choice": 0.1}
"""Least mean probability of the labels that a question offers: below it, the question does not ask for a label as the next token."""
PERPLEXITY_VARIANTS = (
    ("new", "nll_per_token", "Perplexity of the counterfactual targets per token"),
    ("new", "nll_first_token", "Of their first token"),
    ("new", "nll_joint", "Of the whole targets"),
    ("true", "nll_per_token", "Of the true targets per token"),
)


def target_perplexity(results: Results) -> RuleResult:
    """C1: perplexity of the counterfactual targets rises from true/false over multiple choice to generated."""
    conditions, why = [], []
    for model, forms in _forms(results).items():
        nll = {form: _nll(results, panel, "nll_per_token") for form, panel in forms.items()}
        for upper, lower in FORM_PAIRS:
            name = f"{FORM_NAMES[upper]} − {FORM_NAMES[lower].lower()}, {model}"
            conditions.append(Condition(name, _log_ratio(nll[upper], nll[lower]), unit="nats"))
        why += [f"{words}: {_by_form(results, forms, which, quantity)} ({model})." for which, quantity, words in PERPLEXITY_VARIANTS]
        why += [_label_text(results, panel, form, model) for form, panel in forms.items() if form in LABEL_MASS]
    return RuleResult(conditions, why)


def _by_form(results: Results, forms: Mapping[str, Panel], which: str, quantity: str) -> str:
    """Perplexities of the three forms by one quantity, as text."""
    numbers = {form: results.targets(panel, which)[quantity].mean() for form, panel in forms.items()}
    return " · ".join(f"{FORM_NAMES[form]} {perplexity_text(value)}" for form, value in numbers.items())


def _label_text(results: Results, panel: Panel, form: str, model: str) -> str:
    """Probability of a form's labels beside the criterion, and the perplexity of the targets among them."""
    numbers = target_statistics(results.targets(panel, "new"))
    verdict = "at least" if numbers.label_mass >= LABEL_MASS[form] else "BELOW the criterion of"
    return (
        f"{FORM_NAMES[form]}: the labels have a probability of {numbers.label_mass:.2f} ({verdict} {LABEL_MASS[form]:g}), "
        f"and the targets a perplexity of {perplexity_text(numbers.log_among_labels)} among them ({model})."
    )


def perplexity_text(nll: float) -> str:
    """Perplexity of a mean negative log-likelihood (nats), as text; in powers of ten where it is very large."""
    value = float(np.exp(nll))
    return f"{value:,.1f}" if value < HUGE else f"{value:.1e}"


def _forms(results: Results) -> dict[str, dict[str, Panel]]:
    """The panels of each model that has all three forms.

    Raises:
        NotMeasured: if there is none.
    """
    found: dict[str, dict[str, Panel]] = {}
    for panel in results.panels:
        form = results.form(panel.dataset)
        if form is not None and form in FORM_NAMES:
            found.setdefault(panel.model, {})[form] = panel
    complete = {model: {form: forms[form] for form in FORM_NAMES} for model, forms in found.items() if set(forms) >= set(FORM_NAMES)}
    if not complete:
        raise NotMeasured("the study has no model with all three forms of the multi-question set")
    return complete


def _nll(results: Results, panel: Panel, quantity: str) -> "pd.Series[float]":
    """A quantity of the counterfactual targets by fact.

    Raises:
        NotMeasured: if they were not scored.
    """
    rows = results.targets(panel, "new")
    if rows.empty:
        raise NotMeasured(f"no targets of {dataset_name(panel.dataset)} were scored under {panel.model}")
    return rows.set_index("fact_id")[quantity]


def _log_ratio(upper: "pd.Series[float]", lower: "pd.Series[float]") -> IntervalEstimate:
    """Difference of mean log perplexities, paired where both have the same facts."""
    if set(upper.index) == set(lower.index):
        return mean_interval((upper - lower[upper.index]).to_numpy(dtype=float))
    return difference(upper.to_numpy(dtype=float), lower.to_numpy(dtype=float))


# --- damage -----------------------------------------------------------------------------------------------------------


def benchmarked_editors(results: Results, panels: Sequence[Panel]) -> tuple[list[str], int]:
    """The paper's editors whose benchmarks all panels have, and the longest length that they share.

    Raises:
        NotMeasured: if they share none.
    """
    lengths = {editor: [results.shared_benchmark_lengths(panel, editor) for panel in panels] for editor in DAMAGE_METHODS}
    editors = [editor for editor, of_panels in lengths.items() if all(of_panels)]
    shared = set.intersection(*(found for editor in editors for found in lengths[editor])) if editors else set()
    if not shared:
        raise NotMeasured("no benchmark of KN, ROME or MEMIT at a length that the data sets share")
    return editors, max(shared)


def damage_by_form(results: Results) -> RuleResult:
    """C2: generated targets damage the benchmarks more than multiple choice, and that more than true/false."""
    conditions, why = [], []
    for model, forms in _edited(results, _forms(results)).items():
        editors, length = benchmarked_editors(results, list(forms.values()))
        for upper, lower in FORM_PAIRS:
            by_seed = [_gap(results, (forms[lower], forms[upper]), editors, seed, length) for seed in results.seeds]
            name = f"Damage of {FORM_NAMES[upper].lower()} − {FORM_NAMES[lower].lower()}, {length} edits, {model}"
            conditions.append(Condition(name, over_seeds(by_seed)))
        why += [_damages(results, forms, editor, length, model) for editor in editors]
    return RuleResult(conditions, why)


def _edited(results: Results, models: dict[str, dict[str, Panel]]) -> dict[str, dict[str, Panel]]:
    """Models that were edited and benchmarked; all models where none was, so that the missing data are named."""
    found = {}
    for model, forms in models.items():
        runs = [run for panel in forms.values() for editor in DAMAGE_METHODS for run in results.runs_of(panel, editor)]
        if any(results.benchmark_lengths(run) for run in runs):
            found[model] = forms
    return found or models


def _gap(results: Results, panels: tuple[Panel, Panel], editors: Sequence[str], seed: int, length: int) -> IntervalEstimate:
    """Mean score after edits of the first panel minus after those of the second, mean over editors."""
    pairs = [[task_score(results.tasks(RunKey(*panel, editor, seed), length)) for panel in panels] for editor in editors]
    value = float(np.mean([left.mean - right.mean for left, right in pairs]))
    error = float(np.sqrt(sum(score.error**2 for pair in pairs for score in pair))) / len(pairs)
    return normal_interval(value, error, pairs[0][0].n)


def _damages(results: Results, forms: dict[str, Panel], editor: str, length: int, model: str) -> str:
    base = results.unedited_tasks(model)
    if base.empty:
        return f"{method_name(editor)}: the unedited model has no benchmark scores, so only differences are known."
    start = task_score(base).mean
    changes = []
    for form, panel in forms.items():
        means = [task_score(results.tasks(run, length)).mean for run in results.runs_of(panel, editor)]
        changes.append(f"{FORM_NAMES[form]} {show(float(np.mean(means)) - start, 'points')}")
    return (
        f"Change of the benchmark mean with {method_name(editor)} after {length} edits: {' · '.join(changes)}; "
        f"perplexity of held-out text: {_text_perplexity(results, forms, editor, length)}."
    )


def _text_perplexity(results: Results, forms: Mapping[str, Panel], editor: str, length: int) -> str:
    """Ratios of perplexity to the unedited model's by form, as text."""
    ratios = []
    for form, panel in forms.items():
        points = summary_curve(results, panel, editor, "state", "perplexity_ratio")
        ratios += [f"{FORM_NAMES[form]} ×{value:.2f}" for value in points.loc[points["step"] == length, "mean"]]
    return " · ".join(ratios) or "not measured"


# --- what drives it ---------------------------------------------------------------------------------------------------


def drivers(results: Results) -> RuleResult:
    """C3: length and diversity of the targets explain damage at fixed perplexity.

    Raises:
        NotMeasured: if no data set has benchmarks of KN, ROME or MEMIT and of the unedited model.
    """
    found = damage_table(results)
    if found is None:
        raise NotMeasured("no data set with benchmarks of KN, ROME or MEMIT and of the unedited model")
    why = [_driver_line(row, found) for row in found.rows.sort_values("damage").to_dict(orient="records")]
    if len(found.rows) < FEWEST_ROWS:
        needed = f"{FEWEST_ROWS} data sets × models are needed to tell the three predictors apart, {len(found.rows)} have benchmarks"
        return RuleResult([], [*why, f"Undecided by the rule: {needed}."], undecided_because=needed)
    if not found.can_separate_predictors:
        return RuleResult([], why, undecided_because="a predictor is the same everywhere, or follows from the two others")
    each = effects(found)
    why += [
        f"{TARGET_PROPERTIES[effect.predictor]} alone: {show_estimate(effect.estimate, 'standardised')}, R² {effect.r_squared:.2f}."
        for effect in each
        if effect.is_univariate
    ]
    together = {effect.predictor: effect for effect in each if not effect.is_univariate}
    why.append(
        f"Together R² {together['tokens'].r_squared:.2f}; log perplexity {show_estimate(together['perplexity'].estimate, 'standardised')}."
    )
    names = {"tokens": "Length of the targets", "diversity": "Diversity of the targets"}
    conditions = [Condition(f"{name}, coefficient", together[key].estimate, unit="standardised") for key, name in names.items()]
    return RuleResult(conditions, why)


def _driver_line(row: Mapping[Any, Any], found: DamageTable) -> str:
    return (
        f"{dataset_name(str(row['dataset']))}, {row['model']}, {found.length} edits: damage {show(row['damage'], 'points')}, "
        f"perplexity {perplexity_text(row['perplexity'])}, {np.exp(row['tokens']):.1f} tokens, {row['diversity']:.1f} bits of diversity."
    )

"""Rules on beliefs (BR1–BR5): is a request learnt, do dependent beliefs follow, does logic hold, do unrelated beliefs stay."""

from collections.abc import Iterator

import pandas as pd

from d4s.analysis.belief_results import MOST_ERROR, BeliefResults, EditedBeliefs
from d4s.analysis.display_names import method_name
from d4s.analysis.study_results import Panel, Results
from d4s.analysis.verdicts import Condition, NotMeasured, RuleResult, collect_missing, show, show_estimate

EDITOR = "lora"
LEARNT, MOVED, BROKEN, STABLE = 0.9, 0.10, 0.05, 0.05
GATES = {"belief": "objects", "truth": "what is true and false"}
RULES = {"truth": "true and false", "negation": "negation", "and": "and", "or": "or"}


def _learnt(found: EditedBeliefs) -> "pd.Series[float]":
    return found.exact_after["same_same.after"] - LEARNT


def _dependent(found: EditedBeliefs) -> "pd.Series[float]":
    return found.changes.loc[found.requests["dependent"], "same_subject"]


def judged_panels(beliefs: BeliefResults, editor: str = EDITOR) -> Iterator[Panel]:
    """Panels in which an editor is judged: those whose model believes what the reader does before any edit.

    Raises:
        NotMeasured: if there is none.
    """
    reasons: list[str] = []
    for panel in beliefs.panels:
        runs = beliefs.singles.of_editor(panel, editor)
        gates = [beliefs.cell(run).gate() for run in runs]
        worst = {of: max(gate[of] for gate in gates) for of in GATES if gates}
        if runs and max(worst.values()) <= MOST_ERROR:
            yield panel
        elif runs:
            errors = " and ".join(f"{show(worst[of], 'points', signed=False)} about {name}" for of, name in GATES.items())
            reasons.append(f"before any edit {panel.model} is off by {errors}; {show(MOST_ERROR, 'points', signed=False)} is the most")
    if not beliefs.panels or len(reasons) == len(beliefs.panels):
        raise NotMeasured("; ".join(reasons) or f"no single edits of {method_name(editor)} in a world of beliefs")


def request_learnt(results: Results) -> RuleResult:
    """BR1: after the edit the model answers the request."""
    beliefs = _beliefs(results)
    conditions, why = [], []
    for panel in judged_panels(beliefs):
        conditions.append(Condition(_name(results, panel, EDITOR), beliefs.effect(panel, EDITOR, _learnt)))
        others = [editor for editor in beliefs.editors(panel) if editor != EDITOR]
        why += [f"{_name(results, panel, one)}: {show_estimate(beliefs.effect(panel, one, _learnt), 'points')}." for one in others]
    return RuleResult(conditions, why)


def dependents_lag(results: Results) -> RuleResult:
    """BR2: errors of beliefs that depend on the edited one grow."""
    beliefs = _beliefs(results)
    panels = [*judged_panels(beliefs)]
    return RuleResult([Condition(_name(results, one, EDITOR), beliefs.effect(one, EDITOR, _dependent), margin=MOVED) for one in panels])


def logic_breaks(results: Results) -> RuleResult:
    """BR3: errors of logic grow, those of true and false, negation, and, or each."""
    beliefs = _beliefs(results)
    conditions = [
        Condition(
            f"{_name(results, panel, EDITOR)}, {words}",
            beliefs.effect(panel, EDITOR, lambda found, rule=rule: found.changes[rule]),
            margin=BROKEN,
        )
        for panel in judged_panels(beliefs)
        for rule, words in RULES.items()
    ]
    return RuleResult(conditions)


def unrelated_stay(results: Results) -> RuleResult:
    """BR4: errors of beliefs about another subject and relation hardly grow."""
    beliefs = _beliefs(results)
    conditions = [
        Condition(_name(results, panel, EDITOR), beliefs.effect(panel, EDITOR, lambda found: STABLE - found.changes["different"]))
        for panel in judged_panels(beliefs)
    ]
    return RuleResult(conditions)


def not_lora_alone(results: Results) -> RuleResult:
    """BR5: BR2 holds of every other editor that learns the request.

    Raises:
        NotMeasured: if there is no other editor that does.
    """
    beliefs = _beliefs(results)
    conditions, missing = [], []
    for panel in judged_panels(beliefs):
        for editor in beliefs.editors(panel):
            if editor != EDITOR and Condition("", beliefs.effect(panel, editor, _learnt)).verdict == "holds":
                with collect_missing(missing):
                    effect = beliefs.effect(panel, editor, _dependent)
                    conditions.append(Condition(_name(results, panel, editor), effect, margin=MOVED))
    if not conditions:
        raise NotMeasured(f"no other editor than {method_name(EDITOR)} learns the request")
    return RuleResult(conditions, missing=missing)


def _beliefs(results: Results) -> BeliefResults:
    """The study's beliefs.

    Raises:
        NotMeasured: if it has none.
    """
    found = BeliefResults.of(results)
    if not found.panels:
        raise NotMeasured("no single edits in a world of beliefs")
    return found


def _name(results: Results, panel: Panel, editor: str) -> str:
    return f"{method_name(editor)}, {results.panel_name(panel)}"

"""Two editors of a study side by side: paired differences of their retained scores, and the facts that only one of them retains."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from d4s.analysis.display_names import HEADLINE_METRICS, METRIC_NAMES, method_name
from d4s.analysis.intervals import IntervalEstimate
from d4s.analysis.pairs import average_gap, score_gap
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.analysis.verdicts import NotMeasured, show_estimate
from d4s.errors import SettingsError

FLIP_METRIC = "efficacy_accuracy"
RETAINED_FROM = 0.5  # mean over the fact's prompts


@dataclass(frozen=True, slots=True)
class Difference:
    """A retained metric: the first editor's estimate minus the second's, paired by fact."""

    name: str
    gap: IntervalEstimate

    def line(self) -> str:
        """The difference with its interval, marked where the interval holds 0."""
        mark = "   may be none" if self.gap.low <= 0 <= self.gap.high else ""
        return f"  {self.name:<12}{show_estimate(self.gap, 'points')}{mark}"


@dataclass(frozen=True, slots=True)
class Flip:
    """A fact that one editor of two retains, and how both edited models answered its prompt where it was asked freely."""

    seed: int
    fact_id: str
    kept_by: str
    asked: str

    def line(self) -> str:
        """The fact in one line."""
        return f"    seed {self.seed}, {self.fact_id}{self.asked}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two editors in one panel after a number of edits."""

    place: str
    editors: tuple[str, str]
    differences: tuple[Difference, ...]
    flips: tuple[Flip, ...]

    def lines(self, shown: int) -> Iterator[str]:
        """The comparison as text, with at most `shown` flipped facts of each editor."""
        yield f"{self.place}: {' − '.join(map(method_name, self.editors))}, retained"
        yield from (one.line() for one in self.differences)
        for editor in self.editors:
            kept = [flip for flip in self.flips if flip.kept_by == editor]
            yield f"  retained by {method_name(editor)} alone: {len(kept)}"
            yield from (flip.line() for flip in kept[:shown])
            if shown < len(kept):
                yield f"    and {len(kept) - shown} more: --facts {len(kept)}"


def compare(results: Results, editors: tuple[str, str], length: int | None = None) -> list[Comparison]:
    """Two editors in every panel that has both, after `length` edits, or after the most at which both were measured.

    Raises:
        SettingsError: if an editor is not in the study, both are the same, or no panel has both at that length.
    """
    known = sorted({run.editor for run in results.runs})
    if unknown := [editor for editor in editors if editor not in known]:
        raise SettingsError(f"{', '.join(map(repr, unknown))}: not among the editors of the study, which are {', '.join(known)}")
    if editors[0] == editors[1]:
        raise SettingsError(f"{editors[0]!r} is named twice; name two editors")
    found = [_compare_panel(results, panel, editors, length) for panel in results.panels]
    if comparisons := [comparison for comparison in found if comparison is not None]:
        return comparisons
    lengths = sorted({step for run in results.runs if run.editor in editors for step in results.lengths(run)})
    at = "" if length is None else f" after {length} edits"
    raise SettingsError(f"{editors[0]} and {editors[1]} have no scores in common{at}; lengths measured: {', '.join(map(str, lengths))}")


def _compare_panel(results: Results, panel: Panel, editors: tuple[str, str], length: int | None) -> Comparison | None:
    measured = [{step for run in results.runs_of(panel, editor) for step in results.lengths(run)} for editor in editors]
    steps = set.intersection(*measured)
    step = max(steps, default=None) if length is None else length
    if step not in steps or step is None:
        return None
    gaps = {METRIC_NAMES[metric]: score_gap(results, panel, editors, step, metric) for metric in HEADLINE_METRICS}
    try:
        gaps["Average"] = average_gap(results, panel, editors, step)
    except NotMeasured:
        return None
    differences = tuple(Difference(name, gap) for name, gap in gaps.items() if gap is not None)
    return Comparison(f"{results.panel_name(panel)}, {step} edits", editors, differences, tuple(_flips(results, panel, editors, step)))


def _flips(results: Results, panel: Panel, editors: tuple[str, str], step: int) -> Iterator[Flip]:
    """Facts of every shared seed that one editor answers teacher-forced after the sequence and the other does not."""
    for run in results.runs_of(panel, editors[0]):
        runs = (run, run._replace(editor=editors[1]))
        frames = [results.retained(one, step).get(FLIP_METRIC, pd.Series(dtype=float)) for one in runs]
        facts = frames[0].index.intersection(frames[1].index)
        kept = [frame.loc[facts] >= RETAINED_FROM for frame in frames]
        for fact in facts[kept[0] != kept[1]]:
            yield Flip(run.seed, str(fact), editors[0 if kept[0][fact] else 1], _asked(results, runs, step, str(fact)))


def _asked(results: Results, runs: tuple[RunKey, RunKey], step: int, fact: str) -> str:
    """The prompt, the new answer and both models' free answers; empty where the fact was not asked freely."""
    rows = results.answers[
        (results.answers["fact_id"] == fact) & (results.answers["kind"] == "efficacy") & (results.answers["step"] == step)
    ]
    found = [rows[results.rows_of(rows, run)] for run in runs]
    if any(part.empty for part in found):
        return ""
    first = found[0].iloc[0]
    after = ", ".join(f"{method_name(run.editor)} {part.iloc[0]['after']!r}" for run, part in zip(runs, found, strict=True))
    return f": {first['prompt']!r} → {first['expected']!r}; answered by {after}"

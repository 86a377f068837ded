"""Sentences shared by captions: data sets, sample sizes, and what the bands are."""

from collections.abc import Collection, Sequence

from d4s.analysis.display_names import dataset_name
from d4s.analysis.study_results import Panel, Results


def on_datasets(results: Results, shown: Sequence[Panel]) -> str:
    """The data sets for a caption, such as ` on World QA, model mini`; each with its model where the study has several."""
    only = f", model {results.models[0]}" if len(results.models) == 1 else ""
    return f" on {', '.join(map(results.panel_name, shown))}{only}"


def title_suffix(results: Results, panel: Panel, shown: Collection[Panel]) -> str:
    """The end of a panel's title, such as ` · World QA`; a line with the model where the panels have several; empty for one panel."""
    if len({other.model for other in shown}) > 1:
        return f"\n{results.panel_name(panel)}"
    return f" · {dataset_name(panel.dataset)}" if len(shown) > 1 else ""


def sample_sizes(results: Results, shown: Sequence[Panel]) -> str:
    """The number of facts behind the last point of the curves, as a sentence."""
    counts = [int(rows["n"].max()) for panel in shown if len(rows := results.retained_means(panel))]
    return f"n = {' / '.join(map(str, dict.fromkeys(counts)))} edited facts at the longest length." if counts else ""


def interval_note(results: Results, what: str = "facts") -> str:
    """What the bands show, and a note on the number of seeds."""
    if len(results.seeds) == 1:
        return f"Bands: 95 % bootstrap intervals over {what}; one seed, so they do not cover another draw of the sequence."
    return f"Bands: 95 % t-intervals over {len(results.seeds)} seeds."


def benchmark_interval_note(results: Results) -> str:
    """What the bands of benchmark means show, and a note on the number of seeds."""
    if len(results.seeds) == 1:
        return "Bands of benchmark scores: 95 % intervals from the tasks' standard errors; one seed."
    return f"Bands of benchmark scores: 95 % t-intervals over {len(results.seeds)} seeds."


def benchmark_description(results: Results) -> str:
    """Number of benchmark tasks, what they are, and about how many items they have."""
    tasks, items = results.benchmark["task"].nunique(), int(results.benchmark["n"].median())
    shape = "small tasks made from the world in the shapes of the paper's six" if results.has_world_tasks else "tasks"
    return f"{tasks} {shape}, about {items} items each"


def seeds_note(results: Results) -> str:
    """A note on the number of seeds."""
    return "One seed." if len(results.seeds) == 1 else f"Means over {len(results.seeds)} seeds."

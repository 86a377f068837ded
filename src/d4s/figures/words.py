"""Sentences that captions share: where, how many, and what the bands are."""

from collections.abc import Sequence

from d4s.studies.names import dataset_name
from d4s.studies.results import Panel, Results


def places(results: Results, shown: Sequence[Panel]) -> str:
    """` on World QA (model mini)`, naming models where the study has several."""
    models = {panel.model for panel in results.panels}
    names = ", ".join(panel_name(results, panel) for panel in shown)
    return f" on {names}" + (f", model {min(models)}" if len(models) == 1 else "")


def panel_name(results: Results, panel: Panel) -> str:
    """Display name of a panel's data set, with the model where the study has several."""
    several = len({other.model for other in results.panels}) > 1
    return dataset_name(panel.dataset) + (f" ({panel.model})" if several else "")


def sizes(results: Results, shown: Sequence[Panel]) -> str:
    """How many facts stand behind the last point of the curves."""
    rows = results.summary[results.summary["protocol"] == "retained"]
    counts = []
    for panel in shown:
        of_panel = rows[(rows["model"] == panel.model) & (rows["dataset"] == panel.dataset)]
        if len(of_panel):
            counts.append(int(of_panel["n"].max()))
    return f"n = {' / '.join(map(str, dict.fromkeys(counts)))} edited facts at the longest length." if counts else ""


def interval_words(results: Results, what: str = "facts") -> str:
    """What the bands show, and the note on seeds."""
    if len(results.seeds) == 1:
        return f"Bands: 95 % bootstrap intervals over {what}; one seed, so they do not cover another draw of the sequence."
    return f"Bands: 95 % t-intervals over {len(results.seeds)} seeds."


def benchmark_interval_words(results: Results) -> str:
    """What the bands of benchmark means show, and the note on seeds."""
    if len(results.seeds) == 1:
        return "Bands of benchmark scores: 95 % intervals from the tasks' standard errors; one seed."
    return f"Bands of benchmark scores: 95 % t-intervals over {len(results.seeds)} seeds."


def benchmark_words(results: Results) -> str:
    """What the benchmark tasks are and how many items they have."""
    tasks, items = results.benchmark["task"].nunique(), int(results.benchmark["n"].median())
    shape = "small tasks made from the world in the shapes of the paper's six" if results.world_tasks else "tasks"
    return f"{tasks} {shape}, about {items} items each"


def seeds_words(results: Results) -> str:
    """The note on seeds alone."""
    return "One seed." if len(results.seeds) == 1 else f"Means over {len(results.seeds)} seeds."

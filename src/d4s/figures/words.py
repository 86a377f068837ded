"""Sentences that captions share: where, how many, and what the bands are."""

from collections.abc import Collection, Sequence

from d4s.studies.names import dataset_name
from d4s.studies.results import Panel, Results


def places(results: Results, shown: Sequence[Panel]) -> str:
    """` on World QA (model mini)`, naming models where the study has several."""
    models = sorted({panel.model for panel in results.panels})
    return f" on {', '.join(panel_names(shown, models))}" + (f", model {models[0]}" if len(models) == 1 else "")


def panel_names(shown: Sequence[Panel], models: Collection[str]) -> list[str]:
    """Display names of panels' data sets, with the model where there are several."""
    return [dataset_name(panel.dataset) + (f" ({panel.model})" if len(models) > 1 else "") for panel in shown]


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


def benchmark_words(results: Results) -> str:
    """What the benchmark tasks are and how many items they have."""
    tasks, items = results.benchmark["task"].nunique(), int(results.benchmark["n"].median())
    shape = "small tasks made from the world in the shapes of the paper's six" if results.world_tasks else "tasks"
    return f"{tasks} {shape}, about {items} items each"


def seeds_words(results: Results) -> str:
    """The note on seeds alone."""
    return "One seed." if len(results.seeds) == 1 else f"Means over {len(results.seeds)} seeds."

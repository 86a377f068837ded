"""Figure (ours): how edits of each form of question change the answers to each form, on events and people never edited."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d4s.analysis.display_names import DAMAGE_METHODS, FORM_NAMES, method_name
from d4s.analysis.study_results import Panel, Results
from d4s.figures.captions import on_datasets, seeds_note
from d4s.figures.plot_elements import Drawing, FigureSkipped
from d4s.figures.style import INK, MUTED, Page, method_style

# Tasks of the world in the shapes of the three forms, about bystanders.
TASKS_OF_FORM: Mapping[str, tuple[str, ...]] = {
    "true_false": ("true_false",),
    "multiple_choice": ("mmlu",),
    "directly_generated": ("gsm8k",),
    "people": ("arc_challenge", "hellaswag", "winogrande", "truthfulqa_mc1"),
}
COLUMNS = {
    "true_false": "True/\nfalse",
    "multiple_choice": "Multiple\nchoice",
    "directly_generated": "Gene-\nrated",
    "people": "People's\nfacts",
}


def figure(results: Results) -> Drawing:
    """The figure, one matrix per editor, for the first model that has the three forms.

    Raises:
        FigureSkipped: if the study has no world-made tasks after edits of the three forms.
    """
    panels = _forms(results)
    matrices = {editor: _matrix(results, panels, editor) for editor in (*DAMAGE_METHODS, "d4s")}
    matrices = {editor: matrix for editor, matrix in matrices.items() if not np.isnan(matrix).all()}
    if not matrices:
        raise FigureSkipped("no world-made benchmark tasks were run after edits of the three forms")
    runs = [run for panel in panels.values() for editor in matrices for run in results.runs_of(panel, editor)]
    lengths = sorted({found[-1] for run in runs if (found := results.benchmark_lengths(run))})
    caption = (
        f"Change of accuracy, in points against the unedited model, after {' or '.join(map(str, lengths))} edits of one form (rows), "
        f"asked in each form about events that are never edited and about people (columns){on_datasets(results, list(panels.values()))}. "
        "Multiple choice and generated are the benchmark tasks of these shapes, scored as in their originals; true/false is a task of its "
        "own, outside the benchmark mean. Where nothing is known any more a true/false answer is right half the time, a letter a quarter. "
        + seeds_note(results)
    )
    return Drawing("Every form against every form", caption, lambda page: _draw(matrices, page))


def _forms(results: Results) -> dict[str, Panel]:
    """The panels of the three forms, by form.

    Raises:
        FigureSkipped: if no model has them all, or the benchmarks are not the world's.
    """
    for model in results.models:
        of_model = {results.form(panel.dataset): panel for panel in results.panels if panel.model == model}
        if set(of_model) >= set(FORM_NAMES) and results.has_world_tasks and len(results.unedited_tasks(model)):
            return {form: of_model[form] for form in FORM_NAMES}
    raise FigureSkipped("no model with all three forms and the world's own benchmark tasks")


def _matrix(results: Results, panels: Mapping[str, Panel], editor: str) -> np.ndarray:
    """Change of accuracy against the unedited model, mean over seeds: a row per edited form, a column per form measured."""
    matrix = np.full((len(panels), len(COLUMNS)), np.nan)
    for row, panel in enumerate(panels.values()):
        runs = [run for run in results.runs_of(panel, editor) if results.benchmark_lengths(run)]
        for column, tasks in enumerate(TASKS_OF_FORM.values()):
            changes = [results.change_from_unedited(run, results.benchmark_lengths(run)[-1], tasks) for run in runs]
            matrix[row, column] = np.mean(changes) if changes else np.nan
    return matrix


def _draw(matrices: Mapping[str, np.ndarray], page: Page) -> Figure:
    columns = min(len(matrices), 3 if page.columns >= 3 else 1)
    rows = -(-len(matrices) // columns)
    figure = Figure(figsize=(page.width, 1.75 * rows + 0.2))
    axes = list(np.asarray(figure.subplots(rows, columns, squeeze=False)).flat)
    for number, (editor, matrix) in enumerate(matrices.items()):
        _heat(axes[number], matrix, labelled=number % columns == 0)
        axes[number].set_title(method_name(editor), color=method_style(editor).colour)
    for spare in axes[len(matrices) :]:
        spare.set_axis_off()
    return figure


def _heat(ax: Axes, matrix: np.ndarray, labelled: bool) -> None:
    ax.imshow(np.clip(-matrix, 0, 1), cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_xticks(range(len(COLUMNS)), list(COLUMNS.values()), fontsize=6.5)
    ax.set_yticks(range(len(FORM_NAMES)), [name.replace("Directly g", "G") for name in FORM_NAMES.values()] if labelled else [])
    if labelled:
        ax.set_ylabel("edited form", color=MUTED)
    for (row, column), value in np.ndenumerate(matrix):
        ax.text(column, row, _cell(value), ha="center", va="center", color=_ink(value))
    ax.axvline(2.5, color=INK, linewidth=0.6)


def _cell(value: float) -> str:
    if np.isnan(value):
        return "–"
    points = round(value * 100)
    return f"{points:+d}".replace("-", "−") if points else "0"


def _ink(value: float) -> str:
    """Text colour for a cell: dark on light, white on dark, muted where nothing was measured; independent of the theme, as cells are."""
    if np.isnan(value):
        return MUTED
    return "#202020" if value > -0.55 else "#ffffff"

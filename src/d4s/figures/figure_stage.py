"""Stages `learning` and `figures`: every figure of the registry as PDF, SVG and PNG, with its caption in figures.json.

figures.json also holds the reason why a figure was left out. Equal data give equal bytes: no dates, fixed ids.
Every figure is drawn a second time for narrow screens, which the report shows on phones.
"""

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from d4s.analysis.shown_groups import FREE_GROUP, LEADERBOARD_GROUP, shown_groups
from d4s.analysis.study_results import Results
from d4s.artifacts import Artifact, atomic_write, write_json
from d4s.figures import (
    fig_alarm,
    fig_batches,
    fig_beliefs,
    fig_benchmarks_by_dataset,
    fig_benchmarks_by_form,
    fig_bottleneck,
    fig_collapse,
    fig_composition,
    fig_curves,
    fig_dependence,
    fig_drivers,
    fig_fluency,
    fig_form_matrix,
    fig_free,
    fig_interpolation,
    fig_l1_norm,
    fig_layers,
    fig_learning,
    fig_localisation,
    fig_memory,
    fig_norm_cause,
    fig_norm_vs_accuracy,
    fig_objectives,
    fig_pareto,
    fig_protocols,
    fig_quotient,
    fig_retention_by_age,
    fig_rewrite_effect,
    fig_robustness,
    fig_survival,
    fig_tracing,
)
from d4s.figures.fig_learning import TrainingRecord
from d4s.figures.plot_elements import Drawing, FigureSkipped
from d4s.figures.style import NARROW, RC, WIDE
from d4s.log import progress
from d4s.schemas import CURVE, MODEL_CHECK
from d4s.study_settings import FigureSettings

logger = logging.getLogger(__name__)

# Imported as modules, not named as text, so that the code digest of the stage covers every figure.
FIGURES: Mapping[str, Callable[[Results], Drawing]] = {
    "fig_curves": fig_curves.figure,
    "fig_protocols": fig_protocols.figure,
    "fig_retention_by_age": fig_retention_by_age.figure,
    "fig_bottleneck": fig_bottleneck.figure,
    "fig_l1_norm": fig_l1_norm.figure,
    "fig_norm_vs_accuracy": fig_norm_vs_accuracy.figure,
    "fig_norm_cause": fig_norm_cause.figure,
    "fig_composition": fig_composition.figure,
    "fig_objectives": fig_objectives.figure,
    "fig_benchmarks_by_dataset": fig_benchmarks_by_dataset.figure,
    "fig_benchmarks_by_form": fig_benchmarks_by_form.figure,
    "fig_form_matrix": fig_form_matrix.figure,
    "fig_drivers": fig_drivers.figure,
}
GROUP_FIGURES: Mapping[str, Mapping[str, Callable[[Results], Drawing]]] = {
    "beliefs": {"fig_beliefs": fig_beliefs.figure, "fig_dependence": fig_dependence.figure},
    "localisation": {
        "fig_tracing": fig_tracing.figure,
        "fig_rewrite_effect": fig_rewrite_effect.figure,
        "fig_localisation": fig_localisation.figure,
    },
    "memory": {"fig_memory": fig_memory.figure},
    "saul": {"fig_fluency": fig_fluency.figure},
    "robustness": {"fig_robustness": fig_robustness.figure, "fig_interpolation": fig_interpolation.figure},
    "batches": {"fig_layers": fig_layers.figure, "fig_batches": fig_batches.figure},
    "collapse": {
        "fig_collapse": fig_collapse.figure,
        "fig_quotient": fig_quotient.figure,
        "fig_alarm": fig_alarm.figure,
        "fig_survival": fig_survival.figure,
    },
}
"""Figures of the groups of claims, which only studies that judge the group draw."""
ASKED_FIGURES: Mapping[str, Mapping[str, Callable[[Results], Drawing]]] = {
    LEADERBOARD_GROUP: {"fig_pareto": fig_pareto.figure},
    FREE_GROUP: {"fig_free": fig_free.figure},
}
"""Figures of studies that ask for a leaderboard, and for free answers."""
_METADATA: Mapping[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}


def figures_of(groups: Iterable[str]) -> Mapping[str, Callable[[Results], Drawing]]:
    """The figures of a study with some groups, those of claims, a leaderboard and free answers, in order."""
    chosen = [*groups]
    of_groups = {name: make for group in chosen for name, make in GROUP_FIGURES.get(group, {}).items()}
    return {**of_groups, **FIGURES, **{name: make for group in chosen for name, make in ASKED_FIGURES.get(group, {}).items()}}


def figures(study_dir: Path, settings: FigureSettings) -> None:
    """Draw every figure that the study has the data for into `figures` of its folder, emptied before, and write figures.json last."""
    results = Results(study_dir)
    wanted = figures_of(shown_groups(results))
    shutil.rmtree(study_dir / "figures", ignore_errors=True)
    record: dict[str, Any] = {}
    for name, make in progress(wanted.items(), "drawing", len(wanted)):
        try:
            drawing = make(results)
        except FigureSkipped as reason:
            record[name] = {"skipped": str(reason)}
            logger.info("%s is not drawn: %s", name, reason)
            continue
        _save_figure(study_dir / "figures", name, drawing, settings)
        record[name] = {"title": drawing.title, "caption": drawing.caption}
    write_json(study_dir / "figures" / "figures.json", record)


def learning(captions: Path, models: Sequence[Artifact], settings: FigureSettings) -> None:
    """Draw the training of the study's models, and write title and caption last."""
    drawing = fig_learning.figure(
        {
            model.folder.name.rpartition("-")[0]: TrainingRecord(
                model.table("curve.parquet", CURVE), model.table("check.parquet", MODEL_CHECK)
            )
            for model in models
        }
    )
    _save_figure(captions.parent, "fig_learning", drawing, settings)
    write_json(captions, {"fig_learning": {"title": drawing.title, "caption": drawing.caption}})


def _save_figure(folder: Path, name: str, drawing: Drawing, settings: FigureSettings) -> None:
    style: Any = {**matplotlib.rcParamsDefault, **RC, "svg.hashsalt": name}
    with matplotlib.rc_context(style):
        wide = _fix_layout(drawing.draw(WIDE))
        for suffix in settings.format:
            _write(wide, folder / f"{name}.{suffix}", suffix, settings.dpi)
        if "svg" in settings.format:
            _write(_fix_layout(drawing.draw(NARROW)), folder / f"{name}.narrow.svg", "svg", settings.dpi)


def _fix_layout(figure: Figure) -> Figure:
    """The figure with its layout fixed, so that no file format computes it again."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def _write(figure: Figure, path: Path, suffix: str, dpi: int) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=suffix, dpi=dpi, metadata=_METADATA[suffix])

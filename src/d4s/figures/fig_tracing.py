"""Figure (after Meng et al. 2022): how much of the answer each layer brings back, by token, with the layers that editors usually edit."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from d4s.analysis.display_names import method_name
from d4s.analysis.intervals import IntervalEstimate, mean_intervals
from d4s.analysis.localisation import Localisation
from d4s.analysis.localisation_scores import role_effects
from d4s.analysis.study_results import Results
from d4s.config import TOKEN_ROLES, TokenRole
from d4s.figures.plot_elements import Drawing, FigureSkipped, label_panels, legend, panels, percent_axis
from d4s.figures.style import PAPER, TASK_STYLES, Page, method_style

ROLE_NAMES: Mapping[TokenRole, str] = {
    "first_subject": "first subject token",
    "mid_subject": "subject token between",
    "last_subject": "last subject token",
    "after": "token after the subject",
    "last": "last token",
}
MARKED = ("rome", "memit")
Profile = Mapping[TokenRole, Mapping[int, IntervalEstimate]]


def figure(results: Results) -> Drawing:
    """The figure, one panel per model and window of layers.

    Raises:
        FigureSkipped: if no facts were traced.
    """
    located = Localisation(results)
    profiles = {(model, window): _profile(rows) for (model, window), rows in _parts(located.traces) if len(rows)}
    if not profiles:
        raise FigureSkipped("no facts were traced")
    facts = located.traces["fact_id"].nunique()
    caption = (
        "Share of the answer's probability lost by noise on the subject that comes back when hidden states of the clean pass are restored "
        "at one token and in a window of layers, by layer at the window's centre; of several tokens of one kind the one with the largest "
        f"effect. Means over {facts} facts whose answer has a clean probability of at least 0.02, with 95 % bootstrap intervals. "
        f"Vertical lines: the last layer that {' and '.join(map(method_name, MARKED))} usually edit."
    )
    marks = {model: {name: located.usual_layer(model, name) for name in MARKED} for model, _ in profiles}
    return Drawing("Where the answer can be restored", caption, lambda page: _draw(results, profiles, marks, page))


def _parts(traces: pd.DataFrame) -> list[tuple[tuple[str, int], pd.DataFrame]]:
    """Effects by role, of every model and window."""
    parts = [((str(m), int(w)), rows) for (m, w), rows in traces.groupby(["model", "window"])]  # type: ignore[misc, call-overload]
    return [(key, pd.concat([role_effects(seed) for _, seed in rows.groupby("seed")])) for key, rows in parts]


def _profile(effects: pd.DataFrame) -> Profile:
    """Mean effects with intervals by role and layer."""
    found: dict[TokenRole, Mapping[int, IntervalEstimate]] = {}
    for role in TOKEN_ROLES:
        wide = effects[effects["token_role"] == role].pivot_table(index="fact_id", columns="layer", values="effect")
        if len(wide):
            found[role] = dict(zip(map(int, wide.columns), mean_intervals(wide.to_numpy(dtype=float)), strict=True))
    return found


def _draw(
    results: Results, profiles: Mapping[tuple[str, int], Profile], marks: Mapping[str, Mapping[str, int | None]], page: Page
) -> Figure:
    fig, axes = panels(page, len(profiles), 2, 2.2, sharey=True)
    for ax, ((model, _), profile) in zip(axes, profiles.items(), strict=True):
        for role, (colour, marker) in zip(TOKEN_ROLES, TASK_STYLES, strict=False):
            if role in profile:
                _line(ax, profile[role], colour, marker)
        for name, layer in marks[model].items():
            if layer is not None:
                ax.axvline(layer, color=method_style(name).colour, linewidth=0.9, linestyle=(0, (4, 1.4)), zorder=1)
        ax.set_xlabel("layer")
        ax.set_ylim(bottom=0)
    percent_axis(axes[0], "restored, %", whole=False)
    names = [f"{width} layer{'s' if width > 1 else ''}" for _, width in profiles]
    models = [f" · {model}" if len(results.models) > 1 else "" for model, _ in profiles]
    label_panels(axes, [name + model for name, model in zip(names, models, strict=True)])
    legend(fig, page, _handles(profiles.values(), marks))
    return fig


def _line(ax: Axes, points: Mapping[int, IntervalEstimate], colour: str, marker: str) -> None:
    layers = sorted(points)
    low, value, high = (np.array([getattr(points[layer], name) for layer in layers]) for name in ("low", "value", "high"))
    ax.plot(layers, value, color=colour, marker=marker, markeredgecolor=PAPER, markeredgewidth=0.4, zorder=3)
    ax.fill_between(layers, low, high, color=colour, alpha=0.13, linewidth=0, zorder=2)


def _handles(profiles: Iterable[Profile], marks: Mapping[str, Mapping[str, int | None]]) -> list[Line2D]:
    shown = {role for profile in profiles for role in profile}
    roles = [
        Line2D([], [], color=colour, marker=marker, markersize=4, label=ROLE_NAMES[role])
        for role, (colour, marker) in zip(TOKEN_ROLES, TASK_STYLES, strict=False)
        if role in shown
    ]
    marked = [name for name in MARKED if any(found[name] is not None for found in marks.values())]
    return [
        *roles,
        *(Line2D([], [], color=method_style(name).colour, linestyle=(0, (4, 1.4)), label=method_name(name)) for name in marked),
    ]

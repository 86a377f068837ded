"""Figure: how the study's own models were trained, by loss and final accuracy on their facts."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from d4s.analysis.display_names import dataset_name
from d4s.figures.plot_elements import Drawing, label_panels, legend, panels, percent_ticks
from d4s.figures.style import MUTED, SPARE_COLOURS, Page

ROW = 0.3
WORDINGS = {"taught": 0.9, "withheld": 0.45}


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """A trained model's learning curve (CURVE) and its final accuracies (MODEL_CHECK)."""

    curve: pd.DataFrame
    check: pd.DataFrame


def figure(models: Mapping[str, TrainingRecord]) -> Drawing:
    """The figure, two panels with all models that a study trains, by name."""
    tokens = ", ".join(f"{record.curve['tokens'].max() / 1e6:.2f} million" for record in models.values())
    caption = (
        f"Training of {', '.join(models)} on {tokens} tokens in one pass. Left: cross-entropy of the next token, weighted as in training "
        "(solid), and of the answers to questions with options or a label (dotted). Right: share of facts whose whole answer is the "
        "likeliest text, in a wording of the training text (dark) and in wordings that were withheld from it (light)."
    )
    return Drawing("What the model has learned before any edit", caption, lambda page: _draw(models, page))


def _draw(models: Mapping[str, TrainingRecord], page: Page) -> Figure:
    bars = sum(record.check["dataset"].nunique() for record in models.values())
    fig, (loss, known) = panels(page, 2, 2, max(1.75, 0.6 + ROW * bars))
    names: list[str] = []
    for (model, record), colour in zip(models.items(), SPARE_COLOURS * len(models), strict=False):
        loss.plot(record.curve["tokens"], record.curve["loss"], color=colour)
        loss.plot(record.curve["tokens"], record.curve["answer_loss"], color=colour, linestyle=":")
        for dataset, rows in record.check.groupby("dataset", sort=False):
            for wording, alpha in WORDINGS.items():
                offset = -0.2 if wording == "taught" else 0.2
                value = rows.loc[rows["wording"] == wording, "accuracy"].sum()
                known.barh(len(names) + offset, value, height=0.36, color=colour, alpha=alpha)
            names.append(dataset_name(str(dataset)) + (f", {model}" if len(models) > 1 else ""))
    loss.set_xlabel("tokens of training text")
    loss.set_ylabel("nats per token")
    loss.set_ylim(bottom=0)
    loss.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e6:g} M"))
    known.set_yticks(range(len(names)), names)
    known.invert_yaxis()
    known.set_xlim(0, 1)
    percent_ticks(known, "% of facts", 4)
    label_panels([loss, known], ["Loss", "Known in the end"])
    entries: list[Line2D | Patch] = [
        Line2D([], [], color=colour, label=model) for model, colour in zip(models, SPARE_COLOURS, strict=False)
    ]
    entries += [Line2D([], [], color=MUTED, label="all tokens"), Line2D([], [], color=MUTED, linestyle=":", label="answers")]
    legend(fig, page, [*entries, *(Patch(color=MUTED, alpha=alpha, label=f"{wording} wording") for wording, alpha in WORDINGS.items())])
    return fig

"""The robustness study as tables, figures and claims read it: answers of ordinary and of edited models by draw, editor, layer and share."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from d4s.analysis.display_names import method_name, method_order
from d4s.analysis.robustness import answer_table, shifted_accuracy, value_of
from d4s.analysis.study_results import Panel, Results
from d4s.analysis.verdicts import NotMeasured
from d4s.artifacts import read_table
from d4s.editors.editor_settings import parse_editor
from d4s.schemas import CELL, ROBUSTNESS, with_cell_columns
from d4s.study_settings import AT_LAYER

GENERAL, EDITED, TEXT = "general", "edited", "text"
KEPT_EVERY = 5
ENOUGH = 0.9


class Draw(NamedTuple):
    """One seed of one model and data set: the same general facts, and requests of its own."""

    model: str
    dataset: str
    seed: int

    @property
    def panel(self) -> Panel:
        """The panel that it belongs to."""
        return Panel(self.model, self.dataset)


class Cell(NamedTuple):
    """An edited model: a method at a layer, which is -1 where none was set by a sweep, after a number of edits."""

    method: str
    layer: int
    edits: int

    @property
    def editor(self) -> str:
        """The name of its editor."""
        return self.method if self.layer < 0 else f"{self.method}{AT_LAYER}{self.layer}"

    @property
    def name(self) -> str:
        """Its name for readers."""
        return method_name(self.method) + ("" if self.layer < 0 else f", layer {self.layer}")


@dataclass(frozen=True)
class Way:
    """A cell's models on the way from the original to the edited weights, by share."""

    rows: pd.DataFrame

    @cached_property
    def shares(self) -> list[float]:
        """The shares, from 0 to 1."""
        return sorted(map(float, self.rows["share"].unique()))

    @cached_property
    def general(self) -> Mapping[float, pd.DataFrame]:
        """Correct answers about general facts."""
        return self._tables(GENERAL, "correct")

    @cached_property
    def general_loss(self) -> Mapping[float, pd.DataFrame]:
        """Mean losses per token of the answers about general facts."""
        return self._tables(GENERAL, "nll")

    @cached_property
    def edited(self) -> Mapping[float, pd.DataFrame]:
        """Correct answers about edited facts, in the order of the edits."""
        return self._tables(EDITED, "correct")

    @cached_property
    def edited_loss(self) -> Mapping[float, pd.DataFrame]:
        """Mean losses per token of the answers about edited facts."""
        return self._tables(EDITED, "nll")

    @cached_property
    def is_kept(self) -> np.ndarray:
        """Which of the edited facts choose a share: every fifth, the first among them."""
        return np.arange(len(self.edited[1.0])) % KEPT_EVERY == 0

    def success(self, share: float, chosen: np.ndarray | slice = slice(None)) -> float:
        """Share of edited facts, or of those chosen, whose clean prompt is answered by the new object."""
        return float(self.edited[share]["clean"].to_numpy()[chosen].mean())

    def shifted_accuracy(self, share: float) -> float:
        """Accuracy on shifted prompts about general facts, mean over shifts."""
        table = self.general[share]
        return value_of(shifted_accuracy(table), len(table))

    @cached_property
    def operating_share(self) -> float:
        """The smallest share at which kept requests succeed as often as 0.9 times what they do in the end.

        Raises:
            NotMeasured: if none succeeds in the end.
        """
        whole = self.success(1.0, self.is_kept)
        if not whole:
            raise NotMeasured("no request that is kept to choose the share succeeds in the end")
        return next(share for share in self.shares if self.success(share, self.is_kept) >= ENOUGH * whole)

    @cached_property
    def area(self) -> float:
        """Area under the front of success and accuracy on shifted prompts about general facts, between 0 and 1.

        Each level of success counts with the best accuracy of the shares that reach it.
        """
        points = sorted((self.success(share), self.shifted_accuracy(share)) for share in self.shares)
        total, below = 0.0, 0.0
        for place, (success, _) in enumerate(points):
            total += (success - below) * max(accuracy for _, accuracy in points[place:])
            below = success
        return total

    def _tables(self, group: str, value: str) -> Mapping[float, pd.DataFrame]:
        rows = self.rows[self.rows["group"] == group]
        facts = list(dict.fromkeys(rows["fact_id"])) if group == EDITED else sorted(set(rows["fact_id"]))
        return {float(share): answer_table(part, facts, value) for share, part in rows.groupby("share")}  # type: ignore[arg-type]


@dataclass(frozen=True)
class Robustness:
    """All answers to shifted prompts of a study."""

    results: Results

    @cached_property
    def answers(self) -> pd.DataFrame:
        """Rows of ROBUSTNESS with the cell that they are of.

        Raises:
            NotMeasured: if the study has none.
        """
        found = read_table(self.results.folder / "data" / "robustness.parquet", with_cell_columns(ROBUSTNESS))
        if found.empty:
            raise NotMeasured("no shifted prompts were asked")
        return found

    @cached_property
    def _by_draw(self) -> Mapping[Draw, pd.DataFrame]:
        keys = ["model", "dataset", "seed"]
        return {Draw(str(m), str(d), int(s)): part for (m, d, s), part in self.answers.groupby(keys)}  # type: ignore[misc, call-overload]

    @property
    def draws(self) -> list[Draw]:
        """The draws of the study."""
        return [*self._by_draw]

    @cached_property
    def panels(self) -> list[Panel]:
        """Model × data set."""
        return list(dict.fromkeys(draw.panel for draw in self.draws))

    def draws_of(self, panel: Panel) -> list[Draw]:
        """The draws of a panel, one per seed."""
        return [draw for draw in self.draws if draw.panel == panel]

    @cached_property
    def ordinary(self) -> Mapping[Draw, list[pd.DataFrame]]:
        """Answer tables about general facts of the models kept on the way of training, from the first to the last."""
        found = {}
        for draw, rows in self._by_draw.items():
            kept = rows[(rows["editor"] == "") & rows["training_steps"].notna() & (rows["group"] == GENERAL)]
            facts = sorted(set(kept["fact_id"]))
            found[draw] = [answer_table(part, facts) for _, part in kept.groupby("training_steps")]
        return found

    @cached_property
    def unedited(self) -> Mapping[Draw, pd.DataFrame]:
        """Answer tables of the unedited model about general facts."""
        return {draw: answer_table(rows[rows["group"] == GENERAL]).sort_index() for draw, rows in self._unedited.items()}

    @cached_property
    def text_shift(self) -> Mapping[Draw, float]:
        """What the unedited model loses on shifted text: nats per token."""
        return {draw: _text_shift(rows) for draw, rows in self._unedited.items()}

    @cached_property
    def _unedited(self) -> Mapping[Draw, pd.DataFrame]:
        return {draw: rows[(rows["editor"] == "") & rows["training_steps"].isna()] for draw, rows in self._by_draw.items()}

    @cached_property
    def ways(self) -> Mapping[tuple[Draw, Cell], Way]:
        """The models of every cell by share; in most cells only the edited one."""
        found: dict[tuple[Draw, Cell], Way] = {}
        rows = self.answers[self.answers["editor"] != ""]
        for (model, dataset, editor, seed, step), part in rows.groupby([*CELL, "step"], sort=False):  # type: ignore[misc]
            method, _, layer = str(editor).partition(AT_LAYER)
            cell = Cell(method, int(layer) if layer else -1, int(step))  # type: ignore[call-overload]
            found[Draw(str(model), str(dataset), int(seed)), cell] = Way(part)  # type: ignore[call-overload]
        return dict(sorted(found.items(), key=lambda item: (item[0][0], method_order(item[0][1].method), item[0][1])))

    def cells(self, panel: Panel) -> list[Cell]:
        """The cells of a panel whose edited model was asked, in the order of methods."""
        return list(dict.fromkeys(cell for (draw, cell), way in self.ways.items() if draw.panel == panel and 1.0 in way.shares))

    def walked(self, panel: Panel) -> list[Cell]:
        """The cells of a panel that were asked on the way too, both ends among it."""
        return list(dict.fromkeys(cell for (draw, cell), way in self.ways.items() if draw.panel == panel and _is_whole(way)))

    def settings(self, panel: Panel, cell: Cell) -> Mapping[str, Any]:
        """Resolved settings of a cell's editor."""
        return self.results.editor_settings(panel.model, cell.editor)

    def changes_weights(self, panel: Panel, cell: Cell) -> bool:
        """Whether a cell's editor changes weights; those whose entries stand beside the model do not."""
        settings = self.settings(panel, cell)
        return not (settings and parse_editor(settings).is_beside_model)

    def text_loss(self, draw: Draw, cell: Cell) -> float:
        """What an edited model loses on shifted text beyond the unedited one, nats per token; NaN where no text was asked."""
        rows = self.ways[draw, cell].rows
        return _text_shift(rows[rows["share"] == 1.0]) - self.text_shift[draw]

    def judged_length(self, panel: Panel) -> int:
        """The longest length that all editors of a panel, at all their layers, were asked at.

        Raises:
            NotMeasured: if they share none.
        """
        found: dict[str, set[int]] = {}
        for cell in self.cells(panel):
            found.setdefault(cell.editor, set()).add(cell.edits)
        shared = set.intersection(*found.values()) if found else set()
        if not shared:
            raise NotMeasured("editors share no length at which they were asked")
        return max(shared)


def _is_whole(way: Way) -> bool:
    return len(way.shares) > 2 and {0.0, 1.0} <= {*way.shares}


def _text_shift(rows: pd.DataFrame) -> float:
    """Loss per token on shifted text minus that on held-out text; NaN where one of them was not asked."""
    means = rows[rows["group"] == TEXT].groupby("shift")["nll"].mean()
    return float(means.get("text_shift", np.nan)) - float(means.get("clean", np.nan))

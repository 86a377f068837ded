"""Single edits: their rows as the store has them, gathered into a study, and what tables, figures and claims read of them."""

from collections.abc import Collection
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from d4s.analysis.display_names import sorted_editors
from d4s.analysis.study_results import Panel, Results, RunKey
from d4s.analysis.summary_rows import Row, mean_rows
from d4s.artifacts import Artifact, Manifest, read_table
from d4s.editors.single_blocks import EDITED, manifests_of_blocks, table_of_block
from d4s.errors import ArtifactError
from d4s.metrics.perplexity_aggregates import TEXT_NLL, TEXT_TOKENS, aggregate_perplexities
from d4s.schemas import CELL, SINGLES, with_cell_columns

SINGLE = "single"
"""The protocol of their rows in the summary."""


@dataclass(frozen=True, slots=True)
class SingleFolders:
    """One cell of single edits: its names, the number of its requests, and the folders with its results and a reader's beliefs."""

    model: str
    dataset: str
    editor: str
    seed: int
    requests: int
    folder: Path
    posterior: Path | None = None

    @property
    def key(self) -> tuple[str, str, str, int]:
        """The names, as sort key."""
        return astuple(self)[: len(CELL)]

    @property
    def columns(self) -> dict[str, Any]:
        """The names, as columns of a table."""
        return dict(zip(CELL, self.key, strict=True))

    @property
    def manifest(self) -> Manifest:
        """The manifest of its first block."""
        return Artifact.open(self.folder, "singles", manifests_of_blocks(1)[0]).manifest


def read_singles(cell: SingleFolders) -> pd.DataFrame:
    """The rows of a cell's requests, checked.

    Raises:
        ArtifactError: if a block is missing or altered, or the draw ended before the last request.
    """
    blocks = Artifact.open_parts(cell.folder, "singles", manifests_of_blocks(cell.requests))
    rows = pd.concat([part.table(table_of_block(block), SINGLES) for block, part in enumerate(blocks)], ignore_index=True)
    rows = rows[rows["order"] <= cell.requests]
    if (found := rows["request_id"].nunique()) < cell.requests:
        raise ArtifactError(f"{cell.folder} holds {found} requests, expected {cell.requests}: there are no more facts; lower the length")
    return rows


def single_rows(rows: pd.DataFrame) -> list[Row]:
    """Rows of the summary: the share of edits that were done, and probes of these averaged over the prompts of a request first."""
    asked = rows[(rows["prompt_id"].notna() & ~rows["quantity"].isin([TEXT_NLL, TEXT_TOKENS])) | (rows["quantity"] == EDITED)]
    return mean_rows(SINGLE, _by_request(asked))


def _by_request(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over prompts or layers: a row per request in order, a column per quantity."""
    wide = rows.groupby(["order", "request_id", "quantity"])["value"].mean().unstack("quantity")
    return wide.droplevel("order")


@dataclass(frozen=True)
class SingleEdits:
    """All single edits of a study, by cell; those of the unedited model are what the others are held against."""

    rows: pd.DataFrame

    @classmethod
    def of(cls, results: Results) -> "SingleEdits":
        """The single edits among a study's results."""
        return cls(read_table(results.folder / "data" / "singles.parquet", with_cell_columns(SINGLES)))

    @cached_property
    def _cells(self) -> dict[RunKey, pd.DataFrame]:
        return {RunKey(str(m), str(d), str(e), int(s)): part for (m, d, e, s), part in self.rows.groupby(list(CELL), sort=False)}  # type: ignore[misc, arg-type]

    @property
    def cells(self) -> list[RunKey]:
        """Every cell, in the display order of editors."""
        order = {editor: place for place, editor in enumerate(sorted_editors(cell.editor for cell in self._cells))}
        return sorted(self._cells, key=lambda cell: (cell.model, cell.dataset, order[cell.editor], cell.seed))

    @property
    def panels(self) -> list[Panel]:
        """Every model × data set."""
        return list(dict.fromkeys(cell.panel for cell in self.cells))

    def of_editor(self, panel: Panel, editor: str) -> list[RunKey]:
        """The cells of an editor in a panel, one per seed."""
        return [cell for cell in self.cells if cell.panel == panel and cell.editor == editor]

    def rows_of(self, cell: RunKey) -> pd.DataFrame:
        """All rows of a cell."""
        return self._cells[cell]

    def statuses(self, cell: RunKey) -> "pd.Series[str]":
        """How each edit ended, by request in order: done, diverged or refused."""
        rows = self._cells[cell]
        return rows[rows["quantity"] == EDITED].sort_values("order").set_index("request_id")["status"]

    def values(self, cell: RunKey) -> pd.DataFrame:
        """Quantities of the step without a layer, and probes averaged over prompts: a row per request in order, a column each.

        Requests that were not done have the column `edited` alone.
        """
        rows = self._cells[cell]
        return _by_request(rows[rows["layer"].isna() & ~rows["quantity"].isin([TEXT_NLL, TEXT_TOKENS])])

    def prompts(self, cell: RunKey, quantities: Collection[str]) -> pd.DataFrame:
        """Probes before any average: a row per request (in order) and prompt, a column per quantity."""
        rows = self._cells[cell]
        rows = rows[rows["quantity"].isin(quantities) & rows["prompt_id"].notna()]
        return rows.pivot(index=["order", "request_id", "prompt_id"], columns="quantity", values="value").droplevel("order")

    def by_layer(self, cell: RunKey, quantity: str) -> pd.DataFrame:
        """A quantity of the step that layers have: a row per request in order, a column per layer."""
        rows = self._cells[cell]
        rows = rows[(rows["quantity"] == quantity) & rows["layer"].notna()]
        return rows.pivot(index=["order", "request_id"], columns="layer", values="value").droplevel("order").rename(columns=int)

    def perplexities(self, cell: RunKey) -> pd.DataFrame:
        """Perplexities of held-out text after each edit that was done, by the three aggregates: a row per request in order."""
        text = self.prompts(cell, [TEXT_NLL, TEXT_TOKENS])
        found = {
            request: aggregate_perplexities(part[TEXT_NLL].to_numpy(float), part[TEXT_TOKENS].to_numpy(float))
            for request, part in text.groupby("request_id", sort=False)
        }
        return pd.DataFrame.from_dict(found, orient="index").rename_axis("request_id")

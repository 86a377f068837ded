"""Answers to shifted prompts, as the store has them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from d4s.artifacts import Artifact
from d4s.schemas import CELL, ROBUSTNESS


@dataclass(frozen=True, slots=True)
class AnswerFolders:
    """Answers of one cell's models after some lengths, or where `editor` is empty of those never edited: names, and their folder."""

    model: str
    dataset: str
    editor: str
    seed: int
    lengths: tuple[int, ...]
    folder: Path

    @property
    def columns(self) -> dict[str, Any]:
        """The names, as columns of a table."""
        return {name: getattr(self, name) for name in CELL}

    def tables(self) -> Iterator[pd.DataFrame]:
        """Rows of ROBUSTNESS, checked.

        Raises:
            ArtifactError: if they are missing or altered.
        """
        if not self.editor:
            yield Artifact.open(self.folder, "ordinary").table("ordinary.parquet", ROBUSTNESS)
        for length in self.lengths:
            yield Artifact.open(self.folder, "robustness", f"n{length}.json").table(f"n{length}.robustness.parquet", ROBUSTNESS)

"""Causal tracing of a study's facts, as the store has it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from d4s.artifacts import Artifact
from d4s.schemas import TRACES


@dataclass(frozen=True, slots=True)
class TraceFolders:
    """The traced facts of one draw: names, how many facts, and the folder with their rows."""

    model: str
    dataset: str
    seed: int
    facts: int
    folder: Path

    @property
    def columns(self) -> dict[str, Any]:
        """The names, as columns of a table; tracing has no editor."""
        return {"model": self.model, "dataset": self.dataset, "editor": "", "seed": self.seed}

    def rows(self) -> pd.DataFrame:
        """Rows of TRACES, checked.

        Raises:
            ArtifactError: if they are missing or altered.
        """
        return Artifact.open(self.folder, "traces", f"n{self.facts}.json").table(f"n{self.facts}.traces.parquet", TRACES)

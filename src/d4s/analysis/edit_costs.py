"""What an edit costs: processor time of a run per edit, and of what was prepared for it before its first edit."""

from dataclasses import dataclass
from pathlib import PurePath

from d4s.analysis.study_results import Results, RunKey

PREPARING = ("contexts", "moments", "prepared", "targets")
"""Inputs of a run that are made for its editor alone, by role; model and facts are there for all."""


@dataclass(frozen=True, slots=True)
class EditCost:
    """Processor time (s) of the edits of a run, that of what was prepared for it, and the number of edits."""

    editing: float
    preparation: float
    edits: int

    @property
    def per_edit(self) -> float:
        """Time of an edit, preparation shared among all edits."""
        return (self.editing + self.preparation) / self.edits

    @property
    def editing_per_edit(self) -> float:
        """Time of an edit alone."""
        return self.editing / self.edits

    def break_even(self, other: "EditCost") -> float:
        """The number of edits from which on another editor has cost less in all; infinite where it never has."""
        saved, extra = self.editing_per_edit - other.editing_per_edit, other.preparation - self.preparation
        if saved > 0:
            return max(0.0, extra / saved)
        return 0.0 if saved == 0 and extra < 0 else float("inf")


def edit_cost(results: Results, run: RunKey) -> EditCost | None:
    """What a run cost up to its longest length; None where no costs were recorded."""
    rows = results.index[results.rows_of(results.index, run)]
    if rows.empty:
        return None
    folder = PurePath(str(rows["run"].iloc[0])).name
    costs = results.costs
    own = costs[(costs["artifact"] == folder) & (costs["stage"] == "edit")]
    if own.empty:
        return None
    inputs = results.provenance.get("inputs", {}).get(folder, {})
    digests = {inputs[role] for role in PREPARING if role in inputs}
    prepared = costs[costs["artifact"].str.rpartition("-")[2].isin(digests)]
    return EditCost(float(own["cpu_s"].sum()), float(prepared["cpu_s"].sum()), int(rows["step"].max()))

"""The table of docs/field.md: every claim of the related papers with our verdicts, from the groups of claims and the recorded studies."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d4s.analysis.claim_groups import CLAIM_GROUPS, PAPERS
from d4s.analysis.intervals import IntervalEstimate
from d4s.analysis.verdicts import show_estimate


@dataclass(frozen=True, slots=True)
class System:
    """A paper of the field: the group of its claims, and the studies that judge them on the embedded and on the real model."""

    title: str
    group: str
    page: str
    embedded: str
    real: str = ""


SYSTEMS = (
    System("D4S", "d4s", "claims.md", "default", "smollm2_core"),
    System("SAUL", "saul", "saul.md", "saul"),
    System("SERAC", "memory", "memory.md", "memory"),
    System("Belief revision", "beliefs", "beliefs.md", "beliefs"),
    System("Bigger batches", "batches", "batches.md", "batches"),
    System("Butterfly effect", "collapse", "collapse.md", "collapse", "collapse_smollm2"),
    System("Edit at your own risk", "robustness", "robustness.md", "robustness"),
    System("Localisation", "localisation", "localisation.md", "localisation"),
)


def field(recorded: Path) -> str:
    """Rows of systems and claims; a claim whose study has no recorded run is said to be not run yet."""
    rows = ["| | claim | embedded model | SmolLM2-135M |", "|---|---|---|---|"]
    for system in SYSTEMS:
        if system.group not in CLAIM_GROUPS:
            continue
        grid = "params.yaml" if system.embedded == "default" else f"grids/{system.embedded}.yaml"
        rows.append(f"| **[{system.title}]({system.page})** | {PAPERS[system.group].authors}; `{grid}` | | |")
        embedded, real = (_verdicts(recorded, study) for study in (system.embedded, system.real))
        for claim in CLAIM_GROUPS.load(system.group):
            shown = (_shown(found, claim.claim_id) for found in (embedded, real))
            rows.append(f"| {claim.claim_id} | {claim.statement} | " + " | ".join(shown) + " |")
    return "\n".join(rows) + "\n"


def _verdicts(recorded: Path, study: str) -> Mapping[str, Mapping[str, Any]] | None:
    """Verdicts of a recorded study by claim; None where none is recorded."""
    path = recorded / study / "claims.json"
    return {claim["id"]: claim for claim in json.loads(path.read_text(encoding="utf-8"))} if study and path.is_file() else None


def _shown(verdicts: Mapping[str, Mapping[str, Any]] | None, claim_id: str) -> str:
    if verdicts is None or claim_id not in verdicts:
        return "not run yet"
    claim = verdicts[claim_id]
    if claim["effect"] is None:
        return claim["verdict"] if claim["verdict"] == "not measured" else f"**{claim['verdict']}**"
    low, high = claim["ci"]
    estimate = IntervalEstimate(claim["effect"], low, high, claim["n"], claim["seeds"])
    return f"**{claim['verdict']}**, {show_estimate(estimate, claim['unit'])}"

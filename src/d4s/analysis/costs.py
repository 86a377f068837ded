"""Costs of a study: time and memory of every call of a stage, gathered from the artefacts' folders."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from d4s.artifacts import write_table
from d4s.schemas import COSTS

logger = logging.getLogger(__name__)
COSTS_FILE = "costs.jsonl"
API_USAGE = ("requests", "retries", "tokens_in", "tokens_out")


def write_costs(path: Path, folders: Sequence[Path]) -> None:
    """Write the costs recorded in the folders of artefacts; folders without a record add no rows."""
    write_table(path, [row for folder in sorted(set(folders)) for row in cost_rows(folder)], COSTS)


def cost_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The calls that worked on an artefact, oldest first; a truncated line is left out with a warning."""
    ledger = folder / COSTS_FILE
    if not ledger.is_file():
        return
    for number, line in enumerate(ledger.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            logger.warning("%s:%d is truncated and is left out of the costs", ledger, number)
            continue
        yield {"artifact": folder.name, "kind": folder.parent.name, **dict.fromkeys(API_USAGE, 0), **entry}

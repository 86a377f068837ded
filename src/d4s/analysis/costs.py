"""The ledger of costs: what every call of a stage took, gathered from the artefacts' folders."""

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
    """Write what the calls recorded in some artefacts' folders cost; folders without a ledger add nothing."""
    write_table(path, [row for folder in sorted(set(folders)) for row in cost_rows(folder)], COSTS)


def cost_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The calls that worked on an artefact, oldest first; a line torn by a kill is left out."""
    ledger = folder / COSTS_FILE
    if not ledger.is_file():
        return
    for number, line in enumerate(ledger.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            logger.warning("%s:%d is torn and is left out of the costs", ledger, number)
            continue
        yield {"artifact": folder.name, "kind": folder.parent.name, **dict.fromkeys(API_USAGE, 0), **entry}

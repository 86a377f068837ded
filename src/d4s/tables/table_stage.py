"""Stage `tables`: every table of the registry as CSV, LaTeX and Parquet, and the reasons for those left out."""

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from d4s.analysis.shown_groups import FREE_GROUP, LEADERBOARD_GROUP, shown_groups
from d4s.analysis.study_results import Results
from d4s.artifacts import write_json
from d4s.tables import (
    tab_batches,
    tab_beliefs,
    tab_benchmarks,
    tab_collapse,
    tab_costs,
    tab_drivers,
    tab_free,
    tab_key_modes,
    tab_leaderboard,
    tab_localisation,
    tab_main,
    tab_memory,
    tab_objectives,
    tab_portability,
    tab_protocols,
    tab_robustness,
    tab_saul,
)
from d4s.tables.table import Table, TableSkipped
from d4s.tables.write import write

logger = logging.getLogger(__name__)

# Imported as modules, not named as text, so that the code digest of the stage covers every table.
TABLES: Mapping[str, Callable[[Results], Table]] = {
    "tab_main": tab_main.table,
    "tab_forms": tab_main.form_table,
    "tab_protocols": tab_protocols.table,
    "tab_portability": tab_portability.table,
    "tab_key_modes": tab_key_modes.table,
    "tab_benchmarks": tab_benchmarks.table,
    "tab_objectives": tab_objectives.table,
    "tab_drivers": tab_drivers.table,
    "tab_costs": tab_costs.table,
}


GROUP_TABLES: Mapping[str, Mapping[str, Callable[[Results], Table]]] = {
    "beliefs": {"tab_beliefs": tab_beliefs.table},
    "localisation": {"tab_localisation": tab_localisation.table},
    "memory": {"tab_memory": tab_memory.table},
    "saul": {"tab_saul": tab_saul.table},
    "robustness": {"tab_robustness": tab_robustness.table},
    "batches": {"tab_batches": tab_batches.table},
    "collapse": {"tab_collapse": tab_collapse.table},
}
"""Tables of the groups of claims, which only studies that judge the group write."""
ASKED_TABLES: Mapping[str, Mapping[str, Callable[[Results], Table]]] = {
    LEADERBOARD_GROUP: {"tab_leaderboard": tab_leaderboard.table},
    FREE_GROUP: {"tab_free": tab_free.table},
}
"""Tables of studies that ask for a leaderboard, and for free answers."""


def tables_of(groups: Iterable[str]) -> Mapping[str, Callable[[Results], Table]]:
    """The tables of a study with some groups, those of claims, a leaderboard and free answers, in order."""
    chosen = [*groups]
    of_groups = {name: make for group in chosen for name, make in GROUP_TABLES.get(group, {}).items()}
    return {**of_groups, **TABLES, **{name: make for group in chosen for name, make in ASKED_TABLES.get(group, {}).items()}}


def tables(study_dir: Path) -> None:
    """Write every table that the study has the data for into `tables` of its folder, emptied before, and tables.json last."""
    results = Results(study_dir)
    shutil.rmtree(study_dir / "tables", ignore_errors=True)
    record: dict[str, Any] = {}
    for name, make in tables_of(shown_groups(results)).items():
        try:
            table = make(results)
        except TableSkipped as reason:
            record[name] = {"skipped": str(reason)}
            logger.info("%s is not written: %s", name, reason)
            continue
        write(table, study_dir / "tables", name)
        record[name] = {"title": table.title, "caption": table.caption}
    write_json(study_dir / "tables" / "tables.json", record)

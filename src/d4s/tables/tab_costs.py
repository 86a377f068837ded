"""Table: costs by stage, with calls, wall and CPU time, share of interpreter start-up, and peak memory.

Where a language model worded questions, the table also has its requests and tokens.
"""

from typing import Any

import pandas as pd

from d4s.analysis.study_results import Results
from d4s.tables.table import Column, Table, TableSkipped

COLUMNS = (
    Column("calls", "Calls", digits=0),
    Column("wall_s", "Wall, s", digits=0),
    Column("cpu_s", "CPU, s", digits=0),
    Column("startup_share", "Start-up, % of wall", digits=0, factor=100.0),
    Column("peak_rss_mb", "Peak memory, MB", digits=0),
)
API_COLUMNS = (
    Column("requests", "Requests", digits=0),
    Column("retries", "Retries", digits=0),
    Column("tokens_in", "Tokens in", digits=0),
    Column("tokens_out", "Tokens out", digits=0),
)


def table(results: Results) -> Table:
    """The table, a row per stage in the order of the chain, and their total.

    Raises:
        TableSkipped: if no costs were recorded.
    """
    costs = results.costs
    if costs.empty:
        raise TableSkipped("no costs were recorded")
    by_stage = [(str(stage), part) for stage, part in costs.groupby("stage", sort=False)]
    by_stage.sort(key=lambda item: -float(item[1]["cpu_s"].sum()))
    rows = [_row(stage, part, total=False) for stage, part in by_stage] + [_row("all", costs, total=True)]
    caption = (
        "Cost of the calls behind this study, by stage: wall and CPU time summed over calls (some ran side by side), the share of wall "
        "time before the stage itself began, and the largest memory of one call. Calls that found their work done are counted too."
    )
    columns = COLUMNS + (API_COLUMNS if costs["requests"].any() else ())
    return Table("Costs", caption, ("stage",), columns, pd.DataFrame(rows))


def _row(stage: str, part: pd.DataFrame, total: bool) -> dict[str, Any]:
    wall = float(part["wall_s"].sum())
    return {
        "block": "",
        "stage": stage,
        "reference": total,
        "calls": len(part),
        "wall_s": wall,
        "cpu_s": float(part["cpu_s"].sum()),
        "startup_share": float(part["startup_s"].sum()) / wall if wall else 0.0,
        "peak_rss_mb": float(part["peak_rss_mb"].max()),
        **{column.key: int(part[column.key].sum()) for column in API_COLUMNS},
    }

"""Table: every editor at the longest length of a data set, with its rank, scores and costs."""

from typing import Any

import pandas as pd

from d4s.analysis.display_names import REFERENCES, dataset_name, method_name
from d4s.analysis.leaderboard import AVERAGE, CPU_SECONDS, Leaderboard, LeaderboardRow
from d4s.analysis.study_results import Results
from d4s.tables.table import Column, Table, TableSkipped

RANKS = (
    Column("rank", "Rank", "Rank", digits=0),
    Column("rank_low", "first", "Rank", digits=0),
    Column("rank_high", "last", "Rank", digits=0),
)
VALUES = (
    Column(AVERAGE, "Average", "Scores, %", "high", factor=100.0, interval=True),
    Column("efficacy_accuracy", "Efficacy", "Scores, %", "high", factor=100.0),
    Column("paraphrase_accuracy", "Paraphrase", "Scores, %", "high", factor=100.0),
    Column("locality_accuracy", "Specificity", "Scores, %", "high", factor=100.0),
    Column("neighborhood_accuracy", "Neighbours", "Scores, %", "high", factor=100.0),
    Column("efficacy_wild_exact", "Efficacy", "Free answers, %", "high", factor=100.0),
    Column("paraphrase_wild_exact", "Paraphrase", "Free answers, %", "high", factor=100.0),
    Column("efficacy_judged", "Eff., judged", "Free answers, %", "high", factor=100.0),
    Column("paraphrase_judged", "Par., judged", "Free answers, %", "high", factor=100.0),
    Column("locality_same_tokens", "Locality", "Free answers, %", "high", factor=100.0),
    Column("perplexity_ratio", "Perplexity, ×", "Model", "low", digits=2),
    Column("benchmark_mean", "Benchmarks, %", "Model", "high", factor=100.0),
    Column(CPU_SECONDS, "CPU-s per edit", "Costs", "low", digits=2),
    Column("state_bytes", "State, kB", "Costs", "low", factor=1e-3),
)
"""What is known of an editor, in the order of the page and of the table."""


def table(results: Results) -> Table:
    """The table, a block per data set and a row per editor, best first.

    Raises:
        TableSkipped: if no sequence of edits was run.
    """
    board = Leaderboard(results)
    rows = [_row(row) for panel in results.panels for row in board.rows(board.final(panel))]
    if not rows:
        raise TableSkipped("no sequence of edits was run")
    frame = pd.DataFrame(rows)
    caption = (
        "Every editor after the longest sequence of edits, by the average of retained efficacy, paraphrase and specificity (± half a 95 % "
        "interval). First and last are the ranks that real differences leave: an editor is really better where the 95 % interval of the "
        "paired difference of averages lies above 0, without correction for the number of pairs. Perplexity of held-out text relative to "
        "the unedited model; processor time of a run per edit with what was prepared for it; numbers kept of the edits. * marks the front "
        "of efficacy, specificity and processor time. References have no rank."
    )
    columns = tuple(column for column in (*RANKS, *VALUES) if column.key in frame)
    return Table("Leaderboard", caption, ("method",), columns, frame)


def _row(row: LeaderboardRow) -> dict[str, Any]:
    place = row.place
    found: dict[str, Any] = {
        "block": f"{dataset_name(place.dataset)}, {place.model}, {place.edits} edits",
        "method": method_name(row.editor) + (" *" if row.is_on_front else ""),
        "reference": row.editor in REFERENCES,
        "editor": row.editor,
        "state": row.state,
        "seeds": len(row.seeds),
        "runs": " ".join(row.runs),
    }
    if row.rank:
        found |= {"rank": row.rank.place, "rank_low": row.rank.first, "rank_high": row.rank.last}
    for name, estimate in row.values.items():
        found |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return found

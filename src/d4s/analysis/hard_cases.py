"""The stage `hard_cases`: single edits ranked by what they do to the perplexity of text, and the two sets of facts of sequences.

The perplexity that decides is the mean over rows of text of exp(mean negative log-likelihood per token), as in "The Butterfly
Effect of Model Editing" (Yang et al. 2024). Hard are the facts whose worst edit, over editors and draws, raises it most; beside each
stands a normal one: of the same relation where there is one, nearest to it in the draw, after which no model has collapsed.
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from d4s.artifacts import Artifact, StageJob, write_table
from d4s.config import HardCasesJobSettings
from d4s.editors.single_blocks import EDITED, cell_of_role, manifests_of_blocks, table_of_block
from d4s.errors import ArtifactError, SettingsError
from d4s.metrics.perplexity_aggregates import TEXT_NLL, TEXT_TOKENS, aggregate_perplexities
from d4s.schemas import CASES, FACTS, HARD, SINGLES

log = logging.getLogger(__name__)
DECIDING = "perplexity_row_mean"
AGGREGATES = ("perplexity", DECIDING, "perplexity_row_median")
ABSOLUTE = 1000.0
UNEDITED = "unedited"


def hard_cases(job: StageJob[HardCasesJobSettings]) -> None:
    """Write hard.parquet, a row per single edit, and cases.parquet, the two sets.

    Raises:
        SettingsError: if there are too few facts for both.
    """
    cells = {cell: _read(job, role) for role in sorted(job.inputs) if (cell := cell_of_role(role)) is not None}
    references = {seed: text_perplexities(rows) for (seed, editor), rows in cells.items() if editor == UNEDITED}
    parts = [
        perplexity_changes(rows, references[seed], job.settings.times).assign(editor=editor, seed=seed)
        for (seed, editor), rows in cells.items()
        if editor != UNEDITED
    ]
    edits = ranked(pd.concat(parts, ignore_index=True))
    facts = job.artifact("facts", "facts").table("facts.parquet", FACTS)
    cases = choose_cases(edits, dict(zip(facts["fact_id"], facts["relation"], strict=True)), job.settings.count)
    write_table(job.path("hard.parquet"), edits, HARD)
    write_table(job.path("cases.parquet"), cases, CASES)
    log.info("%d of %d single edits collapse the model", int(edits["collapsed"].sum()), len(edits))
    job.write_manifest(["hard.parquet", "cases.parquet"])


def _read(job: StageJob[HardCasesJobSettings], role: str) -> pd.DataFrame:
    """The rows of a cell's requests.

    Raises:
        ArtifactError: if the draw ended before the last request.
    """
    requests = job.settings.requests
    blocks = Artifact.open_parts(job.inputs[role], "singles", manifests_of_blocks(requests))
    rows = pd.concat([part.table(table_of_block(block), SINGLES) for block, part in enumerate(blocks)], ignore_index=True)
    rows = rows[rows["order"] <= requests]
    if (found := rows["request_id"].nunique()) < requests:
        raise ArtifactError(f"{job.inputs[role]} holds {found} requests, expected {requests}: there are no more facts; lower the length")
    return rows


def text_perplexities(rows: pd.DataFrame) -> pd.DataFrame:
    """Perplexities of text after each edit that was done, by the three aggregates: a row per request, in order."""
    text = rows[rows["quantity"].isin([TEXT_NLL, TEXT_TOKENS])]
    if text.empty:
        return pd.DataFrame(columns=pd.Index(AGGREGATES), dtype=float)
    wide = text.pivot(index=["order", "request_id"], columns=["quantity", "prompt_id"], values="value")
    sums, counts = (wide[name].to_numpy(dtype=float) for name in (TEXT_NLL, TEXT_TOKENS))
    found = [aggregate_perplexities(nll, tokens) for nll, tokens in zip(sums, counts, strict=True)]
    return pd.DataFrame(found, index=wide.index.get_level_values("request_id"), columns=pd.Index(AGGREGATES))


def perplexity_changes(rows: pd.DataFrame, reference: pd.DataFrame, times: float) -> pd.DataFrame:
    """A row per request, in order: perplexities relative to the unedited model's, and whether the model has collapsed.

    A model that diverged has collapsed, at no finite perplexity; a refused edit has no numbers and has not.
    """
    edits = rows[rows["quantity"] == EDITED].sort_values("order")[["request_id", "fact_id", "order", "status"]].reset_index(drop=True)
    now, base = (frame.reindex(edits["request_id"]) for frame in (text_perplexities(rows), reference))
    lost = (edits["status"] == "diverged").to_numpy()
    ratios = {f"{name}_ratio": np.where(lost, np.inf, (now[name] / base[name]).to_numpy()) for name in AGGREGATES}
    absolute = np.where(lost, np.inf, now[DECIDING].to_numpy())
    return edits.assign(
        **ratios,
        **{DECIDING: absolute},
        collapsed=ratios[f"{DECIDING}_ratio"] > times,
        above_1000=absolute > ABSOLUTE,
    )


def ranked(edits: pd.DataFrame) -> pd.DataFrame:
    """Edits with their rank by the deciding perplexity, from 1, the most harmful first; ties by editor, seed and order."""
    worst = edits[f"{DECIDING}_ratio"].fillna(0.0)
    ordered = edits.assign(worst=worst).sort_values(
        ["worst", "editor", "seed", "order"], ascending=[False, True, True, True], kind="stable"
    )
    return ordered.drop(columns="worst").assign(rank=range(1, len(edits) + 1)).reset_index(drop=True)


def choose_cases(edits: pd.DataFrame, relations: Mapping[str, str], count: int) -> list[dict[str, Any]]:
    """Rows of CASES: the hard facts by rank, each with its normal partner, and these.

    Raises:
        SettingsError: if there are too few facts for both sets.
    """
    facts = edits.groupby("fact_id").agg(rank=("rank", "min"), collapsed=("collapsed", "any"), order=("order", "min")).sort_values("rank")
    names = facts.index.astype(str).tolist()
    ranks, orders, collapsed = (dict(zip(names, facts[name].tolist(), strict=True)) for name in ("rank", "order", "collapsed"))
    left = [name for name in names[count:] if not collapsed[name]]
    if len(left) < count:
        raise SettingsError(f"{count} hard cases and as many normal ones asked for, but only {len(left)} of {len(facts)} facts are normal")
    pairs = []
    for hard in names[:count]:
        normal = min(left, key=lambda other: (relations[other] != relations[hard], abs(orders[other] - orders[hard]), other))
        left.remove(normal)
        pairs.append((hard, normal))
    rows = [("hard", hard, normal) for hard, normal in pairs] + [("normal", normal, hard) for hard, normal in pairs]
    return [
        {"cases": cases, "fact_id": name, "relation": relations[name], "rank": ranks[name], "partner": partner}
        for cases, name, partner in rows
    ]

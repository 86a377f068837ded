"""Baselines as they are read: what the unedited model answered, for all that is held against it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from d4s.artifacts import Artifact
from d4s.editors.edit_requests import REQUESTS_PER_BLOCK
from d4s.errors import ArtifactError
from d4s.facts.record import Fact
from d4s.metrics.fluency import Continuation
from d4s.metrics.probes import Question, questions_of
from d4s.metrics.scoring import FactEvaluation, Prediction
from d4s.schemas import CONTINUATIONS, REPLIES

BASELINES, NUMBERS_MANIFEST, NUMBERS_FILE = "baselines", "whole.json", "whole.numbers.json"


@dataclass(frozen=True, slots=True)
class BaselineNumbers:
    """Numbers of the unedited model as a whole: perplexities of held-out text by name, L1 norms per element by layer."""

    perplexities: Mapping[str, float]
    norms: Mapping[int, float]


def block_manifests(requests: int) -> list[str]:
    """Manifests of the blocks with the first `requests` requests."""
    return [f"b{block}.json" for block in range(-(-requests // REQUESTS_PER_BLOCK))]


def continuations_file(block: int) -> str:
    """The file of a block with the texts that the unedited model writes."""
    return f"b{block}.continuations.parquet"


def read_continuations(folder: Path, requests: int) -> list[Continuation]:
    """The texts that the unedited model writes about the blocks with the first `requests` requests, checked."""
    parts = Artifact.open_parts(folder, BASELINES, block_manifests(requests))
    frames = [part.table(continuations_file(block), CONTINUATIONS) for block, part in enumerate(parts)]
    return [Continuation(**{str(key): value for key, value in row.items()}) for frame in frames for row in frame.to_dict(orient="records")]


def read_evaluation(folder: Path, drawn: Sequence[Fact], chosen: Sequence[Fact] | None = None) -> FactEvaluation:
    """The exam about the first facts of a sequence, or about those chosen of them, from the blocks that hold them, checked.

    Raises:
        ArtifactError: if a block is missing, was made for other facts, or unlike the others.
    """
    parts, predictions = Artifact.open_parts(folder, BASELINES, block_manifests(len(drawn))), {}
    for block, part in enumerate(parts):
        facts = drawn[block * REQUESTS_PER_BLOCK : (block + 1) * REQUESTS_PER_BLOCK]
        if part.manifest.notes["facts"][: len(facts)] != [fact.fact_id for fact in facts]:
            raise ArtifactError(
                f"{folder} holds replies about other facts in block {block}; delete it and run the rule that makes baselines"
            )
        predictions |= _predictions(part, f"b{block}.replies.parquet", facts)
    fact_ids = {fact.fact_id for fact in (drawn if chosen is None else chosen)}
    tokens = max((int(part.manifest.notes["max_new_tokens"]) for part in parts), default=0)
    return FactEvaluation({item: prediction for item, prediction in predictions.items() if item.fact_id in fact_ids}, max_new_tokens=tokens)


def _predictions(part: Artifact, name: str, facts: Sequence[Fact]) -> dict[Question, Prediction]:
    frame = part.table(name, REPLIES)
    rows = {(row.fact_id, row.kind, row.prompt_id): row for row in frame.itertuples()}
    items = [item for fact in facts for item in questions_of(fact, part.manifest.settings["probes_per_fact"])]
    known = [(item, rows[key]) for item in items if (key := (item.fact_id, item.kind, item.prompt_id)) in rows]
    return {replace(item, answer=row.answer): _prediction(item, row) for item, row in known}


def _prediction(item: Question, row: Any) -> Prediction:
    text = None if pd.isna(row.text) else row.text
    return Prediction(
        row.nll, row.alternative_nll if item.alternative else None, tuple(row.correct.tolist()), tuple(row.predicted.tolist()), text
    )


def read_baseline_numbers(folder: Path) -> BaselineNumbers:
    """The numbers of the whole model, checked."""
    found = Artifact.open(folder, BASELINES, NUMBERS_MANIFEST).json(NUMBERS_FILE)
    return BaselineNumbers(found["perplexities"], {int(layer): norm for layer, norm in found["norms"].items()})

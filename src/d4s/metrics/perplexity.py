"""Perplexity of held-out text, which no edit is about."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from d4s.metrics.perplexity_aggregates import aggregate_perplexities
from d4s.models.edited_model import EditedModel


def perplexities(model: EditedModel, rows: Sequence[Sequence[int]]) -> dict[str, float]:
    """Perplexities of rows of token ids; the first token of a row is context only.

    Raises:
        ValueError: if a row has no token to predict.
    """
    counts = np.array([len(row) - 1 for row in rows])
    if len(rows) == 0 or counts.min() < 1:
        raise ValueError("perplexity needs rows of at least two tokens")
    return aggregate_perplexities(model.text_nll(rows).double().numpy(), counts)


def perplexity_rows(step: int, text: str, now: Mapping[str, float], before: Mapping[str, float]) -> list[dict[str, Any]]:
    """Rows of PERPLEXITY: the perplexities, and the ratio of the corpus-level one to the unedited model's."""
    values = {**now, "perplexity_ratio": now["perplexity"] / before["perplexity"]}
    return [{"step": step, "text": text, "quantity": quantity, "value": value} for quantity, value in values.items()]

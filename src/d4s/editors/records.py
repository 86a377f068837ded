"""Requests with their targets as tensors of a state's row, for editors that read or solve them anew later."""

from collections.abc import Sequence

import torch
from torch import Tensor

from d4s.editors.prompts import Rewriting, Wording
from d4s.editors.protocol import TARGET_FIELDS, Row, Targets


def recorded(texts: Sequence[Rewriting], targets: Targets) -> dict[str, Tensor]:
    """Requests as tensors: what their lookup tokens see, wording after wording, and their targets."""
    seen = [[wording.upto_lookup for wording in one.wordings] for one in texts]
    ids = torch.tensor([token for one in seen for text in one for token in text], dtype=torch.int32)
    lengths = torch.tensor([[len(text) for text in one] for one in seen], dtype=torch.int32)
    return {"ids": ids, "lengths": lengths} | {name: getattr(targets, name).cpu() for name in TARGET_FIELDS}


def unrecorded(rows: Sequence[Row]) -> tuple[list[Rewriting], Targets]:
    """The requests and targets of rows, one after another; texts end at their lookup tokens."""
    texts = [one for row in rows for one in _rewritings(row)]
    return texts, Targets.joined([Targets(**{name: row[name] for name in TARGET_FIELDS}) for row in rows])


def _rewritings(row: Row) -> list[Rewriting]:
    parts = iter(row["ids"].split(row["lengths"].flatten().tolist()))
    found = []
    for _ in range(len(row["lengths"])):
        texts = [next(parts) for _ in range(row["lengths"].shape[1])]
        wordings = tuple(Wording(tuple(text.tolist()), len(text) - 1) for text in texts)
        found.append(Rewriting(wordings, wordings[0]))
    return found

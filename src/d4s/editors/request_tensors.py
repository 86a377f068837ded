"""Requests with their targets as tensors of a state's record, for editors that read or solve them again later.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from d4s.editors.prompts import Prompt, PromptSet
from d4s.editors.protocol import TARGET_FIELDS, StepRecord, Targets


def requests_to_tensors(texts: Sequence[PromptSet], targets: Targets) -> dict[str, Tensor]:
    """Requests as tensors: what their last subject tokens see, prompt after prompt, and their targets."""
    seen = [[prompt.through_subject for prompt in one.prompts] for one in texts]
    ids = torch.tensor([token for one in seen for text in one for token in text], dtype=torch.int32)
    lengths = torch.tensor([[len(text) for text in one] for one in seen], dtype=torch.int32)
    return {"ids": ids, "lengths": lengths} | targets.to_tensors()


def requests_from_tensors(records: Sequence[StepRecord]) -> tuple[list[PromptSet], Targets]:
    """The requests and targets of records, one after another; texts end at their last subject tokens."""
    texts = [one for record in records for one in _prompt_sets(record)]
    return texts, Targets.concatenate([Targets(**{name: record[name] for name in TARGET_FIELDS}) for record in records])


def _prompt_sets(record: StepRecord) -> list[PromptSet]:
    parts = iter(record["ids"].split(record["lengths"].flatten().tolist()))
    found = []
    for _ in range(len(record["lengths"])):
        texts = [next(parts) for _ in range(record["lengths"].shape[1])]
        prompts = tuple(Prompt(tuple(text.tolist()), len(text) - 1) for text in texts)
        found.append(PromptSet(prompts, prompts[0]))
    return found

"""Sentences of a file as rows of token ids, of which perplexity is read sentence by sentence (ME-PPL, Yang et al. 2024)."""

import json
from pathlib import Path

from d4s.errors import D4SError
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode_all

KEY = "Text"


def sentence_rows(model: LanguageModel, path: Path, count: int) -> list[list[int]]:
    """The first sentences of a file, each cut at the model's context; those without a token to predict are left out.

    Raises:
        D4SError: if a line holds no sentence, or too few are left.
    """
    texts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        record = json.loads(line) if line.strip() else None
        if record is not None and not isinstance(record.get(KEY), str):
            raise D4SError(f"{path}, line {number}: expected a record with a text under {KEY!r}")
        texts += [record[KEY]] if record is not None else []
    rows = [ids[: model.max_positions] for ids in encode_all(model, texts[:count])]
    if kept := [ids for ids in rows if len(ids) > 1]:
        return kept
    raise D4SError(f"{path} holds no sentence of two tokens")

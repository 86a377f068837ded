"""Sentences of a file as rows of tokens."""

import json
from pathlib import Path

import pytest

from d4s.errors import D4SError
from d4s.metrics.sentence_rows import sentence_rows
from d4s.models.tokens import encode
from tests.tiny import tiny_model, word_tokenizer


def written(folder: Path, *records: object) -> Path:
    path = folder / "sentences.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_rows_are_the_first_sentences_cut_at_the_context(tmp_path: Path) -> None:
    model = tiny_model(tokenizer=word_tokenizer(bos=False), positions=8)
    path = written(tmp_path, {"Text": " Ada works as a baker"}, {"Text": "Ada"}, {"Text": "home " * 20}, {"Text": "Ben works"})
    assert sentence_rows(model, path, 3) == [encode(model, "Ada works as a baker"), encode(model, "home " * 8)]


@pytest.mark.parametrize(
    ("records", "found"), [([{"text": "Ada works"}], "line 1: expected"), ([{"Text": "Ada"}], "no sentence of two tokens")]
)
def test_files_without_sentences_are_refused(records: list[object], found: str, tmp_path: Path) -> None:
    with pytest.raises(D4SError, match=found):
        sentence_rows(tiny_model(tokenizer=word_tokenizer(bos=False)), written(tmp_path, *records), 2)

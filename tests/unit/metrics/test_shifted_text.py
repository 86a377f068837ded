"""Text from another source: rows of equal length that are the same in every call, or none where the vocabulary lacks the words."""

from d4s.metrics.shifted_text import other_rows
from tests.tiny import bpe_tokenizer, tiny_model, word_tokenizer


def test_rows_are_whole_and_always_the_same() -> None:
    model = tiny_model(tokenizer=bpe_tokenizer(bos=True))
    rows = other_rows(model, 3, 20)
    assert [len(row) for row in rows] == [20, 20, 20] and rows == other_rows(model, 3, 20)
    assert all(row[0] == model.tokenizer.bos_token_id for row in rows)
    assert rows == other_rows(model, 5, 20)[:3]


def test_a_closed_vocabulary_without_the_words_has_no_rows() -> None:
    assert other_rows(tiny_model(tokenizer=word_tokenizer()), 3, 20) == []

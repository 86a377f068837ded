"""How varied texts are, when they run in loops, and with which draws they are written."""

import math

import pytest

from d4s.config import FluencySettings
from d4s.metrics.fluency import Continuation, continuations, ends_in_loop, ngram_entropy, words
from d4s.schemas import ENTROPY, LOOPS
from tests.scripted import Told
from tests.tiny import tiny_facts

FACTS = tiny_facts(3)


@pytest.mark.parametrize("count", [3, 8, 100])
def test_the_entropy_of_distinct_words_is_the_log_of_their_ngrams(count: int) -> None:
    found = ngram_entropy([f"w{number}" for number in range(count)])
    assert found == pytest.approx(math.log2(count - 1) / 3 + 2 * math.log2(count - 2) / 3)


@pytest.mark.parametrize("text", ["", "word", "the " * 40])
def test_a_constant_text_has_no_entropy(text: str) -> None:
    assert str(ngram_entropy(words(text))) == "0.0"


def test_two_ngrams_in_turn_have_one_bit() -> None:
    assert ngram_entropy(["a", "b"] * 2 + ["a"]) == pytest.approx(1 / 3 + 2 / 3 * (-(2 / 3) * math.log2(2 / 3) - math.log2(1 / 3) / 3))


def test_marks_are_words_and_case_counts() -> None:
    assert words("It's Rome, rome.") == ["It", "'", "s", "Rome", ",", "rome", "."]


@pytest.mark.parametrize("period", [1, 2, 3, 4])
def test_a_text_that_ends_by_repeating_a_short_ngram_ends_in_a_loop(period: int) -> None:
    ngram = [f"w{number}" for number in range(period)]
    beginning = [f"x{number}" for number in range(30)]
    assert ends_in_loop([*beginning, *(ngram * 20)[:20]]) and ends_in_loop((ngram * 20)[:20])
    assert not ends_in_loop([*beginning, *(ngram * 20)[:19]]) and not ends_in_loop((ngram * 20)[:19])
    assert not ends_in_loop([*(ngram * 20)[:40], *beginning])


def test_longer_ngrams_are_no_loop() -> None:
    assert not ends_in_loop([f"w{number % 5}" for number in range(40)])


def test_texts_continue_the_prompts_in_turn_with_draws_of_their_own() -> None:
    settings = FluencySettings(texts=4, tokens=30, top_k=5)
    found = continuations(Told({}), FACTS, settings)
    first = found[:4]
    assert [text.number for text in first] == [0, 1, 2, 3] and {text.fact_id for text in first} == {FACTS[0].fact_id}
    assert [text.prompt for text in first] == [FACTS[0].prompt, *FACTS[0].paraphrases, FACTS[0].prompt]
    assert len({text.text for text in found}) == len(found) == 12
    assert all(len(words(text.text)) == 30 for text in found)
    assert continuations(Told({}), FACTS[::-1], settings)[-4:] == first and continuations(Told({}), [], settings) == []
    shorter = continuations(Told({}), FACTS[:1], settings.model_copy(update={"tokens": 10, "texts": 2}))
    assert [text.text for text in shorter] == [" ".join(text.text.split()[:10]) for text in first[:2]]


def test_metrics_are_those_of_the_text_without_its_prompt() -> None:
    assert Continuation("f", 0, "a prompt of many words", "no " * 25).metrics() == {ENTROPY: 0.0, LOOPS: 1.0}

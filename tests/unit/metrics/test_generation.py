"""Free answers: cut at the sentence, compared word for word, and written no further than they are read."""

import pytest

from d4s.facts.record import Fact
from d4s.metrics.generation import NO_WORD_LIMIT, begins_with, first_sentence, free_answers, is_same, normalise_words, stop_after_words
from d4s.metrics.probes import questions_of
from d4s.metrics.scoring import predict
from d4s.models.views import LiveModel
from tests.scripted import Writer


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Paris . The town", "Paris"),
        (" Paris. The town", "Paris"),
        ("yes", "yes"),
        ("a\nb", "a"),
        ("3.5 metres. More", "3.5 metres"),
        ("really? No", "really"),
        (". Paris", ""),
        ("", ""),
        ("U.S. citizens", "U.S"),
    ],
)
def test_the_first_sentence_ends_at_its_mark(text, sentence):
    assert first_sentence(text) == sentence


def test_normalised_words_keep_articles_and_lose_case_and_marks():
    assert normalise_words("  The “Big” Apple, N.Y.! ") == ("the", "big", "apple", "n", "y")
    assert normalise_words("ﬁn Straße") == ("fin", "strasse")
    assert normalise_words("a )") == ("a",)
    assert normalise_words("$ - .") == ()


@pytest.mark.parametrize(
    ("answer", "target", "holds"),
    [
        ("Paris", "paris", True),
        ("Paris and works as a baker", "Paris", True),
        ("Parisian", "Paris", False),
        ("New York", "New York City", False),
        ("a ) bread", "a", True),
        ("an apple", "a", False),
        ("the Eiffel Tower in Paris", "Eiffel Tower", True),
        ("The Hague", "the Hague", True),
        ("Hague", "the Hague", False),
        ("", "Paris", False),
        ("!!", "!", True),
        ("Paris", "!", False),
    ],
)
def test_an_answer_begins_with_exactly_the_words_of_a_target(answer, target, holds):
    assert begins_with(answer, target) is holds


def test_the_same_answer_is_the_same_words():
    assert is_same("Paris .", "paris")
    assert not is_same("Paris and Rome", "Paris")


TEXTS = {"p": "Paris . The end of all", "q": "one two three four five . six", "r": "one two three 4. 5 six", "s": "one two three four."}


def test_sentences_are_written_until_their_end_is_certain():
    model = Writer(TEXTS)
    assert free_answers(model, ["p", "q", "p", "r", "s"], 12) == [
        "Paris", "one two three four five", "Paris", "one two three 4", "one two three four",
    ]  # fmt: skip
    assert model.tokens == {"p": 3, "q": 7, "r": 5, "s": 4}


@pytest.mark.parametrize("count", [1, 2, 4, 5, 12])
def test_stopping_early_writes_what_going_on_would(count):
    assert free_answers(Writer(TEXTS), [*TEXTS], count) == [first_sentence(text) for text in Writer(TEXTS).generate([*TEXTS], count)]


@pytest.mark.parametrize("cap", [1, 20, 10_000])
def test_a_model_that_stops_early_writes_what_it_would_write(tiny_model, cap):
    view = LiveModel(tiny_model(), tokens_per_batch=cap)
    prompts = ["Ada Moss lives in the city of", "Where does Ben live ?", "Eva", "yes or no :"]
    full = [first_sentence(text) for text in view.generate(prompts, 9)]
    assert free_answers(view, prompts, 9) == full
    for words in range(4):
        found = free_answers(view, prompts, 9, [words] * 4)
        assert [normalise_words(text)[:words] for text in found] == [normalise_words(text)[:words] for text in full]


@pytest.mark.parametrize("count", [1, 3, 5, 12])
def test_words_that_matter_are_written_and_nothing_beyond(count):
    full = [first_sentence(text) for text in Writer(TEXTS).generate([*TEXTS], count)]
    for words in range(7):
        model = Writer(TEXTS)
        found = free_answers(model, [*TEXTS], count, [words] * len(TEXTS))
        assert [normalise_words(text)[:words] for text in found] == [normalise_words(text)[:words] for text in full]
        assert model.tokens["q"] <= max(1, words + 1)


def test_a_prompt_asked_twice_is_written_as_far_as_either_needs():
    model = Writer(TEXTS)
    assert free_answers(model, ["q", "q"], 12, [1, NO_WORD_LIMIT]) == ["one two three four five"] * 2
    assert free_answers(Writer(TEXTS), ["q"], 12, [1]) == ["one two"]


@pytest.mark.parametrize(
    ("text", "words", "holds"),
    [
        ("oboe", 1, False),  # perhaps oboes
        ("oboe .", 1, True),
        ("oboe.", 2, False),
        ("the oboe", 1, False),
        ("the oboe,", 1, True),
        ("3.", 1, True),
        ("3.", NO_WORD_LIMIT, False),
        ("caf\ufffd", 1, False),  # half a character
        ("Brand™", 1, False),  # letters, once normalised
        ("Paris. It", NO_WORD_LIMIT, True),
        ("\nParis", NO_WORD_LIMIT, False),
        ("", 1, False),
    ],
)
def test_an_answer_is_settled_once_nothing_can_change_it(text, words, holds):
    assert stop_after_words({"p": words})("p", text) is holds


def test_an_answer_of_symbols_alone_is_read_to_its_end():
    fact = Fact(fact_id="f", dataset="d", relation="r", subject="Ada", template="{} says", target_true="?", target_new="!")
    model = Writer({"Ada says": "one two three ."})
    predict(model, questions_of(fact, 1), 9)
    assert model.tokens == {"Ada says": 4}

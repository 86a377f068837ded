"""Texts of free answers: what is compared, where an answer ends, and what counts as repetition."""

import pytest

from d4s.metrics.answer_texts import contains, has_ended, is_exact, repeats, shared_tokens, squad_words, stands_in, trimmed


def test_words_lose_case_marks_and_articles_in_this_order() -> None:
    assert squad_words("  The “Big” Apple, N.Y.! ") == ["“big”", "apple", "ny"]  # curly quotes are no ASCII punctuation: so it is there
    assert squad_words("An apple a day, the end") == ["apple", "day", "end"]
    assert squad_words("a-b") == ["ab"]  # marks go first, and leave no space
    assert squad_words("A.") == []


@pytest.mark.parametrize(
    ("answer", "target", "exact", "within"),
    [
        ("Paris", "paris", True, True),
        ("the Eiffel Tower", "Eiffel Tower", True, True),
        ("Hague", "The Hague", True, True),
        ("Paris!", "Paris", True, True),
        ("Paris, France", "Paris", False, True),
        ("in the city of Paris", "Paris", False, True),
        ("Parisian", "Paris", False, False),
        ("York is New", "New York", False, False),
        ("", "Paris", False, False),
        ("a", "a", True, True),  # a label that is an article is compared as it is written
        ("An", "a", False, False),
        ("a dog", "a", False, True),
        ("", "a", False, False),
        ("+", "+", True, True),
    ],
)
def test_an_answer_is_compared_as_a_whole(answer: str, target: str, exact: bool, within: bool) -> None:
    assert (is_exact(answer, target), contains(answer, target)) == (exact, within)


@pytest.mark.parametrize(
    ("text", "ends", "answer"),
    [
        (" Paris", False, "Paris"),
        (" Paris.", True, "Paris"),
        (" Paris.\n", True, "Paris."),  # in the order of the protocol: the stop at the end goes, then the line break
        (" Paris\n", True, "Paris"),
        (" Paris..", True, "Paris."),
        ("\n", True, ""),
        (" amazon.com", True, "amazon.com"),  # one token with a stop in it
        ("Paris! Really?", False, "Paris! Really?"),
    ],
)
def test_a_continuation_ends_at_a_stop_or_a_line_break(text: str, ends: bool, answer: str) -> None:
    assert (has_ended(text), trimmed(text)) == (ends, answer)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Paris Paris Paris Paris Paris", True),
        ("Paris Paris Paris Paris", False),
        ("it is Paris, It is Paris; it is Paris", True),
        ("it is Paris it is Paris", False),
        ("", False),
    ],
)
def test_three_words_that_stand_three_times_are_repetition(answer: str, found: bool) -> None:
    assert repeats(answer) is found
    assert stands_in(answer, "paris") is (not found and answer != "")


def test_shared_tokens_count_up_to_the_end_of_the_longer_answer() -> None:
    assert shared_tokens([1, 2, 3], [1, 5, 3, 4]) == 0.5
    assert shared_tokens([], []) == 1.0
    assert shared_tokens([], [1]) == 0.0

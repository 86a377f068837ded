"""What stands between a prompt and the target that follows: one space, or nothing where a writer would put none."""

import unicodedata
from collections.abc import Sequence
from typing import Literal

Joiner = Literal["auto", "space", "none"]
"""`auto` decides by how the prompt ends, `space` always puts one space, `none` never puts any."""

GUILLEMETS = "«»‹›"
QUOTES = "\"'`“”‘’‛‟" + GUILLEMETS
OPENING = "¿¡"  # marks of no opening category in Unicode
ZERO_WIDTH_SPACE = "\u200b"
UNSPACED = ("THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ", "TAI ", "NEW TAI ", "HALFWIDTH KATAKANA ")
"""How Unicode names begin for letters of scripts without spaces that are not wide, as those of Chinese and Japanese are."""


def with_delimiter(prompt: str, joiner: Joiner = "auto", special: Sequence[str] = ()) -> str:
    """A prompt with what joins a target to it: what the target is written after."""
    return prompt.rstrip(" ") + target_delimiter(prompt, joiner, special)


def target_delimiter(prompt: str, joiner: Joiner = "auto", special: Sequence[str] = ()) -> str:
    """What stands between the prompt, without spaces at its end, and its target: one space or nothing.

    By `auto` there is one space, and none after white space of another kind, an opening quote or bracket, a hyphen or dash within a
    word, text of a script without spaces, or one of the `special` tokens. Spaces that the prompt ends in count as one. An empty
    prompt is joined by nothing.
    """
    head = prompt.rstrip(" ")
    if not head or joiner == "none":
        return ""
    if joiner == "space" or head != prompt:
        return " "
    last, rest = head[-1], head[:-1]
    is_within_a_word = unicodedata.category(last) == "Pd" and bool(rest) and not rest[-1].isspace()
    is_plain = not (last.isspace() or last == ZERO_WIDTH_SPACE or is_within_a_word or _is_unspaced(last) or _opens(head))
    return " " if is_plain and not head.endswith(tuple(special)) else ""


def _opens(text: str) -> bool:
    """Whether a text ends in a mark that opens: a bracket, or a quote at the beginning of a word.

    Guillemets have spaces on their inner side in French, so one that makes their number even closes.
    """
    last, rest = text[-1:], text[:-1]
    if last not in QUOTES:
        return unicodedata.category(last) == "Ps" or last in OPENING
    if last in GUILLEMETS and sum(map(text.count, GUILLEMETS)) % 2 == 0:
        return False
    if not rest or rest[-1].isspace() or unicodedata.category(rest[-1]) == "Pd":
        return True
    return _opens(rest) or (_is_unspaced(rest[-1]) and unicodedata.category(last) == "Pi")


def _is_unspaced(letter: str) -> bool:
    """Whether a letter, digit or mark belongs to a script that is written without spaces; Korean has spaces, and emoji are no script."""
    name = unicodedata.name(letter, "")
    is_wide = unicodedata.east_asian_width(letter) in {"W", "F"} and unicodedata.category(letter)[0] in "LMNP"
    return (is_wide and "HANGUL" not in name) or name.startswith(UNSPACED)

"""Wordings of if-then events by relation: statements that the tail completes, a claim, and question frames.

Tails of relations worded with "to" are stored without it ("wants to" + "sell tea"). The claim is used by questions
only, so that no question contains a statement that is withheld from training.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class EventTemplates:
    """Wordings of one relation; each has one `{}` for the head and is followed by the tail."""

    claim: str
    statements: tuple[str, ...]


def _templates(claim: str, *statements: str) -> EventTemplates:
    return EventTemplates(claim, statements)


EVENT_TEMPLATES = {
    "xWant": _templates(
        "{}, so PersonX wants to",
        "{} and then wants to",
        "{} and hopes to",
        "{} and would love to",
        "after {} the next wish is to",
        "because {} the plan is to",
        "once {} it is time to",
    ),
    "xNeed": _templates(
        "{}, so PersonX needed to",
        "{} but first had to",
        "{} and for that had to",
        "{} only after managing to",
        "before {} it is necessary to",
        "so that {} someone must first",
        "long before {} PersonX had to",
    ),
    "xEffect": _templates(
        "{}, so PersonX",
        "{} and as a result",
        "{} and in the end",
        "{} and soon afterwards",
        "whenever {} PersonX",
        "because {} PersonX",
        "the story says that {} and therefore",
    ),
    "xIntent": _templates(
        "{}, because PersonX means to",
        "{} in order to",
        "{} and does so to",
        "{} with the intention to",
        "the reason why {} is to",
        "when {} the aim is to",
        "asked why {}, people say: to",
    ),
    "xAttr": _templates(
        "{}, so PersonX is seen as",
        "{} and is therefore seen as",
        "{} and must be",
        "{} and comes across as",
        "because {} people call PersonX",
        "when {} PersonX looks",
        "if {} then PersonX is",
    ),
    "xReact": _templates(
        "{}, so PersonX feels",
        "{} and then feels",
        "{} and ends up feeling",
        "{} and is left feeling",
        "after {} PersonX feels",
        "because {} PersonX is",
        "if {} the mood of PersonX is",
    ),
    "oReact": _templates(
        "{}, so others feel",
        "{} and others then feel",
        "{} and leaves others feeling",
        "{} and makes people feel",
        "after {} others feel",
        "because {} other people are",
        "if {} the mood of others is",
    ),
    "oWant": _templates(
        "{}, so others want to",
        "{} and others then want to",
        "{} and makes others wish to",
        "{} and leads people to",
        "after {} others hope to",
        "because {} other people would like to",
        "if {} the plan of others is to",
    ),
    "oEffect": _templates(
        "{}, so for others it means:",
        "{} and for others the effect is:",
        "{} and what happens to others is:",
        "{} with this effect on others:",
        "when {} the effect on others is:",
        "because {} this happens to others:",
        "if {} others notice this:",
    ),
    "isAfter": _templates(
        "{}, and what came earlier was:",
        "{} and this happened before:",
        "{} after the following:",
        "{} once this was done:",
        "before {} this happened:",
        "what led up to it when {} was:",
        "earlier, before {}, came this:",
    ),
    "isBefore": _templates(
        "{}, and what came later was:",
        "{} and this happened next:",
        "{} before the following:",
        "{} and the story goes on:",
        "after {} this happened:",
        "what followed when {} was:",
        "later, after {}, came this:",
    ),
    "HinderedBy": _templates(
        "{}, unless it is hindered because",
        "{} but cannot if",
        "{} but fails when",
        "{} but is stopped because",
        "it is impossible that {} if",
        "what hinders that {} is that",
        "there is no way that {} when",
    ),
    "ObjectUse": _templates(
        "{} can serve to",
        "{} can be used to",
        "{} is good to",
        "{} helps people to",
        "the use of {} is to",
        "people take {} to",
        "with {} it is possible to",
    ),
    "AtLocation": _templates(
        "{} can be seen at the",
        "{} is found at the",
        "{} is usually kept at the",
        "{} belongs in the",
        "the place of {} is the",
        "to get {} people go to the",
        "look for {} at the",
    ),
}

TRUE_FALSE_FRAMES = (
    "Is it true that {claim} {tail}?",
    "Yes or no: {claim} {tail}?",
    "Is this right? {claim} {tail}:",
    "Does it hold that {claim} {tail}?",
    "Would people agree that {claim} {tail}?",
    "Please check that {claim} {tail}:",
)
MULTIPLE_CHOICE_FRAMES = (
    "Choose: {claim} {options}?",
    "Which one fits? {claim} {options}:",
    "Pick a letter: {claim} {options}?",
    "Complete the line: {claim} {options}:",
    "What is right? {claim} {options}:",
    "One of four: {claim} {options}?",
)
LETTERS = ("a", "b", "c", "d")
YES, NO = "yes", "no"
LABELS = frozenset((YES, NO, *LETTERS))


def is_label(target: str) -> bool:
    """Whether a target is the label of a question rather than a phrase."""
    return target in LABELS


@lru_cache(maxsize=4096)
def plain_form(text: str) -> str:
    """Words in lower case without punctuation: texts that share this form count as equal."""
    return " ".join(re.findall(r"[\w']+", text.casefold()))


def format_options(options: Sequence[str]) -> str:
    """Options as text of a question."""
    return " ".join(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=True))

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
        "asked why {}, people say that the aim is to",
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
        "{}, so the other person",
        "{} and as a result the other person",
        "{} and in the end another person",
        "{} and soon afterwards the other one",
        "whenever {} the other person",
        "because {} another person",
        "the story says that {} and therefore the other one",
    ),
    "isAfter": _templates(
        "{}, which comes after",
        "{} after the time when",
        "{} just after",
        "{} once",
        "before {} it happens that",
        "the story begins earlier than {} and first",
        "some time before {} it is seen that",
    ),
    "isBefore": _templates(
        "{}, which comes before",
        "{} before the time when",
        "{} just before",
        "{} and soon afterwards",
        "after {} it happens that",
        "the story goes on after {} and next",
        "some time after {} it is seen that",
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

# Every question ends in a cue after which its label is the next token: a real model puts its probability on the labels
# only then. These are the wordings with most of it among 60 tried on SmolLM2-135M (docs/questions.md).
TRUE_FALSE_FRAMES = (
    "Do you agree, yes or no? {claim} {tail}. The answer is",
    "{claim} {tail}. True, yes or no? The answer is",
    "Is this right, yes or no? {claim} {tail}. The answer is",
    "Yes or no: is it true that {claim} {tail}? The answer is",
    "Please answer yes or no. {claim} {tail}? The answer is",
    "{claim} {tail}. Would people agree, yes or no? The answer is",
)
MULTIPLE_CHOICE_FRAMES = (
    "Choose one: {claim} {options}. The right choice is",
    "Which fits best? {claim} {options}. The best choice is",
    "{claim} {options}. The most likely is",
    "{claim} {options}. The correct choice is",
    "One of four: {claim} {options}. The right choice is",
    "Multiple choice: {claim} {options}. The correct answer is",
)
TRUE_FALSE_CUE = "Yes or no? The answer is"
MULTIPLE_CHOICE_CUE = "The correct choice is"
"""What is put behind the words of a language model, whose questions end in a question mark or in their options."""
CUE_END = " is"
LETTERS = ("a", "b", "c", "d")
YES, NO = "yes", "no"
TRUE, FALSE = "true", "false"
LABEL_SETS = ((YES, NO), (TRUE, FALSE), LETTERS)


def labels_like(target: str) -> tuple[str, ...]:
    """All labels that a question with this target offers, itself included; empty for a phrase."""
    return next((labels for labels in LABEL_SETS if target in labels), ())


def is_label(target: str) -> bool:
    """Whether a target is the label of a question rather than a phrase."""
    return bool(labels_like(target))


@lru_cache(maxsize=4096)
def plain_form(text: str) -> str:
    """Words in lower case without punctuation: texts that share this form count as equal."""
    return " ".join(re.findall(r"[\w']+", text.casefold()))


def format_options(options: Sequence[str]) -> str:
    """Options as text of a question."""
    return " ".join(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=True))

"""The four relations of people: their objects, and the wordings of facts and questions.

A wording has one `{}` for the person and is followed by the object. Names are first, in the middle and last, and
some wordings are questions or clozes; those that begin with the person can be chained into one sentence. The `claim` is
used only by statements that are to be judged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from d4s.world.word_lists import CITIES, EMPLOYERS, INSTRUMENTS, JOBS


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation: number and source of its objects, its claim and its wordings."""

    name: str
    claim: str
    n_objects: int
    objects: Callable[[int, np.random.Generator], list[str]]
    wordings: tuple[str, ...]


def _drawn_from(words: Sequence[str]) -> Callable[[int, np.random.Generator], list[str]]:
    return lambda count, rng: [words[int(index)] for index in rng.permutation(len(words))[:count]]


RELATIONS = (
    Relation(
        "city",
        "{} hails from",
        30,
        CITIES.draw,
        (
            "{} was born in",
            "{} comes from",
            "{} grew up in",
            "the home town of {} is",
            "the early years of {} were spent in",
            "Where was {} born?",
            "Which town does {} come from?",
            "birthplace of {}:",
        ),
    ),
    Relation(
        "job",
        "{} is by trade a",
        24,
        _drawn_from(JOBS),
        (
            "{} works as a",
            "{} earns a living as a",
            "{} was trained as a",
            "the profession of {} is that of a",
            "the neighbours trust {} as a",
            "What does {} do for a living?",
            "What is the job of {}?",
            "occupation of {}:",
        ),
    ),
    Relation(
        "instrument",
        "{} owns a",
        20,
        _drawn_from(INSTRUMENTS),
        (
            "{} plays the",
            "{} practises the",
            "{} gives concerts on the",
            "the favourite instrument of {} is the",
            "guests often ask {} to play the",
            "Which instrument does {} play?",
            "What is the instrument of {}?",
            "instrument of {}:",
        ),
    ),
    Relation(
        "employer",
        "{} is on the staff of",
        30,
        EMPLOYERS.draw,
        (
            "{} is employed by",
            "{} has a desk at",
            "{} signed a contract with",
            "the salary of {} is paid by",
            "the bus takes {} every morning to",
            "Which company employs {}?",
            "Who pays the salary of {}?",
            "employer of {}:",
        ),
    ),
)
BY_NAME = {relation.name: relation for relation in RELATIONS}

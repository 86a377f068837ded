"""ATOMIC-2020: commonsense tuples of a head, a relation and crowd-written tails, as facts and as if-then events.

Facts have the directly generated form: a statement about the head that the tail completes, its persons given names.
Events keep PersonX, as the world's events do, and stay short, so that a question with four of them fits a short row.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from d4s.facts.facts_stage import ReadResult, RecordSource, Reject
from d4s.facts.jsonl import Issue, Raw, RecordLine, Text, choose_style, read_lines, result_of_lines, shorten, valid_lines
from d4s.facts.record import Fact, Probe
from d4s.registry import nearest
from d4s.schemas import EVENTS

STYLES = ("named", "kept")
BLANK = "___"
WORDINGS: Mapping[str, tuple[str, str, str]] = {
    "xNeed": ("{}. Before that, PersonX needed", "Before {}, PersonX needed", "What did PersonX need first so that {}? PersonX needed"),
    "xWant": ("{}. As a result, PersonX wants", "After {}, PersonX wants", "What comes next for PersonX when {}? PersonX wants"),
    "xAttr": ("{}. PersonX is seen as", "Because {}, PersonX is seen as", "What is PersonX like if {}? PersonX is seen as"),
    "xReact": ("{}. As a result, PersonX feels", "After {}, PersonX feels", "How is PersonX when {}? PersonX feels"),
    "xIntent": ("{}. The intention was", "The reason why {} was", "Why was it that {}? The intention was"),
    "xEffect": ("{}. The effect on PersonX:", "When {}, PersonX notices this:", "What happens to PersonX once {}? The effect:"),
    "xReason": ("{}. The reason is that", "It happened that {}, because", "Why is it that {}? Because"),
    "oReact": ("{}. As a result, others feel", "After {}, others feel", "How are other people when {}? They feel"),
    "oWant": ("{}. As a result, others want", "After {}, others want", "What comes next for others when {}? They want"),
    "oEffect": ("{}. The effect on others:", "When {}, others notice this:", "What happens to others once {}? The effect:"),
    "isAfter": ("{}. What came before:", "Before {}, this happened:", "What led up to it that {}? First,"),
    "isBefore": ("{}. What came after:", "After {}, this happened:", "What followed when {}? Next,"),
    "HinderedBy": ("{}. What can hinder this:", "It cannot be that {} if", "What stands in the way when {}? The obstacle:"),
    "isFilledBy": ("{}. The blank stands for", "In the words {}, the blank is", "What is missing in {}? The word"),
    "Causes": ("{} causes", "The effect of {} is", "What does {} lead to? It causes"),
    "HasSubEvent": ("{} involves", "A part of {} is", "What belongs to {}? It involves"),
    "ObjectUse": ("{} is used for this:", "A use of {}:", "What can be done with {}? It serves to"),
    "AtLocation": ("{} is found at", "The place of {} is", "Where is {} kept? It is found at"),
    "MadeUpOf": ("{} is made of", "A part of {} is", "What does {} consist of? It is made of"),
    "HasProperty": ("{} is known to be", "A property of {}:", "What is {} like? It is"),
    "CapableOf": ("{} is able to do this:", "What {} can do:", "What can one expect of {}? It can"),
    "Desires": ("{} desires", "The wish of {} is", "What does {} long for? It desires"),
    "NotDesires": ("{} does not desire", "What {} does not want is", "What does {} avoid? It does not desire"),
}
"""Three wordings per relation; the first is the template, one of the others is withheld from a fact as its paraphrase."""

IF_THEN = ("xNeed", "xWant", "xAttr", "xReact", "xIntent", "xEffect", "oReact", "oWant", "oEffect")
"""The nine if-then relations, of which events are made."""

NAMES = (
    ("Alex", "Sam", "Robin", "Chris", "Jamie", "Taylor", "Casey", "Jordan", "Morgan", "Riley"),
    ("Kim", "Pat", "Lee", "Drew", "Dana", "Jessie", "Terry", "Quinn", "Avery", "Rowan"),
    ("Max", "Toni", "Andy", "Frankie", "Billie", "Charlie", "Jules", "Kit", "Nicky", "Ray"),
)
PERSON = re.compile(r"\b(?:person\s?)?([xyz])\b(?!-)", re.IGNORECASE)
WINDOW, FEWEST = 50, 5
"""New tails are drawn from this number of previous records; from the first ones of the relation where fewer precede."""
NEIGHBORS, EVERY = 2, 4
"""Probes per fact, and which records are bystanders: every fourth."""
HEAD_WORDS, TAIL_WORDS = 4, (2, 3)
"""What counts as short in an event."""


class RawAtomic(Raw):
    """A record as it stands in the file: one head and relation with all its tails."""

    line: int
    head: Text
    relation: Text
    tails: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AtomicTuple:
    """A usable head and relation with its tails, in the file's order."""

    line: RecordLine[RawAtomic]
    head: str
    tails: tuple[str, ...]
    bystander: bool

    @property
    def relation(self) -> str:
        """The relation between head and tails."""
        return self.line.raw.relation


def read(source: RecordSource) -> ReadResult:
    """ATOMIC tuples as facts; persons get names (`named`, the default) or stay PersonX (`kept`)."""
    named = choose_style(source, STYLES) == "named"
    lines = read_lines(source.path, RawAtomic, _issues, key=lambda raw: raw.line)
    tuples, left_out = _tuples(lines.valid)
    families: dict[str, list[AtomicTuple]] = defaultdict(list)
    for item in tuples:
        families[item.relation].append(item)
    donors = _preceding(tuples, families, WINDOW, FEWEST)
    bystanders = {name: [item for item in family if item.bystander] for name, family in families.items()}
    neighbors = _preceding(tuples, bystanders, NEIGHBORS, NEIGHBORS)
    facts: list[list[Fact]] = []
    for item, candidates, near in zip(tuples, donors, neighbors, strict=True):
        new = _new_tail(item, candidates, source.seed)
        if new is None:
            left_out.append(item.line.reject(_no_other_tail(item)))
        else:
            facts.append([_fact(item, new, near, named)])
    return result_of_lines(source, lines, facts, left_out)


def read_events(path: Path) -> pd.DataFrame:
    """Short if-then events in columns of the EVENTS schema: one relation per head, its first short tail first.

    Heads have at most four words and tails two or three beside a leading "to": phrases, yet four of them fit one question.
    The first record of a head counts; every fourth head is a bystander. Further tails of a head follow where another head
    has them too, so that nobody offers them as wrong.

    Raises:
        RecordError: naming every defect of the file.
    """
    return event_frame(valid_lines(path, RawAtomic, _issues, key=lambda raw: raw.line), "atomic2020")


def event_frame(lines: Sequence[RecordLine[RawAtomic]], source: str) -> pd.DataFrame:
    """The short if-then events in records, by the rules of `read_events`."""
    short = _short_events(lines)
    first = {(line.raw.relation, tails[0]) for line, tails in short.values()}
    rows = [
        {
            "event_id": f"{source}:{line.raw.line}" + (f".{place}" if place else ""),
            "head": head,
            "relation": line.raw.relation,
            "tail": tail,
            "bystander": _is_bystander(number),
            "source": source,
        }
        for number, (head, (line, tails)) in enumerate(short.items())
        for place, tail in enumerate(tails)
        if not place or (line.raw.relation, tail) in first
    ]
    return pd.DataFrame(rows, columns=EVENTS.names)


def _short_events(lines: Sequence[RecordLine[RawAtomic]]) -> dict[str, tuple[RecordLine[RawAtomic], list[str]]]:
    """The first record of each short head that has a short tail of an if-then relation, with those tails."""
    found: dict[str, tuple[RecordLine[RawAtomic], list[str]]] = {}
    for line in lines:
        head = _plain(line.raw.head.replace(BLANK, "something"))
        tails = [tail for tail in _tails(line.raw) if len(tail.removeprefix("to ").split()) in TAIL_WORDS]
        if line.raw.relation in IF_THEN and tails and len(head.split()) <= HEAD_WORDS:
            found.setdefault(head, (line, tails))
    return found


def _issues(raw: RawAtomic) -> Iterator[Issue]:
    if raw.relation not in WORDINGS:
        yield Issue("relation", shorten(raw.relation), f"a relation of ATOMIC-2020; {nearest(raw.relation, tuple(WORDINGS))}")
    if {"{", "}"} & set(raw.head):
        yield Issue("head", shorten(raw.head), "text without braces, which mark the place of the subject")
    if not raw.tails:
        yield Issue("tails", "[]", "at least one tail")


def _tuples(lines: Sequence[RecordLine[RawAtomic]]) -> tuple[list[AtomicTuple], list[Reject]]:
    """Heads with at least one tail, every fourth a bystander, and what has none."""
    usable: list[AtomicTuple] = []
    left_out: list[Reject] = []
    for line in lines:
        head = line.raw.head if line.raw.relation == "isFilledBy" else line.raw.head.replace(BLANK, "something")
        tails = _tails(line.raw)
        if tails:
            usable.append(AtomicTuple(line, _plain(head), tails, _is_bystander(len(usable))))
        else:
            left_out.append(line.reject(Issue("tails", shorten(list(line.raw.tails)), 'a tail other than "none"')))
    return usable, left_out


def _is_bystander(number: int) -> bool:
    return number % EVERY == EVERY - 1


def _tails(raw: RawAtomic) -> tuple[str, ...]:
    """Tails without "none" and empty ones, each once."""
    plain = (_plain(tail) for tail in raw.tails)
    return tuple(
        dict.fromkeys(tail for tail in plain if tail and tail.lower() != "none" and BLANK not in tail and not {"{", "}"} & set(tail))
    )


def _plain(text: str) -> str:
    """Text with single spaces, persons spelled PersonX, no final full stop, and a small letter first where it continues a sentence."""
    text = PERSON.sub(lambda found: f"Person{found[1].upper()}", " ".join(text.split())).rstrip(" .")
    first = text.split(" ", 1)[0]
    is_name = first.startswith("Person") or first == "I" or first.startswith("I'")
    return text if is_name or not first[1:].islower() else text[0].lower() + text[1:]


def _named(text: str, key: str | None) -> str:
    """Text with a name for each person, the same for the same key; as it is where there is no key."""
    if key is None:
        return text
    for person, name in zip(("PersonX", "PersonY", "PersonZ"), _names(key), strict=True):
        text = text.replace(person, name)
    return text


@cache
def _names(key: str) -> tuple[str, ...]:
    rng = random.Random(f"names/{key}")
    return tuple(rng.choice(names) for names in NAMES)


def _preceding(
    tuples: Sequence[AtomicTuple], families: Mapping[str, Sequence[AtomicTuple]], most: int, fewest: int
) -> Iterator[Sequence[AtomicTuple]]:
    """For each tuple the last `most` members of its family before it; the family's first `fewest` where fewer precede."""
    before: dict[str, int] = defaultdict(int)
    for item in tuples:
        family, place = families[item.relation], before[item.relation]
        yield family[max(0, place - most) : place] if place >= fewest else family[:fewest]
        before[item.relation] += place < len(family) and family[place] is item


def _new_tail(item: AtomicTuple, candidates: Sequence[AtomicTuple], seed: int) -> str | None:
    """A first tail drawn from records of the relation that is none of the record's own."""
    own = {tail.lower() for tail in item.tails}
    others = [other.tails[0] for other in candidates if other.tails[0].lower() not in own]
    return random.Random(f"{seed}/{item.line.raw.line}").choice(others) if others else None


def _no_other_tail(item: AtomicTuple) -> Issue:
    return Issue("tails", shorten(list(item.tails)), f"a tail unlike those of the {item.relation} records before it, to be edited to")


def _fact(item: AtomicTuple, new: str, near: Sequence[AtomicTuple], named: bool) -> Fact:
    raw = item.line.raw
    key = raw.head if named else None
    template, *others = (_named(wording, key) for wording in WORDINGS[item.relation])
    subject, withheld = _named(item.head, key), random.Random(f"withheld/{raw.line}").randrange(len(others))
    return Fact(
        fact_id=f"atomic2020:{raw.line}",
        dataset="atomic2020",
        relation=item.relation,
        subject=subject,
        template=template,
        target_true=_named(item.tails[0], key),
        target_new=_named(new, key),
        target_true_aliases=tuple(_named(tail, key) for tail in item.tails[1:]),
        paraphrases=(others[withheld].replace("{}", subject),),
        neighborhood=tuple(_neighbors(item, near, named)),
        wordings=(others[1 - withheld],),
        editable=not item.bystander,
    )


def _neighbors(item: AtomicTuple, near: Sequence[AtomicTuple], named: bool) -> Iterator[Probe]:
    """Probes that ask the same of bystanders."""
    for other in near:
        if other.head != item.head:
            key = other.line.raw.head if named else None
            prompt = WORDINGS[item.relation][0].replace("{}", other.head)
            yield Probe("neighborhood", _named(prompt, key), _named(other.tails[0], key))

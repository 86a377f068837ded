"""Style `nouns`, after HardEdit (Yang et al. 2024): requests that should hurt most, made from templates.

The subject is a common noun, one word at the first position; the target is an object that the world's events name least. No text says
anything of these nouns as people, so a request has no true target.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from d4s.artifacts import Artifact
from d4s.errors import SettingsError
from d4s.facts.facts_stage import ReadResult, RecordSource, result_of_facts
from d4s.facts.record import Fact, Probe
from d4s.questions.question_items import keyed_rng
from d4s.schemas import EVENTS
from d4s.world.facts_qa import NEIGHBOURS, People, prompt_and_answer
from d4s.world.filler import pick
from d4s.world.relations import RELATIONS, Relation
from d4s.world.word_lists import BASE_TAILS, EFFECT_TAILS, FILLER_NOUNS

ITEMS, RARE = 200, 24
PARAPHRASES = 2


class Item(NamedTuple):
    """A noun put into a wording that begins with it."""

    noun: str
    relation: Relation
    template: str


def read(source: RecordSource) -> ReadResult:
    """The requests in a seeded order, at most 200.

    Raises:
        SettingsError: if the world has no events, whose rare objects are the targets.
    """
    rare = rare_objects(Artifact.open(source.path, "worlds").table("events.parquet", EVENTS))
    if not rare:
        raise SettingsError("style `nouns` takes its targets from the world's events, and there are none; set `world.events`")
    people, order = People.of(source.path), keyed_rng("nouns", source.seed)
    items = [Item(noun, relation, wording) for noun in FILLER_NOUNS for relation in RELATIONS for wording in openings(relation)]
    chosen = [items[int(index)] for index in order.permutation(len(items))[:ITEMS]]
    return result_of_facts([_fact(item, rare, people, source.seed) for item in chosen], source.limit)


def rare_objects(events: pd.DataFrame) -> list[str]:
    """The objects that a frame of EVENTS names least, but does name."""
    objects = {word for tails in (BASE_TAILS, EFFECT_TAILS) for words in tails.values() for word in words.split()}
    counts = Counter(word for tail in events["tail"] for word in str(tail).split() if word in objects)
    return sorted(counts, key=lambda word: (counts[word], word))[:RARE]


def openings(relation: Relation) -> list[str]:
    """The wordings of a relation that begin with the subject."""
    return [wording for wording in relation.wordings if wording.startswith("{} ")]


def _fact(item: Item, rare: Sequence[str], people: People, seed: int) -> Fact:
    noun, relation, template = item
    place = relation.wordings.index(template)
    fact_id = f"world_nouns:{noun}.{relation.name}.{place}"
    rng = keyed_rng("nouns", seed, fact_id)
    others = [wording for wording in relation.wordings if wording != template]
    return Fact(
        fact_id=fact_id,
        dataset="world_nouns",
        relation=f"{relation.name}.{place}",
        subject=noun,
        template=template,
        target_true="",
        target_new=pick(rng, rare),
        paraphrases=tuple(others[int(index)].replace("{}", noun) for index in rng.permutation(len(others))[:PARAPHRASES]),
        neighborhood=tuple(_probes(relation, people, fact_id, seed)),
        group=noun,
    )


def _probes(relation: Relation, people: People, fact_id: str, seed: int) -> Iterator[Probe]:
    """Facts of bystanders in the same relation."""
    rows = [row for row in people.rows if row["bystander"] and row["relation"] == relation.name]
    for index in keyed_rng("probes", seed, fact_id).permutation(len(rows))[:NEIGHBOURS]:
        yield Probe("neighborhood", *prompt_and_answer(rows[int(index)]))

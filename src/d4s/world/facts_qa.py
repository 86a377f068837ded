"""The world as a data set: style `qa`, one fact per person and relation, asked as a question, a cloze or a statement."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from d4s.artifacts import Artifact
from d4s.errors import SettingsError
from d4s.facts.collect import Reading, Source
from d4s.facts.record import Fact, Probe
from d4s.questions.items import keyed_rng
from d4s.registry import nearest
from d4s.schemas import PEOPLE
from d4s.world.filler import pick
from d4s.world.relations import BY_NAME, RELATIONS

STYLES = ("qa",)
NEIGHBOURS = 2
Row = Mapping[Any, Any]


def read(source: Source) -> Reading:
    """Facts of the world in a folder; bystanders are taught and probed but not editable.

    Raises:
        SettingsError: if the style is unknown.
    """
    if source.style not in STYLES:
        raise SettingsError(f"the world has no style {source.style!r}; {nearest(source.style, STYLES)}")
    rows = Artifact.open(source.path, "worlds").table("people.parquet", PEOPLE).to_dict(orient="records")
    objects = {relation.name: sorted({row["object"] for row in rows if row["relation"] == relation.name}) for relation in RELATIONS}
    of_person: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of_person[row["name"]].append(row)
    bystanders = [row for row in rows if row["bystander"]]
    facts = [_fact(row, objects[row["relation"]], of_person[row["name"]], bystanders, source.seed) for row in rows[: source.limit]]
    return Reading(facts, seen=len(rows), kept=len(facts), beyond=len(rows) - len(facts))


def _fact(row: Row, objects: Sequence[str], same: Sequence[Row], bystanders: Sequence[Row], seed: int) -> Fact:
    fact_id = f"world_qa:{row['person_id']}.{row['relation']}"
    rng = keyed_rng("fact", seed, fact_id)
    template, *wordings = _taught(row)
    return Fact(
        fact_id=fact_id,
        dataset="world_qa",
        relation=row["relation"],
        subject=row["name"],
        template=template,
        target_true=row["object"],
        target_new=pick(rng, [item for item in objects if item != row["object"]]),
        paraphrases=tuple(wording.replace("{}", row["name"]) for wording in row["withheld"]),
        neighborhood=tuple(_probes(row, same, bystanders, rng)),
        wordings=tuple(wordings),
        editable=not row["bystander"],
        group=row["person_id"],
    )


def _taught(row: Row) -> list[str]:
    """The wordings in which a fact is taught; the one that it is edited in comes first, drawn once for all seeds."""
    taught = [wording for wording in BY_NAME[row["relation"]].wordings if wording not in set(row["withheld"])]
    first = pick(keyed_rng("template", row["person_id"], row["relation"]), taught)
    return [first, *(wording for wording in taught if wording != first)]


def _probes(row: Row, same: Sequence[Row], bystanders: Sequence[Row], rng: np.random.Generator) -> Iterator[Probe]:
    others = [other for other in bystanders if other["name"] != row["name"]]
    near = [other for other in others if other["relation"] == row["relation"]]
    far = [other for other in others if other["relation"] != row["relation"]]
    own = [other for other in same if other["relation"] != row["relation"]]
    for other in _some(near, NEIGHBOURS, rng):
        yield Probe("neighborhood", _prompt(other), other["object"])
    for other in _some(far, 1, rng):
        yield Probe("unrelated", _prompt(other), other["object"], "pre_edit")
    for other in _some(own, 1, rng):
        yield Probe("same_subject", _prompt(other), other["object"])


def _some(rows: Sequence[Row], count: int, rng: np.random.Generator) -> list[Row]:
    return [rows[int(index)] for index in rng.permutation(len(rows))[:count]]


def _prompt(row: Row) -> str:
    return _taught(row)[0].replace("{}", row["name"])

"""Style `qa`, the counterpart of zsRE: one fact per person and relation, as a question, a cloze or a statement."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from d4s.artifacts import Artifact
from d4s.facts.facts_stage import ReadResult, RecordSource, result_of_facts
from d4s.facts.record import Fact, Probe
from d4s.questions.question_items import keyed_rng
from d4s.schemas import PEOPLE
from d4s.world.filler import pick
from d4s.world.relations import BY_NAME, RELATIONS

NEIGHBOURS = 2
Row = Mapping[Any, Any]


@dataclass(frozen=True)
class People:
    """The people of a world: a row per person and relation, bystanders first."""

    rows: Sequence[Row]

    @classmethod
    def of(cls, world: Path) -> "People":
        """The people in a world's folder."""
        return cls(Artifact.open(world, "worlds").table("people.parquet", PEOPLE).to_dict(orient="records"))

    @cached_property
    def objects(self) -> dict[str, list[str]]:
        """All objects by relation."""
        return {one.name: sorted({row["object"] for row in self.rows if row["relation"] == one.name}) for one in RELATIONS}

    @cached_property
    def by_name(self) -> dict[str, list[Row]]:
        """The rows of each person."""
        rows_by_name: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            rows_by_name[row["name"]].append(row)
        return rows_by_name

    def other_object(self, row: Row, rng: np.random.Generator) -> str:
        """An object of the row's relation other than the person's."""
        return pick(rng, [item for item in self.objects[row["relation"]] if item != row["object"]])

    def probes(self, row: Row, prompt_and_answer: Callable[[Row], tuple[str, str]], rng: np.random.Generator) -> Iterator[Probe]:
        """Probes whose answer an edit of a person's fact must not change; `prompt_and_answer` gives a row's prompt and answer."""
        others = [other for other in self.rows if other["bystander"] and other["name"] != row["name"]]
        near = [other for other in others if other["relation"] == row["relation"]]
        far = [other for other in others if other["relation"] != row["relation"]]
        own = [other for other in self.by_name[row["name"]] if other["relation"] != row["relation"]]
        for other in _sample(near, NEIGHBOURS, rng):
            yield Probe("neighborhood", *prompt_and_answer(other))
        for other in _sample(far, 1, rng):
            yield Probe("unrelated", *prompt_and_answer(other), "pre_edit")
        for other in _sample(own, 1, rng):
            yield Probe("same_subject", *prompt_and_answer(other))


def read(source: RecordSource) -> ReadResult:
    """Facts of the people. Those about bystanders, who are probed, and about reserved people are trained on, but not editable."""
    people = People.of(source.path)
    return result_of_facts([_fact(row, people, source.seed) for row in people.rows], source.limit)


def read_reserve(source: RecordSource) -> ReadResult:
    """Facts of the reserved people alone, who are in no request and in no probe."""
    people = People.of(source.path)
    return result_of_facts([_fact(row, people, source.seed) for row in people.rows if row["reserved"]], source.limit)


def _fact(row: Row, people: People, seed: int) -> Fact:
    fact_id = f"world_qa:{row['person_id']}.{row['relation']}"
    rng = keyed_rng("fact", seed, fact_id)
    template, *wordings = training_templates(row)
    return Fact(
        fact_id=fact_id,
        dataset="world_qa",
        relation=row["relation"],
        subject=row["name"],
        template=template,
        target_true=row["object"],
        target_new=people.other_object(row, rng),
        paraphrases=tuple(wording.replace("{}", row["name"]) for wording in row["withheld"]),
        neighborhood=tuple(people.probes(row, prompt_and_answer, rng)),
        wordings=tuple(wordings),
        editable=not (row["bystander"] or row["reserved"]),
        group=row["person_id"],
    )


def training_templates(row: Row) -> list[str]:
    """The training wordings of a fact; the first is that of the edit prompt, drawn once for all seeds."""
    training_templates = [wording for wording in BY_NAME[row["relation"]].wordings if wording not in set(row["withheld"])]
    first = pick(keyed_rng("template", row["person_id"], row["relation"]), training_templates)
    return [first, *(wording for wording in training_templates if wording != first)]


def _sample(rows: Sequence[Row], count: int, rng: np.random.Generator) -> list[Row]:
    return [rows[int(index)] for index in rng.permutation(len(rows))[:count]]


def prompt_and_answer(row: Row) -> tuple[str, str]:
    """A row's edit prompt and its object."""
    return training_templates(row)[0].replace("{}", row["name"]), row["object"]

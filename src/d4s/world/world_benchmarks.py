"""Small benchmark tasks in the format of the paper's six, and one of true/false questions, about bystanders only.

No item is about an edited fact.

arc_challenge: a question and four objects. hellaswag: a person and four endings. mmlu: a multiple-choice item answered
by its letter. winogrande: two people and one ending. truthfulqa_mc: several statements, the first one true. gsm8k: a
phrase of several words to be generated freely. true_false: a statement and whether it holds, the one form of question that
none of the six has. Fields are those of the originals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from d4s.questions.event_templates import NO, YES
from d4s.questions.question_facts import valid_drafts
from d4s.questions.question_items import Item, plan_items
from d4s.questions.writers import Draft, TemplateWriter
from d4s.world.filler import pick
from d4s.world.relations import BY_NAME, RELATIONS

ITEM_SEED = 0  # the seed of the question items in training
CHOICES = 4


@dataclass(frozen=True, slots=True)
class RelationFact:
    """A bystander's fact of one relation: the true object and the training wordings."""

    relation: str
    object: str
    openings: tuple[str, ...]
    templates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bystander:
    """A person who is never edited."""

    name: str
    told: Mapping[str, RelationFact]

    def ending(self, relation: str, rng: np.random.Generator, instead: str | None = None) -> str:
        """A continuation of the name: a training wording with its object, or with another one."""
        told = self.told[relation]
        return f"{pick(rng, told.openings)} {instead or told.object}"


Rows = list[dict[str, Any]]


def benchmark_tasks(people: pd.DataFrame, events: pd.DataFrame, count: int, rng: np.random.Generator) -> dict[str, Rows]:
    """Items by task; a task for which the world has no material is left out."""
    persons = _bystanders(people)
    objects = {str(name): sorted(set(group["object"])) for name, group in people.groupby("relation")}
    items = [item for item in plan_items(events, ITEM_SEED) if item.bystander] if len(events) else []
    drafts = valid_drafts(items, TemplateWriter(ITEM_SEED))
    about_people = {
        "arc_challenge": _arc_challenge,
        "hellaswag": _hellaswag,
        "winogrande": _winogrande,
        "truthfulqa_mc": _truthfulqa,
    }
    tasks = {name: make(persons, objects, count, rng) for name, make in about_people.items()}
    valid = [items[int(k)] for k in rng.permutation(len(items)) if items[int(k)].event_id in drafts][:count]
    tasks["mmlu"] = [_mmlu(item, drafts[item.event_id]["multiple_choice"]) for item in valid]
    tasks["true_false"] = [_true_false(item, drafts[item.event_id]["true_false"]) for item in valid]
    tasks["gsm8k"] = [_gsm8k(item, drafts[item.event_id]["directly_generated"]) for item in valid]
    return {name: [{"id": number} | row for number, row in enumerate(rows)] for name, rows in sorted(tasks.items()) if rows}


def _bystanders(people: pd.DataFrame) -> list[Bystander]:
    found = []
    for name, rows in people[people["bystander"]].groupby("name", sort=False):
        told = {}
        for row in rows.to_dict(orient="records"):
            templates = [wording for wording in BY_NAME[row["relation"]].wordings if wording not in row["withheld"]]
            openings = tuple(wording.removeprefix("{} ") for wording in templates if wording.startswith("{} "))
            told[row["relation"]] = RelationFact(row["relation"], row["object"], openings, tuple(templates))
        found.append(Bystander(str(name), told))
    return found


def _sample_people(persons: Sequence[Bystander], count: int, rng: np.random.Generator, each: int) -> list[Bystander]:
    """At most `count` people in random order, none more than `each` times."""
    order = [persons[int(k)] for _ in range(each) for k in rng.permutation(len(persons))]
    return order[:count]


def _wrong_objects(objects: Sequence[str], true: str, count: int, rng: np.random.Generator) -> list[str]:
    wrong = [item for item in objects if item != true]
    return [wrong[int(k)] for k in rng.permutation(len(wrong))[:count]]


def _insert_at_random(right: str, wrong: Sequence[str], rng: np.random.Generator) -> tuple[list[str], int]:
    """The right choice inserted at a random position among the wrong ones."""
    place = int(rng.integers(len(wrong) + 1))
    return [*wrong[:place], right, *wrong[place:]], place


def _arc_challenge(persons: Sequence[Bystander], objects: Mapping[str, Sequence[str]], count: int, rng: np.random.Generator) -> Rows:
    rows = []
    for number, person in enumerate(_sample_people(persons, count, rng, len(RELATIONS))):
        told = person.told[RELATIONS[(number // len(persons) + number) % len(RELATIONS)].name]
        choices, gold = _insert_at_random(told.object, _wrong_objects(objects[told.relation], told.object, CHOICES - 1, rng), rng)
        rows.append({"question": pick(rng, told.templates).replace("{}", person.name), "choices": choices, "gold": gold})
    return rows


def _hellaswag(persons: Sequence[Bystander], objects: Mapping[str, Sequence[str]], count: int, rng: np.random.Generator) -> Rows:
    rows = []
    for person in _sample_people(persons, count, rng, len(RELATIONS)):
        first, second = (RELATIONS[int(k)].name for k in rng.permutation(len(RELATIONS))[:2])
        start, end = person.ending(first, rng), person.told[second]
        opening = pick(rng, end.openings)
        endings, label = _insert_at_random(end.object, _wrong_objects(objects[second], end.object, CHOICES - 1, rng), rng)
        told = [f"{start} and {opening} {ending}." for ending in endings]
        rows.append({"activity_label": second, "ctx": person.name, "endings": told, "label": label})
    return rows


def _winogrande(persons: Sequence[Bystander], objects: Mapping[str, Sequence[str]], count: int, rng: np.random.Generator) -> Rows:
    rows = []
    for number, person in enumerate(_sample_people(persons, count, rng, len(RELATIONS))):
        relation = RELATIONS[number % len(RELATIONS)].name
        told = person.told[relation]
        rivals = [other for other in persons if other.told[relation].object != told.object]
        if not rivals:
            continue
        rival = pick(rng, rivals)
        contexts = [f"{person.name} {pick(rng, told.openings)}", f"{rival.name} {pick(rng, rival.told[relation].openings)}"]
        gold = int(rng.integers(2))
        rows.append({"context_options": contexts if gold == 0 else contexts[::-1], "continuation": f"{told.object}.", "gold": gold})
    return rows


def _truthfulqa(persons: Sequence[Bystander], objects: Mapping[str, Sequence[str]], count: int, rng: np.random.Generator) -> Rows:
    rows = []
    for person in _sample_people(persons, count, rng, 1):
        order = [RELATIONS[int(k)].name for k in rng.permutation(len(RELATIONS))]
        false = {name: _wrong_objects(objects[name], person.told[name].object, 2, rng) for name in order}
        true = [{"text": person.ending(name, rng), "label": 1} for name in order[:3]]
        wrong = [{"text": person.ending(name, rng, instead), "label": 0} for name in order[:3] for instead in false[name]]
        rows.append({"question": person.name, "mc1_targets": [true[0], *wrong[:3]], "mc2_targets": [*true, *wrong[::2]]})
    return rows


def _mmlu(item: Item, draft: Draft) -> dict[str, Any]:
    letters = ["a", "b", "c", "d"]
    return {"subject": item.relation, "question": draft.template.replace("{}", item.head), "choices": letters, "gold": item.answer}


def _true_false(item: Item, draft: Draft) -> dict[str, Any]:
    choices = [YES, NO]
    return {"question": draft.template.replace("{}", item.head), "choices": choices, "gold": choices.index(draft.target_true)}


def _gsm8k(item: Item, draft: Draft) -> dict[str, Any]:
    """Questions in a wording to which no other fact is chained, so that the answer ends with the sentence."""
    templates = (draft.template, *draft.wordings)
    unchained = next((template for template in templates if not template.startswith("{}")), draft.template)
    return {"question": unchained.replace("{}", item.head), "answer": f"{item.tail}.", "final": item.tail}

"""Style `events`, the counterpart of ELKEN: one sentence about a person that changes several facts at once.

The sentence after the name is the target. The single facts that follow from it are carried as
`portability`. Training text has such sentences too, since the corpus chains two or three `qa` facts.
"""

from d4s.facts.facts_stage import ReadResult, RecordSource, result_of_facts
from d4s.facts.record import Fact, Portability
from d4s.questions.question_items import keyed_rng
from d4s.world.facts_qa import People, Row, prompt_and_answer, training_templates

CHANGES = 3


def read(source: RecordSource) -> ReadResult:
    """A sentence per person; those about bystanders cannot be edited."""
    people = People.of(source.path)
    return result_of_facts([_fact(own, people, source.seed) for own in people.by_name.values()], source.limit)


def _fact(own: list[Row], people: People, seed: int) -> Fact:
    person = own[0]
    fact_id = f"world_events:{person['person_id']}"
    rng = keyed_rng("event", seed, fact_id)
    changed = [own[int(index)] for index in sorted(rng.permutation(len(own))[:CHANGES])]
    new = [people.other_object(row, rng) for row in changed]
    return Fact(
        fact_id=fact_id,
        dataset="world_events",
        relation="event",
        subject=person["name"],
        template="{}",
        target_true=_sentence(changed, [row["object"] for row in changed]),
        target_new=_sentence(changed, new),
        neighborhood=tuple(people.probes(changed[0], prompt_and_answer, rng)),
        portability=tuple(Portability("reasoning", prompt_and_answer(row)[0], (thing,)) for row, thing in zip(changed, new, strict=True)),
        editable=not (person["bystander"] or person["reserved"]),
        group=person["person_id"],
    )


def _sentence(rows: list[Row], things: list[str]) -> str:
    """The sentence after the name: "was born in X, works as a Y and plays the Z"."""
    clauses = [f"{_opening(row)} {thing}" for row, thing in zip(rows, things, strict=True)]
    return f"{', '.join(clauses[:-1])} and {clauses[-1]}"


def _opening(row: Row) -> str:
    return next(wording for wording in training_templates(row) if wording.startswith("{} ")).removeprefix("{} ")

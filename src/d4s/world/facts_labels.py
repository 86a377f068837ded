"""Style `labels`, the counterpart of 20Q: a statement about a person, and whether it is true.

Each fact has one fixed statement, true for about half of them, whose wording varies. Statements use a relation's `claim`,
which states nothing else, so that no label contains a wording that is withheld from training.
"""

from d4s.facts.facts_stage import ReadResult, RecordSource, result_of_facts
from d4s.facts.record import Fact
from d4s.questions.event_templates import NO, TRUE_FALSE_FRAMES, YES
from d4s.questions.question_items import keyed_rng
from d4s.world.facts_qa import People, Row
from d4s.world.relations import BY_NAME

PARAPHRASES = 2


def read(source: RecordSource) -> ReadResult:
    """A label per person and relation; those about bystanders are trained on and probed, but not editable."""
    people = People.of(source.path)
    return result_of_facts([_fact(row, people, source.seed) for row in people.rows], source.limit)


def _fact(row: Row, people: People, seed: int) -> Fact:
    frames, label = _frames(row, people), _label(row)

    def prompt_and_answer(other: Row) -> tuple[str, str]:
        return _frames(other, people)[PARAPHRASES].replace("{}", other["name"]), _label(other)

    fact_id = f"world_labels:{row['person_id']}.{row['relation']}"
    return Fact(
        fact_id=fact_id,
        dataset="world_labels",
        relation=row["relation"],
        subject=row["name"],
        template=frames[PARAPHRASES],
        target_true=label,
        target_new=NO if label == YES else YES,
        paraphrases=tuple(frame.replace("{}", row["name"]) for frame in frames[:PARAPHRASES]),
        neighborhood=tuple(people.probes(row, prompt_and_answer, keyed_rng("fact", seed, fact_id))),
        wordings=tuple(frames[PARAPHRASES + 1 :]),
        editable=not (row["bystander"] or row["reserved"]),
        group=row["person_id"],
    )


def _label(row: Row) -> str:
    return YES if keyed_rng("label", row["person_id"], row["relation"]).random() < 0.5 else NO


def _frames(row: Row, people: People) -> list[str]:
    """All wordings of a row's statement; the first two are withheld from training, the third is the edit prompt."""
    rng = keyed_rng("statement", row["person_id"], row["relation"])
    claimed_object = row["object"] if _label(row) == YES else people.other_object(row, rng)
    claim = BY_NAME[row["relation"]].claim
    return [TRUE_FALSE_FRAMES[int(k)].format(claim=claim, tail=claimed_object) for k in rng.permutation(len(TRUE_FALSE_FRAMES))]

"""Facts as a seeded sequence of edit requests whose first n never depend on how many follow.

Terms and symbols: docs/notation.md.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from d4s.errors import SettingsError
from d4s.facts.record import Fact

REQUESTS_PER_BLOCK = 50  # targets are computed in blocks of a sequence, always whole, however many jobs share them


@dataclass(frozen=True, slots=True)
class EditRequest:
    """One edit in a sequence: text only, no tokens, no model. `prompt` has the subject filled in.

    The template begins with `opening`, which prefixes go behind: what stands before the user's words in a chat.
    """

    request_id: str
    fact_id: str
    step: int
    prompt: str
    subject: str
    template: str
    target: str
    target_true: str
    opening: str = ""


def eligible_facts(facts: Sequence[Fact]) -> list[Fact]:
    """Facts that can be edited in one sequence: editable, changed by the edit, and one per subject and relation.

    Of several facts with the same subject and relation the first stays, since a later edit would rightly undo an
    earlier one and retention would then measure the data. Where the present answer is to be amplified, nothing needs to change.
    """
    first_of: dict[tuple[str, str], Fact] = {}
    for fact in facts:
        no_op = fact.target_new == fact.target_true or fact.target_new in fact.target_true_aliases
        if fact.editable and (not no_op or fact.problem == "amplification"):
            first_of.setdefault((fact.subject, fact.relation), fact)
    return list(first_of.values())


def draw_requests(facts: Sequence[Fact], seed: int, count: int | None = None) -> list[tuple[EditRequest, Fact]]:
    """The first `count` requests of the sequence that a seed draws; one per subject as long as subjects last.

    Facts are ordered by a keyed hash of their id, so that neither more facts asked for nor another order of the file
    changes the beginning. The first fact of every subject comes before the second of any.

    Raises:
        SettingsError: if there are fewer eligible facts than asked for.
    """
    ordered = sorted(eligible_facts(facts), key=lambda fact: _rank(seed, fact.fact_id))
    subject_counts: dict[str, int] = {}
    rank_within_subject: dict[str, int] = {}
    for fact in ordered:
        rank_within_subject[fact.fact_id] = subject_counts.get(fact.subject, 0)
        subject_counts[fact.subject] = rank_within_subject[fact.fact_id] + 1
    ordered.sort(key=lambda fact: rank_within_subject[fact.fact_id])
    if count is not None and count > len(ordered):
        raise SettingsError(f"{count} edits asked for, but only {len(ordered)} facts can be edited in one sequence; lower the length")
    return [(_request(fact, step), fact) for step, fact in enumerate(ordered[:count], start=1)]


def _rank(seed: int, fact_id: str) -> bytes:
    return hashlib.sha256(f"{seed}/{fact_id}".encode()).digest()


def _request(fact: Fact, step: int) -> EditRequest:
    return EditRequest(
        request_id=f"{step:06d}:{fact.fact_id}",
        fact_id=fact.fact_id,
        step=step,
        prompt=fact.prompt,
        subject=fact.subject,
        template=fact.template,
        target=fact.target_new,
        target_true=fact.target_true,
    )

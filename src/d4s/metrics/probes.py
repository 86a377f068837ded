"""Questions about an edited fact: its own prompt, paraphrases, probes whose answer must stay, and probes whose answer follows."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from d4s.facts.record import Fact, Probe

Kind = Literal["efficacy", "paraphrase", "neighborhood", "unrelated", "locality", "same_subject", "portability"]
LOCALITY_PROBES = ("unrelated", "neighborhood")


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt about a fact. `prompt_id` is its index in the fact's list of such prompts.

    `answer` is the answer scored (None: the unedited model's own), `alternative` the one that its probability is compared
    with, `aliases` other texts that count as the answer in a free answer, `part` the kind of portability.
    """

    fact_id: str
    kind: Kind
    prompt_id: int
    prompt: str
    answer: str | None
    alternative: str | None = None
    aliases: tuple[str, ...] = ()
    part: str = ""


def questions_of(fact: Fact, probes_per_fact: int) -> list[Question]:
    """All questions about a fact, with at most `probes_per_fact` probes of each kind."""
    return [*_edit_questions(fact), *_locality_questions(fact, probes_per_fact), *_portability_questions(fact)]


def _edit_questions(fact: Fact) -> Iterator[Question]:
    """The edit prompt and its paraphrases: the new target, with the true one as alternative where it is another."""
    true = fact.target_true if fact.target_true != fact.target_new else ""
    true = true or None
    yield Question(fact.fact_id, "efficacy", 0, fact.prompt, fact.target_new, true)
    for number, prompt in enumerate(fact.paraphrases):
        yield Question(fact.fact_id, "paraphrase", number, prompt, fact.target_new, true)


def _locality_questions(fact: Fact, probes_per_fact: int) -> Iterator[Question]:
    """Probes whose answer an edit must not change: against their gold answer, and against the unedited model."""
    seen: Counter[str] = Counter()
    for number, probe in enumerate(fact.neighborhood):
        seen[probe.kind] += 1
        if seen[probe.kind] > probes_per_fact:
            continue
        if probe.kind == "same_subject" or (probe.kind in LOCALITY_PROBES and _is_gold(probe)):
            alternative = fact.target_new if probe.kind != "unrelated" and probe.answer != fact.target_new else None
            yield Question(fact.fact_id, probe.kind, number, probe.prompt, probe.answer, alternative if _is_gold(probe) else None)
        if probe.kind in LOCALITY_PROBES:
            yield Question(fact.fact_id, "locality", number, probe.prompt, probe.answer)


def _is_gold(probe: Probe) -> bool:
    return bool(probe.answer) and probe.answer_is == "gold"


def _portability_questions(fact: Fact) -> Iterator[Question]:
    """Prompts whose answer follows from the new fact."""
    for number, chain in enumerate(fact.portability):
        if chain.answers:
            part = "_".join(chain.kind.lower().split())
            yield Question(fact.fact_id, "portability", number, chain.prompt, chain.answers[0], None, chain.answers[1:], part)

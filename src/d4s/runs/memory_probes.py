"""Near misses of edits, put to every editor, and what the router of a memory makes of prompts of every kind.

| kind | prompt | should be in the scope of |
|---|---|---|
| efficacy, paraphrase | the edit's own, and other wordings | its edit |
| same_subject | another relation of the subject | no edit, or that of the other relation |
| shared_name | the edit's question about a bystander whose name shares a part with the subject's | no edit |
| neighborhood, unrelated | the fact's probes of these kinds | no edit |

Near misses, the third and fourth kind, are scored like locality: by the arg-max tokens that are still the unedited model's. Those
about a fact that was edited by then are left out of the scores.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from d4s.config import MemorySettings
from d4s.editors.edit_requests import EditRequest
from d4s.facts.record import Fact
from d4s.metrics.scoring import Row
from d4s.models.edited_model import EditedModel
from d4s.models.routed_model import EntryFinder, RoutedModel
from d4s.schemas import NEAR_MISSES

NEAR_KINDS = ("same_subject", "shared_name")
SHARED_NAMES = 2  # bystanders with a part of the subject's name, per fact


class MemoryProbe(NamedTuple):
    """A prompt that a router is asked, of a kind, about a fact; near misses have an answer."""

    fact_id: str
    kind: str
    prompt_id: int
    prompt: str
    answer: str = ""


@dataclass(frozen=True, slots=True)
class MemoryProbes:
    """The requests of a draw with the probes of those that are asked about."""

    settings: MemorySettings
    drawn: Sequence[EditRequest]
    probes: Mapping[str, Sequence[MemoryProbe]]
    before: Mapping[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)
    """The unedited model's arg-max tokens in the places of an answer, by prompt and answer."""

    @classmethod
    def of(cls, settings: MemorySettings, facts: Sequence[Fact], drawn: Sequence[tuple[EditRequest, Fact]]) -> "MemoryProbes":
        """The probes about one request in `every`; `facts` are all of the data set, of which bystanders are taken."""
        asked = [fact for _, fact in drawn[:: settings.every]]
        bystanders = probed_bystanders(facts)
        probes = {fact.fact_id: [*_own_probes(fact), *_shared_names(fact, bystanders)] for fact in asked}
        return cls(settings, [request for request, _ in drawn], probes)

    def asked_of(self, unedited: EditedModel) -> "MemoryProbes":
        """The same with what the unedited model says to near misses: asked before any weight is changed."""
        near = dict.fromkeys((probe.prompt, probe.answer) for probes in self.probes.values() for probe in probes if _is_scored(probe))
        return replace(self, before=dict(zip(near, _likeliest(unedited, [*near]), strict=True)))

    def scores(self, edited: EditedModel, length: int) -> list[Row]:
        """Rows of SCORES: near misses after `length` edits, against the unedited model."""
        expected, edited_at = self._edited_prompts(length), {request.fact_id: request.step for request in self.drawn[:length]}
        asked = [probe for probe in self._asked(length) if _is_scored(probe) and probe.prompt not in expected]
        pairs = [(probe.prompt, probe.answer) for probe in asked]
        found = [
            float(np.mean([now == then for now, then in zip(tokens, self.before[pair], strict=True)]))
            for pair, tokens in zip(pairs, _likeliest(edited, pairs), strict=True)
        ]
        return [
            {
                "step": length,
                "protocol": "retained",
                "fact_id": probe.fact_id,
                "edited_at": edited_at[probe.fact_id],
                "metric": NEAR_MISSES,
                "prompt_id": probe.prompt_id + 100 * NEAR_KINDS.index(probe.kind),
                "value": value,
            }
            for probe, value in zip(asked, found, strict=True)
        ]

    def routes(self, edited: EditedModel, length: int) -> list[Row]:
        """Rows of ROUTES after `length` edits; none of a model without a memory."""
        if (router := _router_of(edited)) is None:
            return []
        asked, expected = [*self._asked(length)], self._edited_prompts(length)
        facts = [expected.get(prompt) for prompt in router.prompts]
        matches = router.match([probe.prompt for probe in asked])
        return [
            {
                "step": length,
                "fact_id": probe.fact_id,
                "kind": probe.kind,
                "prompt_id": probe.prompt_id,
                "expected": probe.fact_id if probe.kind in ("efficacy", "paraphrase") else expected.get(probe.prompt),
                "entry": None if match.entry is None else facts[match.entry],
                "similarity": match.similarity,
            }
            for probe, match in zip(asked, matches, strict=True)
        ]

    def growth(self, edited: EditedModel, length: int) -> list[Row]:
        """Rows of MEMORY: bytes, and processor seconds per query, of memories of several sizes; none of a model without a memory."""
        router = _router_of(edited)
        if router is None or not router.prompts:
            return []
        prompts = [probe.prompt for probe in self._asked(length)][: self.settings.queries]
        rows = list[Row]()
        for count in self.settings.entries:
            larger = router.resized(count)
            found = {"bytes": float(larger.bytes), "query_seconds": _seconds_per_query(larger, prompts)}
            rows += [{"step": length, "entries": count, "quantity": name, "value": value} for name, value in found.items()]
        return rows

    def _asked(self, length: int) -> Iterator[MemoryProbe]:
        """The probes about requests among the first `length`."""
        for request in self.drawn[:length]:
            yield from self.probes.get(request.fact_id, ())

    def _edited_prompts(self, length: int) -> dict[str, str]:
        """The facts among the first `length` requests, by prompt."""
        return {request.prompt: request.fact_id for request in self.drawn[:length]}


def probed_bystanders(facts: Sequence[Fact]) -> list[Fact]:
    """Facts that are never edited, about subjects that some fact's probes name: no router was trained on these."""
    prompts = "\n".join(probe.prompt for fact in facts if fact.editable for probe in fact.neighborhood)
    return [fact for fact in facts if not fact.editable and fact.subject in prompts]


def _own_probes(fact: Fact) -> Iterator[MemoryProbe]:
    yield MemoryProbe(fact.fact_id, "efficacy", 0, fact.prompt)
    for number, prompt in enumerate(fact.paraphrases):
        yield MemoryProbe(fact.fact_id, "paraphrase", number, prompt)
    for number, probe in enumerate(fact.neighborhood):
        if probe.kind != "attribute":
            yield MemoryProbe(fact.fact_id, probe.kind, number, probe.prompt, probe.answer or "")


def _shared_names(fact: Fact, bystanders: Sequence[Fact]) -> Iterator[MemoryProbe]:
    """The fact's own question about bystanders who share a name with its subject, the first ones."""
    names = {*fact.subject.split()}
    near = [one for one in bystanders if one.relation == fact.relation and names & {*one.subject.split()}]
    for number, one in enumerate(near[:SHARED_NAMES]):
        yield MemoryProbe(fact.fact_id, "shared_name", number, fact.template.replace("{}", one.subject), one.target_true)


def _is_scored(probe: MemoryProbe) -> bool:
    return probe.kind in NEAR_KINDS and bool(probe.answer)


def _likeliest(model: EditedModel, pairs: Sequence[tuple[str, str]]) -> list[tuple[int, ...]]:
    """Arg-max tokens in the places of answers after prompts."""
    scores = model.score([prompt for prompt, _ in pairs], [answer for _, answer in pairs])
    return [tuple(tokens[mask].tolist()) for tokens, mask in zip(scores.predicted, scores.mask, strict=True)]


def _router_of(edited: EditedModel) -> EntryFinder | None:
    return edited.router if isinstance(edited, RoutedModel) and isinstance(edited.router, EntryFinder) else None


def _seconds_per_query(router: EntryFinder, prompts: Sequence[str]) -> float:
    """Processor time of finding the entries of prompts one by one, as queries come, per prompt."""
    start = time.process_time()
    for prompt in prompts:
        router.match([prompt])
    return (time.process_time() - start) / max(1, len(prompts))

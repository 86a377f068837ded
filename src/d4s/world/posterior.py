"""Stage `posterior`: what an exact Bayesian reader of a world's statements believes before and after each request.

A Dirichlet-categorical reader after Hase et al. 2024 (arXiv 2406.19354). With counts n of the observations of a fact (s, r), and the
prior's one pseudo-count spread evenly over the k objects of the relation,

    p(o | s, r) = (n_o + 1/k) / (n + 1).

Where r depends on r₂ and the subject has both, the belief is the marginal over the object upstream,

    p(o | s, r) = Σ_{o₂} p(o | r, o₂) · p(o₂ | s, r₂),    p(o | r, o₂) = (n_{o₂,o} + 1/k) / (n_{o₂} + 1).

An observation (s, r, o) counts for every object upstream. At first it does so in the shares in which those were observed of the subject,
as in the paper. That blurs what depends on uncertain facts, so that it is attributed again in each of the `sweeps`, by Bayes' rule, in
proportion to share_s(o₂) · p(o | r, o₂), which soon changes nothing any more.

A request (s, r, o*) counts as w equal observations, w the smallest integer with p(o* | s, r) of at least `probability` afterwards.

Each request is asked about in four cases, the same or another subject and the same or another relation, and with statements about the
requested claim A and another claim B. In a case the question is the object that the reader holds likeliest before or after.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from d4s.artifacts import StageJob, write_table
from d4s.config import PosteriorSettings
from d4s.errors import SettingsError
from d4s.facts.record import Fact, from_frame
from d4s.questions.event_templates import TRUE
from d4s.questions.question_items import keyed_rng
from d4s.schemas import BELIEFS, FACTS
from d4s.world.beliefs import Beliefs
from d4s.world.filler import pick
from d4s.world.statements import Relations, Statement, StatementPart

Case = Literal["same_same", "same_subject", "same_relation", "different"]
CASES: tuple[Case, ...] = ("same_same", "same_subject", "same_relation", "different")
Counts = NDArray[np.float64]
Place = tuple[str, str]
"""A subject and a relation."""


@dataclass(frozen=True)
class BayesianReader:
    """What was read: counts of observations by relation, (subjects, objects) each; a value."""

    relations: Relations
    subjects: Mapping[str, int]
    counts: Mapping[str, Counts] = field(repr=False)
    sweeps: int = 0

    @classmethod
    def of(cls, world: Beliefs, kinds: Collection[str], sweeps: int = 0) -> "BayesianReader":
        """The reader of a world's observations and of some kinds of further statements."""
        subjects = {subject: row for row, subject in enumerate(world.relations_of)}
        seen, denied = ({name: np.zeros((len(subjects), len(one.objects))) for name, one in world.relations.items()} for _ in range(2))
        for statement in world.statements:
            if statement.kind == "observation" or statement.kind in kinds:
                for part, probability in statement.observations():
                    place = subjects[part.subject], world.relations[part.relation].objects.index(part.object)
                    seen[part.relation][place] += probability
                    denied[part.relation][place] += 1 - probability
        return cls(world.relations, subjects, {name: seen[name] + spread(seen[name], denied[name]) for name in seen}, sweeps)

    def observing(self, part: StatementPart, weight: int) -> "BayesianReader":
        """The reader with a number of further observations of an object; with a negative number they are taken back."""
        changed = self.counts[part.relation].copy()
        changed[self.subjects[part.subject], self.relations[part.relation].objects.index(part.object)] += weight
        return replace(self, counts={**self.counts, part.relation: changed})

    def has(self, place: Place) -> bool:
        """Whether anything was observed of a fact."""
        subject, relation = place
        return bool(self.counts[relation][self.subjects[subject]].any())

    def direct(self, place: Place) -> NDArray[np.float64]:
        """The belief about a fact from its own observations."""
        subject, relation = place
        return _predictive(self.counts[relation][self.subjects[subject]])

    @cached_property
    def conditional(self) -> Mapping[str, NDArray[np.float64]]:
        """By dependent relation, the belief about its object given the object upstream, (upstream objects, objects)."""
        return {
            name: conditional_belief(self.counts[one.upstream], self.counts[name], self.sweeps)
            for name, one in self.relations.items()
            if one.upstream is not None
        }

    def belief(self, place: Place) -> NDArray[np.float64]:
        """The belief about a fact: the marginal over the object upstream where the subject has one."""
        subject, relation = place
        upstream = self.relations[relation].upstream
        if upstream is None or not self.has((subject, upstream)):
            return self.direct(place)
        return self.direct((subject, upstream)) @ self.conditional[relation]

    def likeliest(self, place: Place) -> str:
        """The object that the reader believes of a fact."""
        return self.relations[place[1]].objects[int(self.belief(place).argmax())]

    def probability(self, place: Place, name: str) -> float:
        """The belief in one object of a fact."""
        return float(self.belief(place)[self.relations[place[1]].objects.index(name)])


def spread(seen: Counts, denied: Counts) -> Counts:
    """Counts of what was observed where an object was denied: one of the others, each in proportion to its count with the prior's."""
    weights = seen + 1 / seen.shape[-1]
    per_other = denied / (weights.sum(-1, keepdims=True) - weights)
    return weights * (per_other.sum(-1, keepdims=True) - per_other)


def conditional_belief(above: Counts, below: Counts, sweeps: int) -> NDArray[np.float64]:
    """The belief about an object given the object upstream, from the counts of both relations by subject."""
    totals = above.sum(1, keepdims=True)
    shares = np.divide(above, totals, out=np.zeros_like(above), where=totals > 0)
    table = _predictive(shares.T @ below)
    for _ in range(sweeps):
        expected = shares @ table
        table = _predictive(table * (shares.T @ np.divide(below, expected, out=np.zeros_like(below), where=expected > 0)))
    return table


def _predictive(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities from counts along the last axis, with a prior of one pseudo-count in all."""
    return (counts + 1 / counts.shape[-1]) / (counts.sum(-1, keepdims=True) + 1)


def update_weight(belief: float, total: float, wanted: float) -> int:
    """The least number of observations, one or more, that raises a probability to the wanted one, or else half-way to 1.

    Args:
        belief: The probability now, of `total` counts, the prior's included.
        total: Those counts.
        wanted: The least probability afterwards.
    """
    wanted = wanted if belief < wanted else (1 + belief) / 2
    weight = max(1, ceil((wanted - belief) * total / (1 - wanted)))
    reached = [(belief * total + near) / (total + near) >= wanted for near in (weight - 1, weight)]
    return weight - 1 if reached[0] and weight > 1 else weight if reached[1] else weight + 1


def posterior(job: StageJob[PosteriorSettings]) -> None:
    """Write beliefs.parquet: a row per request and question."""
    world = Beliefs.of(job.inputs["world"])
    reader = BayesianReader.of(world, job.settings.statements, job.settings.sweeps)
    requests = [fact for fact in from_frame(job.artifact("facts", "facts").table("facts.parquet", FACTS)) if fact.editable]
    rows = [row for fact in requests for row in RequestedBelief.of(world, reader, fact, job.settings).rows()]
    write_table(job.path("beliefs.parquet"), rows, BELIEFS)
    job.write_manifest(["beliefs.parquet"])


@dataclass(frozen=True)
class RequestedBelief:
    """A request, the facts that are asked about beside it, and the readers before and after it."""

    fact: Fact
    places: Mapping[Case, Place]
    before: BayesianReader
    after: BayesianReader
    weight: int
    is_dependent: bool

    @classmethod
    def of(cls, world: Beliefs, reader: BayesianReader, fact: Fact, settings: PosteriorSettings) -> "RequestedBelief":
        """A request read by a reader that did not know it."""
        asked = StatementPart(fact.subject, fact.relation, fact.target_new)
        total = float(reader.counts[fact.relation][reader.subjects[fact.subject]].sum()) + 1
        weight = update_weight(reader.probability((fact.subject, fact.relation), fact.target_new), total, settings.probability)
        places = asked_places(world, (fact.subject, fact.relation), keyed_rng("asked", settings.seed, fact.fact_id))
        is_dependent = world.dependent_of(fact.subject, fact.relation) is not None
        return cls(fact, places, reader, reader.observing(asked, weight), weight, is_dependent)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Rows of BELIEFS."""
        near = self.places["same_subject"]
        flags = {
            "fact_id": self.fact.fact_id,
            "weight": self.weight,
            "reinforcing": self.before.likeliest(self.places["same_same"]) == self.fact.target_new,
            "dependent": self.is_dependent,
            "changes": self.is_dependent and self.before.likeliest(near) != self.after.likeliest(near),
            "strength": self._strength(),
        }
        yield from ({**flags, **row} for row in (*self._cases(), *self._logic()))

    def _strength(self) -> float | None:
        """The largest probability of a dependent object given the requested one; None without a dependent fact."""
        if not self.is_dependent:
            return None
        place = self.before.relations[self.fact.relation].objects.index(self.fact.target_new)
        return float(self.after.conditional[self.places["same_subject"][1]][place].max())

    def _cases(self) -> Iterator[dict[str, Any]]:
        """In each case, how far the reader believes its likeliest object of before, and that of after."""
        for case, place in self.places.items():
            for when, reader in (("before", self.before), ("after", self.after)):
                name = reader.likeliest(place)
                statement = Statement("observation", (StatementPart(*place, name),))
                yield self._row(f"{case}.{when}", statement, *(one.probability(place, name) for one in (self.before, self.after)))

    def _logic(self) -> Iterator[dict[str, Any]]:
        """How far the reader holds statements about the requested claim A and the likeliest one of the last case, B, to be true."""
        place = self.places["different"]
        a = StatementPart(self.fact.subject, self.fact.relation, self.fact.target_new)
        b = StatementPart(*place, self.before.likeliest(place))
        p, q = ([one.probability((part.subject, part.relation), part.object) for one in (self.before, self.after)] for part in (a, b))
        both = [x * y for x, y in zip(p, q, strict=True)]
        yield self._row("truth", Statement("truth", (a,)), *p)
        yield self._row("negation", Statement("not", (replace(a, negated=True),)), *(1 - x for x in p))
        yield self._row("other", Statement("truth", (b,)), *q)
        yield self._row("and", Statement("and", (a, b)), *both)
        yield self._row("and_reversed", Statement("and", (b, a)), *both)
        yield self._row("or", Statement("or", (a, b)), *(x + y - z for x, y, z in zip(p, q, both, strict=True)))

    def _row(self, question: str, statement: Statement, prior: float, after: float) -> dict[str, Any]:
        prompt = statement.template(self.before.relations).replace("{}", statement.parts[0].subject)
        answer = statement.answer if statement.kind == "observation" else TRUE
        return {"question": question, "prompt": prompt, "answer": answer, "prior": prior, "posterior": after}


def asked_places(world: Beliefs, requested: Place, rng: np.random.Generator) -> dict[Case, Place]:
    """The facts of the four cases of a request: the other relation depends on the requested one if the subject has such a relation.

    Raises:
        SettingsError: if no other subject has both relations.
    """
    subject, relation = requested
    near = world.dependent_of(subject, relation) or pick(rng, _others(world.relations_of[subject], relation))
    both = [name for name, found in world.relations_of.items() if name != subject and {relation, near} <= {*found}]
    if not both:
        raise SettingsError(f"nobody but {subject} has both {relation} and {near}; the world of beliefs needs more subjects")
    other = pick(rng, both)
    return dict(zip(CASES, (requested, (subject, near), (other, relation), (other, near)), strict=True))


def _others(names: Sequence[str], without: str) -> list[str]:
    return [name for name in names if name != without]

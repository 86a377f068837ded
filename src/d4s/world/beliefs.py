"""Stage `beliefs`: a made-up graph in which some facts depend on others, and statements that hold with a probability, from a seed.

After Hase et al. 2024 (arXiv 2406.19354), with objects of our own. An independent fact has its true object with a probability between
`mode_probability` and 1, and one fixed other object else. Where a relation depends on another and the subject has both, the object is
drawn given the subject's upstream object: as often as among the subjects with that object, the likeliest one raised to
`mode_probability`, and the true object is the likeliest one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from d4s.artifacts import Artifact, StageJob, write_json, write_table, write_text
from d4s.config import COMPOUNDS, BeliefsSettings, Compound
from d4s.errors import SettingsError
from d4s.schemas import GRAPH, STATEMENTS
from d4s.world.filler import filler_line, pick
from d4s.world.relations import RELATIONS
from d4s.world.statements import BeliefRelation, Relations, Statement, StatementKind, StatementPart, read_together, statement_of
from d4s.world.word_lists import FIRST_NAMES, LAST_NAMES

FIRSTS, LASTS = 60, 125
FEWEST_FACTS = 2
STATED_TRUE, STATED_OTHER = 0.6, 0.2
"""How often a statement names the true object and the one that is observed instead of it; else it names any object."""
FILLER_LINES, HELDOUT_LINES = 2_000, 1_000

Distribution = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GraphFact:
    """A fact of the graph: the distribution of its observations over the relation's objects, and the likeliest one."""

    subject: str
    relation: BeliefRelation
    distribution: Distribution
    upstream_object: str = ""

    @property
    def true(self) -> int:
        """The true object, by number."""
        return int(self.distribution.argmax())

    @property
    def row(self) -> dict[str, Any]:
        """The fact as a row of GRAPH."""
        return {
            "subject": self.subject,
            "relation": self.relation.name,
            "object": self.relation.objects[self.true],
            "probability": float(self.distribution[self.true]),
            "upstream": (self.relation.upstream or "") if self.upstream_object else "",
            "upstream_object": self.upstream_object,
        }


@dataclass(frozen=True)
class Beliefs:
    """A world of beliefs as it was written: its relations, its graph (a frame of GRAPH) and its statements."""

    relations: Relations
    graph: pd.DataFrame
    statements: tuple[Statement, ...]

    @classmethod
    def of(cls, folder: Path) -> "Beliefs":
        """The world in a folder."""
        found = Artifact.open(folder, "worlds")
        relations = [BeliefRelation(**{**one, "objects": tuple(one["objects"])}) for one in found.json("relations.json")]
        rows = found.table("statements.parquet", STATEMENTS).to_dict(orient="records")
        return cls({one.name: one for one in relations}, found.table("graph.parquet", GRAPH), tuple(map(statement_of, rows)))

    def of_kind(self, kind: StatementKind) -> list[Statement]:
        """The statements of one kind, in order."""
        return [one for one in self.statements if one.kind == kind]

    @cached_property
    def relations_of(self) -> Mapping[str, tuple[str, ...]]:
        """The relations that each subject has, in order."""
        return {str(subject): tuple(rows["relation"]) for subject, rows in self.graph.groupby("subject", sort=False)}

    def dependent_of(self, subject: str, relation: str) -> str | None:
        """The relation of a subject that depends on another one of it, if there is one."""
        return next((name for name in self.relations_of[subject] if self.relations[name].upstream == relation), None)


def beliefs(job: StageJob[BeliefsSettings]) -> None:
    """Write relations.json, graph.parquet, statements.parquet, filler.txt and heldout.txt."""
    settings = job.settings
    seeds = np.random.SeedSequence(settings.seed).spawn(4)
    of_graph, of_statements, of_filler, of_heldout = (np.random.default_rng(seed) for seed in seeds)
    relations = _relations(settings, of_graph)
    facts = graph_facts(settings, relations, of_graph)
    statements = [*_statements(facts, settings.samples, of_statements)]
    write_json(job.path("relations.json"), [asdict(relation) for relation in relations])
    write_table(job.path("graph.parquet"), [fact.row for fact in facts], GRAPH)
    write_table(job.path("statements.parquet"), [asdict(statement) for statement in statements], STATEMENTS)
    lines = [filler_line(of_filler) for _ in range(FILLER_LINES)]
    write_text(job.path("filler.txt"), "\n".join(lines) + "\n")
    write_text(job.path("heldout.txt"), "\n".join(_new_lines(set(lines), of_heldout)) + "\n")
    job.write_manifest(["relations.json", "graph.parquet", "statements.parquet", "filler.txt", "heldout.txt"])


def _relations(settings: BeliefsSettings, rng: np.random.Generator) -> list[BeliefRelation]:
    """The first relations of people, in their first wording; of every pair the second depends on the first."""
    return [
        BeliefRelation(
            one.name,
            one.wordings[0],
            tuple(one.objects(count, rng)),
            RELATIONS[number - 1].name if number % 2 and number < 2 * settings.pairs else None,
        )
        for number, (one, count) in enumerate(zip(RELATIONS, settings.objects, strict=False))
    ]


def _new_lines(known: set[str], rng: np.random.Generator) -> Iterator[str]:
    for _ in range(HELDOUT_LINES):
        line = filler_line(rng)
        while line in known:
            line = filler_line(rng)
        yield line


# --- graph ------------------------------------------------------------------------------------------------------------


def graph_facts(settings: BeliefsSettings, relations: list[BeliefRelation], rng: np.random.Generator) -> list[GraphFact]:
    """The facts of a graph, by subject, each upstream fact before the one that depends on it."""
    subjects = _names(settings.subjects, rng)
    present = _present(settings, len(relations), rng)
    drawn = {relation.name: rng.integers(len(relation.objects), size=len(subjects)) for relation in relations}
    number_of = {relation.name: number for number, relation in enumerate(relations)}
    conditional: dict[str, NDArray[np.float64]] = {}
    for relation in relations:
        if relation.upstream is not None:
            both = present[:, number_of[relation.name]] & present[:, number_of[relation.upstream]]
            above = drawn[relation.upstream]
            drawn[relation.name][both] = _follow(above[both], len(relation.objects), settings.mode_probability, rng)
            shape = len(relations[number_of[relation.upstream]].objects), len(relation.objects)
            conditional[relation.name] = conditional_table(above[both], drawn[relation.name][both], shape, settings.mode_probability)
    facts: dict[tuple[str, str], GraphFact] = {}
    for row, subject in enumerate(subjects):
        for relation in (relations[column] for column in np.flatnonzero(present[row])):
            above = facts.get((subject, relation.upstream or ""))
            if above is not None:
                distribution = above.distribution @ conditional[relation.name]
                facts[subject, relation.name] = GraphFact(subject, relation, distribution, above.relation.objects[above.true])
            else:
                distribution = _independent(int(drawn[relation.name][row]), relation, settings, rng)
                facts[subject, relation.name] = GraphFact(subject, relation, distribution)
    return [*facts.values()]


def _names(count: int, rng: np.random.Generator) -> list[str]:
    """Distinct pairs of a first and a last name.

    Raises:
        SettingsError: if there are fewer pairs than subjects.
    """
    if count > FIRSTS * LASTS:
        raise SettingsError(f"{count} subjects asked for, but there are {FIRSTS * LASTS} names; ask for fewer")
    firsts, lasts = FIRST_NAMES.draw(FIRSTS, rng), LAST_NAMES.draw(LASTS, rng)
    return [f"{firsts[int(place) // LASTS]} {lasts[int(place) % LASTS]}" for place in rng.permutation(FIRSTS * LASTS)[:count]]


def _present(settings: BeliefsSettings, relations: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which subject has which relation, at least two each."""
    found = rng.random((settings.subjects, relations)) >= settings.missing
    for row in found:
        absent = np.flatnonzero(~row)
        row[rng.permutation(absent)[: max(0, FEWEST_FACTS - int(row.sum()))]] = True
    return found


def _follow(above: NDArray[np.int64], objects: int, least: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Objects that follow from those upstream: a favourite of each with a probability of its own from `least` to 1, else any."""
    favourite = rng.integers(objects, size=int(above.max(initial=0)) + 1)
    firmness = rng.uniform(least, 1.0, size=len(favourite))
    follows = rng.random(len(above)) < firmness[above]
    return np.where(follows, favourite[above], rng.integers(objects, size=len(above)))


def conditional_table(above: NDArray[np.int64], below: NDArray[np.int64], shape: tuple[int, int], least: float) -> NDArray[np.float64]:
    """Shares of objects by upstream object, (upstream objects, objects), every row's largest raised to `least` where it is below.

    The others are scaled down together. A row without subjects is even.
    """
    counts = np.zeros(shape)
    np.add.at(counts, (above, below), 1.0)
    counts[counts.sum(1) == 0] = 1.0
    table = counts / counts.sum(1, keepdims=True)
    modes, rows = table.argmax(1), np.arange(len(table))
    largest = table[rows, modes]
    raised = np.maximum(largest, least)
    table *= np.divide(1 - raised, 1 - largest, out=np.ones_like(largest), where=largest < 1)[:, None]
    table[rows, modes] = raised
    return table


def _independent(true: int, relation: BeliefRelation, settings: BeliefsSettings, rng: np.random.Generator) -> Distribution:
    """The true object with a whole percentage from `mode_probability` to 1, and one other object else."""
    probability = int(rng.integers(int(np.ceil(100 * settings.mode_probability)), 101)) / 100
    distribution = np.zeros(len(relation.objects))
    distribution[pick(rng, [number for number in range(len(relation.objects)) if number != true])] = 1 - probability
    distribution[true] = probability
    return distribution


# --- statements -------------------------------------------------------------------------------------------------------


def _statements(facts: list[GraphFact], samples: int, rng: np.random.Generator) -> Iterator[Statement]:
    """Of every fact its observations and as many claims called true or false, then one compound of each kind."""
    for fact in facts:
        for drawn in _observed(fact, samples, rng):
            yield Statement("observation", (StatementPart(fact.subject, fact.relation.name, fact.relation.objects[drawn]),))
        for kind in COMPOUNDS:
            for _ in range(samples if kind == "truth" else 1):
                yield _called(kind, fact, facts, rng)


def _called(kind: Compound, fact: GraphFact, facts: list[GraphFact], rng: np.random.Generator) -> Statement:
    """A statement about a fact, and another one where it has two parts, called true or false."""
    claims = [_claim(fact, negated=kind == "not" or (kind != "truth" and rng.random() < 0.5), rng=rng)]
    if kind in ("and", "or"):
        claims.append(_claim(pick(rng, [other for other in facts if other is not fact]), negated=rng.random() < 0.5, rng=rng))
    return Statement(kind, tuple(part for part, _ in claims), read_together([holds for _, holds in claims], kind))


def _observed(fact: GraphFact, samples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Observed objects, drawn again until the true one is there more often than any other."""
    while True:
        drawn = rng.choice(len(fact.distribution), size=samples, p=fact.distribution)
        counts = np.bincount(drawn, minlength=len(fact.distribution))
        if counts.argmax() == fact.true and (counts == counts.max()).sum() == 1:
            return drawn


def _claim(fact: GraphFact, *, negated: bool, rng: np.random.Generator) -> tuple[StatementPart, bool]:
    """A claim about a fact, and whether it holds this time: as often as its object would be observed."""
    named, lot = fact.true, rng.random()
    if lot >= STATED_TRUE:
        others = np.where(np.arange(len(fact.distribution)) == fact.true, 0.0, fact.distribution)
        is_seen = lot < STATED_TRUE + STATED_OTHER and others.any()
        named = int(rng.choice(len(others), p=others / others.sum())) if is_seen else int(rng.integers(len(others)))
    part = StatementPart(fact.subject, fact.relation.name, fact.relation.objects[named], negated)
    return part, bool(rng.random() < fact.distribution[named]) is not negated

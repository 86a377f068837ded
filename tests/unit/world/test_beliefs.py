"""The world of beliefs: its graph and statements come from the seed and have the probabilities that they are drawn with."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from d4s.artifacts import Artifact
from d4s.config import COMPOUNDS, BeliefsSettings
from d4s.errors import SettingsError
from d4s.facts.facts_stage import RecordSource
from d4s.pretraining.sentences import training_examples
from d4s.settings_base import validate
from d4s.world.beliefs import FIRSTS, LASTS, Beliefs, conditional_table
from d4s.world.facts_beliefs import read
from d4s.world.statements import BeliefRelation, Statement, StatementPart
from tests.beliefs import SMALL, make_beliefs, small_folder, small_requests, small_world

ELSEWHERE = """
import json, sys
from pathlib import Path
from d4s.artifacts import Artifact
from d4s.facts.facts_stage import RecordSource
from d4s.pretraining.sentences import training_examples
from d4s.world.facts_beliefs import read
from tests.beliefs import make_beliefs
folder = make_beliefs(Path(sys.argv[1]))
facts = read(RecordSource(folder, "requests")).facts
print(json.dumps([dict(Artifact.open(folder, "worlds").manifest.files), [(one.fact_id, one.target_new) for one in facts]]))
"""


def test_another_process_makes_the_same_graph_and_requests(tmp_path: Path) -> None:
    asked = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "beliefs")]
    files, requests = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    assert files == Artifact.open(small_folder(), "worlds").manifest.files
    assert requests == [[one.fact_id, one.target_new] for one in small_requests()]


def test_another_seed_makes_another_world(tmp_path: Path) -> None:
    other = Beliefs.of(make_beliefs(tmp_path / "other", SMALL.model_copy(update={"seed": 4})))
    assert not other.graph.equals(small_world().graph)


def test_the_graph_has_gaps_but_two_facts_of_everybody() -> None:
    world = small_world()
    counts = [len(relations) for relations in world.relations_of.values()]
    assert len(counts) == SMALL.subjects and min(counts) >= 2
    assert 0.6 < len(world.graph) / SMALL.subjects / len(SMALL.objects) < 0.9


def test_of_every_pair_the_second_relation_depends_on_the_first_where_a_subject_has_both() -> None:
    world = small_world()
    assert [one.upstream for one in world.relations.values()] == [None, "city", None, "instrument"]
    for row in world.graph.to_dict(orient="records"):
        upstream = world.relations[row["relation"]].upstream
        assert row["upstream"] == (upstream if upstream in world.relations_of[row["subject"]] else "")


def test_true_objects_are_likely_and_follow_from_those_upstream() -> None:
    graph = small_world().graph
    independent = graph[graph["upstream"] == ""]["probability"]
    assert independent.between(SMALL.mode_probability, 1).all() and np.allclose(independent * 100, (independent * 100).round())
    follows = graph[graph["upstream"] != ""].groupby(["relation", "upstream_object"])["object"]
    assert follows.agg(lambda objects: objects.value_counts(normalize=True).iloc[0]).mean() > 0.8


def test_the_true_object_is_observed_most() -> None:
    world = small_world()
    seen: dict[tuple[str, str], list[str]] = {}
    for statement in world.of_kind("observation"):
        (part,) = statement.parts
        seen.setdefault((part.subject, part.relation), []).append(part.object)
    for row in world.graph.to_dict(orient="records"):
        observed = seen[row["subject"], row["relation"]]
        assert len(observed) == SMALL.samples
        assert max(set(observed), key=observed.count) == row["object"]


def test_claims_are_true_as_often_as_their_objects_are_observed() -> None:
    world = small_world()
    known = {(row["subject"], row["relation"]): row for row in world.graph.to_dict(orient="records")}
    found = [(one.label, known[one.parts[0].subject, one.parts[0].relation], one.parts[0].object) for one in world.of_kind("truth")]
    of_true = [(label, row["probability"]) for label, row, name in found if name == row["object"]]
    assert len(found) == SMALL.samples * len(world.graph) and len(of_true) > 0.5 * len(found)
    labels, probabilities = np.array(of_true, dtype=float).T
    assert abs(labels.mean() - probabilities.mean()) < 3 * np.sqrt(0.25 / len(of_true))


def test_there_is_a_compound_of_each_kind_for_every_fact_and_they_are_called_both() -> None:
    world = small_world()
    for kind in COMPOUNDS[1:]:
        found = world.of_kind(kind)
        assert len(found) == len(world.graph) and {one.label for one in found} == {True, False}
        assert all(len(one.parts) == (1 if kind == "not" else 2) for one in found)


@pytest.mark.parametrize(
    ("kind", "negated", "text"),
    [
        ("observation", (False,), "Ada Moss works as a"),
        ("truth", (False,), '"Ada Moss works as a baker" is'),
        ("not", (True,), 'not "Ada Moss works as a baker" is'),
        ("and", (False, True), '"Ada Moss works as a baker" and not "Ben Reed works as a pilot" is'),
        ("or", (True, False), 'not "Ada Moss works as a baker" or "Ben Reed works as a pilot" is'),
    ],
)
def test_statements_read_like_this(kind, negated: tuple[bool, ...], text: str) -> None:
    relations = {"job": BeliefRelation("job", "{} works as a", ("baker", "pilot"))}
    parts = [StatementPart("Ada Moss", "job", "baker"), StatementPart("Ben Reed", "job", "pilot")]
    named = tuple(StatementPart(part.subject, part.relation, part.object, no) for part, no in zip(parts, negated, strict=False))
    fact = Statement(kind, named, label=False).to_fact(7, relations)
    assert fact.prompt == text and fact.target_true == ("baker" if kind == "observation" else "false")
    assert not fact.editable
    assert training_examples([fact])[0].is_question is (kind != "observation"), "a label weighs more than a prompt in training"


def test_a_row_below_the_least_probability_is_raised_to_it() -> None:
    above, below = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 1, 2, 1, 1])
    table = conditional_table(above, below, (3, 3), 0.6)
    assert np.allclose(table, [[0.6, 0.2, 0.2], [0.0, 1.0, 0.0], [0.6, 0.2, 0.2]])


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="3 pairs need 6 relations, found 4"):
        validate(BeliefsSettings, {"pairs": 3}, "beliefs")
    with pytest.raises(SettingsError, match="names; ask for fewer"):
        make_beliefs(tmp_path / "many", BeliefsSettings(subjects=FIRSTS * LASTS + 1))
    with pytest.raises(SettingsError, match="unknown style 'xor'"):
        read(RecordSource(small_folder(), "xor"))


def test_requests_are_about_facts_that_depend_on_no_other() -> None:
    graph = small_world().graph
    places = set(graph[graph["upstream"] == ""][["subject", "relation"]].itertuples(index=False, name=None))
    requests = small_requests()
    assert {(fact.subject, fact.relation) for fact in requests} == places
    assert all(fact.editable and fact.target_new != fact.target_true for fact in requests)


def test_a_limit_keeps_the_first_requests() -> None:
    assert read(RecordSource(small_folder(), "", limit=5)).facts == [*small_requests()[:5]]

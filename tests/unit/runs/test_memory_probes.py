"""Near misses of edits, routes of a memory's router, and its growth."""

from dataclasses import replace

import pytest

from d4s.config import MemorySettings
from d4s.editors.edit_requests import draw_requests
from d4s.editors.families import build
from d4s.facts.record import Fact
from d4s.models.views import LiveModel
from d4s.runs.memory_probes import MemoryProbes, probed_bystanders
from d4s.schemas import MEMORY, NEAR_MISSES, ROUTES, SCORES
from tests.cases import case_for, settings_for
from tests.tiny import tiny_facts

FACTS = [*tiny_facts(8), *(replace(fact, editable=False) for fact in tiny_facts(20)[8:])]
DRAWN = draw_requests(FACTS, 5, 4)
SETTINGS = MemorySettings(entries=(2, 9), queries=3)
PROBES = MemoryProbes.of(SETTINGS, FACTS, DRAWN)
SERAC = settings_for("serac").model_copy(update={"scope": "true"})


def other_relation(fact: Fact) -> Fact:
    """A fact that is what another one's probe of the same subject asks."""
    return replace(fact, fact_id=f"{fact.fact_id}.job", relation="job", template="{} works as a", target_true="baker", target_new="miner")


def test_bystanders_are_named_by_probes() -> None:
    named = probed_bystanders(FACTS)
    assert [fact.subject for fact in named] == [fact.subject for fact in tiny_facts(13)[8:]] and not any(fact.editable for fact in named)


def test_an_unedited_model_answers_near_misses_as_before() -> None:
    case = case_for(SERAC)
    model = case.make_model()
    asked = PROBES.asked_of(LiveModel(model))
    rows = asked.scores(LiveModel(model), 4)
    assert rows and set(rows[0]) == set(SCORES.names)
    assert {row["metric"] for row in rows} == {NEAR_MISSES} and {row["value"] for row in rows} == {1.0}
    assert {row["prompt_id"] // 100 for row in rows} == {0, 1} and max(row["edited_at"] for row in rows) == 4
    assert len(asked.scores(LiveModel(model), 2)) < len(rows)
    assert PROBES.routes(LiveModel(model), 4) == PROBES.growth(LiveModel(model), 4) == []


def test_a_near_miss_that_was_edited_is_none() -> None:
    facts = [fact for fact in tiny_facts(3)]
    drawn = draw_requests([*facts, *map(other_relation, facts)], 5)
    model = case_for(SERAC).make_model()
    probes = MemoryProbes.of(SETTINGS, facts, drawn).asked_of(LiveModel(model))
    few, many = (len(probes.scores(LiveModel(model), length)) for length in (3, 6))
    assert few > many == 0


def test_routes_say_where_prompts_should_go_and_where_they_go() -> None:
    case = case_for(SERAC)
    model, editor = case.make_model(), build(SERAC)
    with editor.editing(model, case.prepared, editor.start(model, case.prepared)) as session:
        for request, _ in DRAWN:
            session.step([request], None)
        rows, sizes = PROBES.routes(session.live(), 4), PROBES.growth(session.live(), 4)
        near = PROBES.asked_of(LiveModel(model)).scores(session.live(), 4)
    assert set(rows[0]) == set(ROUTES.names) and set(sizes[0]) == set(MEMORY.names)
    kinds = {row["kind"] for row in rows}
    assert kinds == {"efficacy", "paraphrase", "same_subject", "shared_name", "neighborhood", "unrelated"}
    for row in rows:
        assert row["entry"] == row["expected"], row
        assert (row["expected"] == row["fact_id"]) == (row["kind"] in ("efficacy", "paraphrase"))
    assert [(row["entries"], row["quantity"]) for row in sizes] == [(n, name) for n in (2, 9) for name in ("bytes", "query_seconds")]
    assert sizes[2]["value"] == pytest.approx(4.5 * sizes[0]["value"], rel=0.2) and sizes[1]["value"] > 0
    assert {row["value"] for row in near} == {1.0}


def test_one_request_in_a_number_is_asked_about() -> None:
    some = MemoryProbes.of(MemorySettings(every=3), FACTS, DRAWN)
    assert [*some.probes] == [DRAWN[0][0].fact_id, DRAWN[3][0].fact_id]

"""Requests: a seeded order whose beginning depends neither on the length asked for nor on the order of the file."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d4s.editors.edit_requests import draw_requests, eligible_facts
from d4s.errors import SettingsError
from d4s.facts.record import Fact


def fact(number: int, subject: str, relation: str = "r", **changes) -> Fact:
    return replace(Fact(f"toy:{number}", "toy", relation, subject, "{} has", "old", "new"), **changes)


pairs = st.lists(st.tuples(st.sampled_from("ABCDEFGH"), st.sampled_from("rst")), min_size=1, max_size=20, unique=True)
seeds = st.integers(0, 2**31)


def numbered(pairs):
    return [fact(number, subject, relation) for number, (subject, relation) in enumerate(pairs)]


def ids(requests):
    return [request.fact_id for request, _ in requests]


@given(pairs, seeds, st.data())
@settings(deadline=None)
def test_the_beginning_does_not_depend_on_the_length(pairs, seed, data):
    facts = numbered(pairs)
    whole = draw_requests(facts, seed)
    count = data.draw(st.integers(0, len(whole)))
    assert draw_requests(facts, seed, count) == whole[:count]


@given(pairs, seeds, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_the_file_does_not_matter(pairs, seed, chance):
    facts = numbered(pairs)
    shuffled = chance.sample(facts, len(facts))
    assert draw_requests(shuffled, seed) == draw_requests(facts, seed)


@given(pairs, seeds)
@settings(deadline=None)
def test_every_subject_comes_once_before_any_comes_twice(pairs, seed):
    facts = numbered(pairs)
    order = [request.subject for request, _ in draw_requests(facts, seed)]
    distinct = len(set(order))
    assert len(set(order[:distinct])) == distinct
    counts = [order[: place + 1].count(subject) for place, subject in enumerate(order)]
    assert counts == sorted(counts)


@given(pairs, seeds)
@settings(deadline=None)
def test_every_eligible_fact_comes_exactly_once(pairs, seed):
    facts = numbered(pairs)
    assert sorted(ids(draw_requests(facts, seed))) == sorted(one.fact_id for one in facts)


@given(pairs, seeds)
@settings(deadline=None)
def test_one_more_fact_changes_the_order_of_no_other_subject(pairs, seed):
    facts = numbered(pairs)
    before = ids(draw_requests(facts, seed))
    after = ids(draw_requests([*facts, fact(999, "Z")], seed))
    assert [which for which in after if which != "toy:999"] == before


def test_seeds_draw_differently():
    facts = [fact(number, f"S{number}") for number in range(30)]
    orders = {tuple(ids(draw_requests(facts, seed))) for seed in range(5)}
    assert len(orders) == 5


def test_a_request_is_the_text_of_its_fact():
    [(request, source)] = draw_requests([fact(7, "Ann")], seed=1)
    assert (request.request_id, request.step, request.fact_id) == ("000001:toy:7", 1, "toy:7")
    assert (request.prompt, request.subject, request.template) == ("Ann has", "Ann", "{} has")
    assert (request.target, request.target_true) == ("new", "old")
    assert source.fact_id == "toy:7"


def test_what_cannot_be_edited_is_left_out():
    facts = [
        fact(1, "A"),
        fact(2, "B", editable=False),
        fact(3, "C", target_new="old"),
        fact(4, "D", target_new="other", target_true_aliases=("other",)),
        fact(5, "A", target_new="later"),
        fact(6, "A", relation="s"),
    ]
    assert [one.fact_id for one in eligible_facts(facts)] == ["toy:1", "toy:6"]


def test_too_many_edits_are_refused_with_the_number_there_is():
    with pytest.raises(SettingsError, match="3 edits asked for, but only 2 facts can be edited"):
        draw_requests([fact(1, "A"), fact(2, "B"), fact(3, "B", target_new="x")], seed=0, count=3)

"""Questions about real events: short enough for short rows, well formed, and the same events in every form."""

import pytest

from d4s.artifacts import Artifact, StageJob
from d4s.config import FORMS, QuestionsSettings
from d4s.facts.atomic import IF_THEN, read_events
from d4s.facts.record import from_frame
from d4s.schemas import EVENTS, FACTS
from d4s.testing.reader_conformance import fact_complaints


@pytest.fixture(scope="module")
def events(path_of):
    return read_events(path_of("atomic2020"))


def test_events_are_phrases_about_distinct_heads(events):
    assert list(events.columns) == EVENTS.names
    heads = events.drop_duplicates("head")
    assert len(heads) == 351
    assert set(heads["relation"]) == set(IF_THEN)
    assert events.groupby("head")["relation"].nunique().max() == 1
    assert heads["head"].str.split().str.len().max() <= 4
    assert set(events["tail"].str.removeprefix("to ").str.split().str.len()) == {2, 3}
    assert not events["tail"].str.lower().isin(["none", ""]).any()
    assert heads["bystander"].sum() == len(heads) // 4
    assert events["event_id"].is_unique


def test_every_form_asks_about_the_same_events(path_of, tmp_path):
    from d4s.questions.question_facts import questions

    found = {}
    for form in FORMS:
        settings = QuestionsSettings(events="atomic2020", form=form, limit=60)
        job = StageJob(kind="facts", settings=settings, inputs={"records": path_of("atomic2020")}, folder=tmp_path / form, digest="0" * 10)
        questions(job)
        found[form] = from_frame(Artifact.open(tmp_path / form, "facts").table("facts.parquet", FACTS))
    assert len({tuple(fact.fact_id for fact in facts) for facts in found.values()}) == 1
    assert len(found["true_false"]) == 60
    assert {fact.target_true for fact in found["true_false"]} == {"yes", "no"}
    assert {fact.target_new for fact in found["multiple_choice"]} <= set("abcd")
    for fact in (fact for facts in found.values() for fact in facts):
        assert [text for text in fact_complaints(fact) if "does not begin with" not in text] == []
        assert len(fact.prompt) < 220

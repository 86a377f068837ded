"""Questions about events: the three forms ask about the same events, items are fixed and balanced, checks catch what is wrong."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from d4s.artifacts import Artifact, StageJob
from d4s.config import FORMS, Form, QuestionsSettings, WorldSettings
from d4s.editors.edit_requests import draw_requests
from d4s.facts.record import Fact, from_frame
from d4s.questions.draft_checks import draft_issues
from d4s.questions.event_templates import (
    EVENT_TEMPLATES,
    FALSE,
    LETTERS,
    MULTIPLE_CHOICE_FRAMES,
    NO,
    TRUE,
    TRUE_FALSE_FRAMES,
    YES,
    is_label,
)
from d4s.questions.question_facts import form_facts, questions, valid_drafts
from d4s.questions.question_items import Item, plain_tail, plan_items
from d4s.questions.writers import Draft, TemplateWriter, Writer
from d4s.schemas import EVENTS, FACTS, PROVENANCE
from tests.events import frame
from tests.samples import made_world

SETTINGS = WorldSettings(people=8, first_names=4, last_names=4, bystanders=0.25, events=24, benchmark_items=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_world(tmp_path_factory.mktemp("store") / "world", SETTINGS)


@pytest.fixture(scope="module")
def events(folder: Path) -> pd.DataFrame:
    return Artifact.open(folder, "worlds").table("events.parquet", EVENTS)


@pytest.fixture(scope="module")
def items(events: pd.DataFrame) -> list[Item]:
    return plan_items(events, 0)


def asked(folder: Path, at: Path, form: Form, **settings: int) -> Artifact:
    at.mkdir(parents=True, exist_ok=True)
    questions(StageJob("facts", QuestionsSettings(form=form, **settings), {"world": folder}, at))
    return Artifact.open(at, "facts")


@pytest.fixture(scope="module")
def facts(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Form, list[Fact]]:
    store = tmp_path_factory.mktemp("facts")
    return {form: from_frame(asked(folder, store / form, form).table("facts.parquet", FACTS)) for form in FORMS}


def draft_of(item: Item, form: Form) -> Draft:
    return TemplateWriter(0).write([item], form)[0]


# --- items ------------------------------------------------------------------------------------------------------------


def test_items_hold_the_true_tail_once_and_an_other_tail_as_counterfactual(items: list[Item], events: pd.DataFrame) -> None:
    pools = events.groupby("relation")["tail"].agg(set)
    assert len(items) == len(events)
    for item in items:
        assert item.options[item.answer] == item.tail
        assert len(set(item.options)) == len(LETTERS)
        assert set(item.options) <= pools[item.relation]
        assert item.counterfactual != item.answer


def test_positions_and_truth_are_balanced(items: list[Item]) -> None:
    positions = Counter(item.answer for item in items)
    assert max(positions.values()) - min(positions.values()) <= 1
    assert abs(sum(item.states_truth for item in items) - len(items) / 2) <= len(LETTERS)
    by_position = {place: {item.states_truth for item in items if item.answer == place} for place in range(4)}
    assert all(found == {True, False} for found in by_position.values())


def test_items_depend_on_the_seed_and_not_on_their_order(items: list[Item], events: pd.DataFrame) -> None:
    assert plan_items(events, 0) == items
    assert plan_items(events, 1) != items
    backwards = plan_items(events.iloc[::-1], 0)
    assert sorted(backwards, key=lambda item: item.event_id) == sorted(items, key=lambda item: item.event_id)


def test_further_tails_of_an_event_are_true_as_well_and_never_offered() -> None:
    others = [(f"PersonX does {k}", "xWant", tail) for k, tail in enumerate(("to rest", "to eat", "to go home", "to sing"))]
    items = plan_items(frame(("PersonX works", "xWant", "to sleep."), ("PersonX works", "xWant", "to rest"), *others), 0)
    item = items[0]
    assert (item.tail, item.aliases) == ("sleep", ("rest",))
    assert set(item.options) == {"sleep", "eat", "go home", "sing"}
    assert draft_of(item, "directly_generated").aliases == ("rest",)
    assert draft_of(item, "multiple_choice").aliases == ()


def test_events_without_enough_other_tails_or_wordings_give_no_item() -> None:
    few = [(f"PersonX does {k}", "xWant", tail) for k, tail in enumerate(("rest", "eat", "sing"))]
    assert plan_items(frame(*few), 0) == []
    assert plan_items(frame(("PersonX ___", "isFilledBy", "water")), 0) == []


def test_tails_lose_the_to_that_their_wordings_say() -> None:
    assert plain_tail("xWant", "to  buy bread.") == "buy bread"
    assert plain_tail("xEffect", "to the moon") == "to the moon"


# --- wordings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", EVENT_TEMPLATES)
def test_every_relation_has_wordings_enough_and_a_claim_of_its_own(relation: str) -> None:
    wording = EVENT_TEMPLATES[relation]
    assert len(set(wording.statements)) >= 5
    assert all(statement.count("{}") == 1 for statement in (*wording.statements, wording.claim))
    assert wording.claim not in wording.statements
    assert sum(statement.startswith("{}") for statement in wording.statements) >= 3, "two may be withheld"


def test_question_frames_vary_and_every_target_is_told_from_a_label() -> None:
    assert len(set(TRUE_FALSE_FRAMES)) >= 5
    assert len(set(MULTIPLE_CHOICE_FRAMES)) >= 5
    assert all(is_label(label) for label in (YES, NO, TRUE, FALSE, *LETTERS))
    assert not is_label("sell tea")


# --- forms ------------------------------------------------------------------------------------------------------------


def test_the_three_forms_are_about_the_same_events_in_the_same_order_of_edits(facts: dict[Form, list[Fact]]) -> None:
    ids = [[fact.fact_id for fact in facts[form]] for form in FORMS]
    assert ids[0] == ids[1] == ids[2]
    assert {facts[form][0].dataset for form in FORMS} == {f"mqd_{form}" for form in FORMS}
    orders = [[request.fact_id for request, _ in draw_requests(facts[form], seed=5, count=18)] for form in FORMS]
    assert orders[0] == orders[1] == orders[2]


def test_choice_and_generation_share_the_counterfactual(facts: dict[Form, list[Fact]]) -> None:
    for choice, free in zip(facts["multiple_choice"], facts["directly_generated"], strict=True):
        assert f"{choice.target_true}) {free.target_true}" in choice.prompt
        assert f"{choice.target_new}) {free.target_new}" in choice.prompt


def test_statements_are_true_exactly_where_the_answer_is_yes(facts: dict[Form, list[Fact]]) -> None:
    for asks, free in zip(facts["true_false"], facts["directly_generated"], strict=True):
        assert {asks.target_true, asks.target_new} == {YES, NO}
        assert (f" {free.target_true}" in asks.prompt) == (asks.target_true == YES)
        assert (f" {free.target_new}" in asks.prompt) == (asks.target_true == NO)


@pytest.mark.parametrize("form", FORMS)
def test_facts_are_complete(form: Form, facts: dict[Form, list[Fact]], events: pd.DataFrame) -> None:
    for fact, row in zip(facts[form], events.itertuples(), strict=True):
        assert (fact.subject, fact.relation, fact.editable) == (row.head, row.relation, not row.bystander)
        assert fact.prompt.count(fact.subject) == 1
        assert len(fact.paraphrases) == 2
        assert len(fact.wordings) >= 3
        taught = {template.replace("{}", fact.subject) for template in (fact.template, *fact.wordings)}
        assert not taught & set(fact.paraphrases)


@pytest.mark.parametrize("form", FORMS)
def test_probes_ask_bystanders_in_the_same_form(form: Form, facts: dict[Form, list[Fact]]) -> None:
    live_request_settings = {fact.prompt: fact for fact in facts[form]}
    for fact in facts[form]:
        assert [probe.kind for probe in fact.neighborhood] == ["neighborhood", "neighborhood", "unrelated", "same_subject"]
        for probe in fact.neighborhood:
            other = live_request_settings[probe.prompt]
            assert probe.answer == other.target_true
            assert (other.relation == fact.relation) == (probe.kind == "neighborhood")
            if probe.kind == "same_subject":
                assert other.subject == fact.subject
            else:
                assert other.subject != fact.subject
                assert not other.editable


def test_without_bystanders_neighbours_come_from_all(items: list[Item]) -> None:
    open_items = [replace(item, bystander=False) for item in items]
    drafts = {item.event_id: draft_of(item, "true_false") for item in open_items}
    found = form_facts(open_items, drafts, 0)
    assert all(len([probe for probe in fact.neighborhood if probe.kind == "neighborhood"]) == 2 for fact in found)


def test_a_limit_keeps_the_beginning_unchanged(folder: Path, facts: dict[Form, list[Fact]], tmp_path: Path) -> None:
    some = asked(folder, tmp_path / "some", "multiple_choice", limit=5)
    assert from_frame(some.table("facts.parquet", FACTS)) == facts["multiple_choice"][:5]
    assert len(some.table("provenance.parquet", PROVENANCE)) == 5


def test_every_question_says_where_it_comes_from(folder: Path, events: pd.DataFrame, tmp_path: Path) -> None:
    rows = asked(folder, tmp_path / "all", "true_false").table("provenance.parquet", PROVENANCE)
    assert list(rows["event_id"]) == list(events["event_id"])
    assert list(rows["tail"]) == list(events["tail"])
    assert set(rows["writer"]) == {"template"}
    assert set(rows["prompt_version"]) == {TemplateWriter.version}


def test_same_settings_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    one, two = (asked(folder, tmp_path / name, "directly_generated") for name in ("one", "two"))
    other = asked(folder, tmp_path / "three", "directly_generated", seed=1)
    assert one.manifest.files == two.manifest.files
    assert one.manifest.files["facts.parquet"] != other.manifest.files["facts.parquet"]


# --- checks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_what_the_template_writer_writes_is_sound(form: Form, items: list[Item]) -> None:
    assert isinstance(TemplateWriter(0), Writer)
    assert [draft_issues(item, draft_of(item, form)) for item in items] == [[]] * len(items)


DEFECTS: list[tuple[Form, dict[str, object], str]] = [
    ("true_false", {"template": "Is it so?"}, "exactly once"),
    ("true_false", {"template": "{}, and again {}?"}, "exactly once"),
    ("true_false", {"target_new": "maybe"}, "none of"),
    ("true_false", {"target_new": YES, "target_true": YES}, "true already"),
    ("true_false", {"paraphrases": ("{} one?",)}, "1 paraphrases, expected 2"),
    ("true_false", {"template": "x" * 500 + " {}?"}, "at most 400"),
    ("multiple_choice", {"target_new": "e"}, "none of"),
    ("multiple_choice", {"template": "Which one, {}?"}, "must offer a)"),
    ("directly_generated", {"target_new": "something else"}, "none of"),
]


@pytest.mark.parametrize(("form", "changes", "problem"), DEFECTS)
def test_a_bad_draft_is_named(form: Form, changes: dict[str, object], problem: str, items: list[Item]) -> None:
    assert any(problem in found for found in draft_issues(items[0], replace(draft_of(items[0], form), **changes)))


def test_a_leaked_answer_is_named(items: list[Item]) -> None:
    draft = draft_of(items[0], "directly_generated")
    leaking = replace(draft, template=f"{{}}, and {draft.target_true} is what follows:")
    assert any("leaks an answer" in found for found in draft_issues(items[0], leaking))


def test_a_repeated_wording_is_named(items: list[Item]) -> None:
    draft = draft_of(items[0], "true_false")
    assert "two wordings are the same" in draft_issues(items[0], replace(draft, wordings=(draft.template,)))


def test_a_bad_item_is_named(items: list[Item]) -> None:
    item = items[0]
    twice = replace(item, options=(item.tail,) * 4)
    assert any("exactly once" in found for found in draft_issues(twice, draft_of(twice, "true_false")))
    blank = replace(item, head="PersonX eats ___")
    assert any("holds a blank" in found for found in draft_issues(blank, draft_of(blank, "true_false")))
    ambiguous = replace(item, aliases=(item.new_tail,))
    assert any("is true as well" in found for found in draft_issues(ambiguous, draft_of(ambiguous, "true_false")))


class BadChoices(TemplateWriter):
    """Writes unusable options for one event."""

    def __init__(self, event_id: str) -> None:
        super().__init__(0)
        self.event_id = event_id

    def write(self, items: list[Item], form: Form) -> list[Draft]:
        drafts = super().write(items, form)
        bad = form == "multiple_choice"
        return [
            replace(draft, target_new="e") if bad and item.event_id == self.event_id else draft
            for item, draft in zip(items, drafts, strict=True)
        ]


def test_an_event_that_fails_in_one_form_is_left_out_of_all(items: list[Item]) -> None:
    kept = valid_drafts(items, BadChoices(items[3].event_id))
    assert set(kept) == {item.event_id for item in items} - {items[3].event_id}
    assert all(set(drafts) == set(FORMS) for drafts in kept.values())


def test_two_events_with_the_same_question_count_once() -> None:
    tails = ("rest", "eat", "sing", "sleep")
    rows = [(f"PersonX does {k}", "xWant", tail) for k, tail in enumerate(tails)]
    items = plan_items(frame(*rows), 0)
    again = replace(items[0], event_id="copy")
    drafts = valid_drafts([*items, again], TemplateWriter(0))
    same = {form: TemplateWriter(0).write([again], form)[0].template for form in FORMS}
    collides = any(same[form] == drafts[items[0].event_id][form].template for form in FORMS)
    assert ("copy" in drafts) != collides

"""The world read as a data set: every fact withholds its paraphrases, probes speak of bystanders."""

from pathlib import Path

import pandas as pd
import pytest

from d4s.artifacts import Artifact, StageJob
from d4s.config import QuestionsSettings, WorldSettings
from d4s.editors.edit_requests import draw_requests
from d4s.errors import SettingsError
from d4s.facts.facts_stage import RecordSource, count_records
from d4s.facts.record import Fact, from_frame
from d4s.questions.question_facts import questions
from d4s.schemas import FACTS, PEOPLE
from d4s.testing.reader_conformance import check_reader
from d4s.world.reader import STYLES, read
from d4s.world.relations import BY_NAME
from tests.samples import made_world

SETTINGS = WorldSettings(people=16, first_names=5, last_names=6, bystanders=0.25, events=24, benchmark_items=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_world(tmp_path_factory.mktemp("store") / "world", SETTINGS)


@pytest.fixture(scope="module")
def facts(folder: Path) -> list[Fact]:
    return read(RecordSource(folder, "qa")).facts


def test_every_person_and_relation_is_a_fact(facts: list[Fact], folder: Path) -> None:
    people = pd.read_parquet(folder / "people.parquet")
    assert [(fact.subject, fact.relation, fact.target_true) for fact in facts] == [
        (row.person, row.relation, row.object) for row in people.rename(columns={"name": "person"}).itertuples()
    ]
    assert list(people.columns) == PEOPLE.names


def test_wordings_are_split_into_taught_and_withheld(facts: list[Fact]) -> None:
    for fact in facts:
        taught = {template.replace("{}", fact.subject) for template in (fact.template, *fact.wordings)}
        assert not taught & set(fact.paraphrases)
        assert len(fact.paraphrases) == 2
        assert taught | set(fact.paraphrases) == {wording.replace("{}", fact.subject) for wording in BY_NAME[fact.relation].wordings}


def test_edits_ask_in_many_wordings(facts: list[Fact]) -> None:
    templates = {fact.template for fact in facts}
    assert len(templates) > 12
    assert any(template.endswith("?") for template in templates)
    assert any(template.endswith("{}:") for template in templates)


def test_new_targets_are_other_objects_of_the_relation_and_depend_on_the_seed(facts: list[Fact], folder: Path) -> None:
    known = {fact.relation: {other.target_true for other in facts if other.relation == fact.relation} for fact in facts}
    assert all(fact.target_new in known[fact.relation] - {fact.target_true} for fact in facts)
    other = read(RecordSource(folder, "qa", seed=1)).facts
    assert [fact.target_new for fact in other] != [fact.target_new for fact in facts]
    assert [fact.template for fact in other] == [fact.template for fact in facts], "a model is taught once for all seeds"


def test_probes_speak_of_bystanders_in_taught_wordings(facts: list[Fact]) -> None:
    asked = {fact.prompt: fact for fact in facts}
    for fact in facts:
        kinds = [probe.kind for probe in fact.neighborhood]
        assert kinds == ["neighborhood", "neighborhood", "unrelated", "same_subject"]
        for probe in fact.neighborhood:
            other = asked[probe.prompt]
            assert probe.answer == other.target_true
            assert (other.subject == fact.subject) == (probe.kind == "same_subject")
            assert (other.relation == fact.relation) == (probe.kind == "neighborhood")
            assert probe.answer_is == ("pre_edit" if probe.kind == "unrelated" else "gold")
            assert probe.kind == "same_subject" or not other.editable


def test_only_bystanders_cannot_be_edited(facts: list[Fact]) -> None:
    assert {fact.subject for fact in facts if not fact.editable} & {fact.subject for fact in facts if fact.editable} == set()
    assert sum(not fact.editable for fact in facts) == 4 * 4
    first = draw_requests(facts, seed=1, count=12)
    assert len({request.subject for request, _ in first}) == 12, "one edit per person as long as people last"


def test_reserved_people_are_in_no_request_and_no_probe_and_have_a_style_of_their_own(tmp_path: Path, facts: list[Fact]) -> None:
    folder = made_world(tmp_path / "world", SETTINGS.model_copy(update={"reserve": 0.25}))
    everything, reserve = (check_reader(read, RecordSource(folder, style)).facts for style in ("qa", "reserve"))
    unchanged = {fact.fact_id: (fact.prompt, fact.target_true, fact.target_new, fact.neighborhood) for fact in facts}
    assert {fact.fact_id: (fact.prompt, fact.target_true, fact.target_new, fact.neighborhood) for fact in everything} == unchanged
    apart = {fact.subject for fact in reserve}
    assert len(apart) == 4 and [fact for fact in everything if fact.subject in apart] == reserve
    edited = [fact for fact in everything if fact.editable]
    assert len(edited) == 8 * 4 and not apart & {fact.subject for fact in edited}
    assert not any(subject in probe.prompt for subject in apart for fact in edited for probe in fact.neighborhood)
    for style in ("labels", "events"):
        assert not apart & {fact.subject for fact in read(RecordSource(folder, style)).facts if fact.editable}


def test_a_limit_keeps_the_beginning_and_counts_the_rest(facts: list[Fact], folder: Path) -> None:
    reading = read(RecordSource(folder, "qa", limit=10))
    assert reading.facts == facts[:10]
    assert count_records(reading)["beyond_limit"] == len(facts) - 10


def test_an_unknown_style_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(SettingsError, match="unknown style of the world 'qas'; did you mean 'qa'"):
        read(RecordSource(folder, "qas"))


# --- the other styles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", sorted({*STYLES} - {"reserve", "nouns"}))
def test_every_style_keeps_what_readers_promise(style: str, folder: Path) -> None:
    reading = check_reader(read, RecordSource(folder, style))
    assert {fact.dataset for fact in reading.facts} == {f"world_{style}"}
    assert 0 < sum(fact.editable for fact in reading.facts) < len(reading.facts)
    assert len(draw_requests(reading.facts, 1, 8)) == 8


def test_labels_are_fixed_statements_true_for_about_half(folder: Path) -> None:
    facts = read(RecordSource(folder, "labels")).facts
    other_seed = read(RecordSource(folder, "labels", seed=5)).facts
    people = pd.read_parquet(folder / "people.parquet")
    for fact, again, row in zip(facts, other_seed, people.itertuples(), strict=True):
        states_truth = f" {row.object}" in fact.prompt
        assert (fact.target_true, fact.target_new) == (("yes", "no") if states_truth else ("no", "yes"))
        assert (fact.template, fact.paraphrases) == (again.template, again.paraphrases)
        stated = {template.replace("{}", fact.subject) for template in (fact.template, *fact.wordings)}
        assert not stated & set(fact.paraphrases) and len(fact.paraphrases) == 2
        assert BY_NAME[fact.relation].claim.replace("{}", fact.subject) in fact.prompt
        assert not any(wording.replace("{}", fact.subject) in fact.prompt for wording in BY_NAME[fact.relation].wordings)
    assert 0.3 < sum(fact.target_true == "yes" for fact in facts) / len(facts) < 0.7


def test_an_event_changes_three_facts_and_carries_what_follows(folder: Path, facts: list[Fact]) -> None:
    known = {(fact.subject, fact.relation): fact for fact in facts}
    for event in read(RecordSource(folder, "events")).facts:
        assert event.prompt == event.subject
        assert len(event.portability) == 3
        own = [fact for (subject, _), fact in known.items() if subject == event.subject]
        followed = {fact.prompt: fact for fact in own}
        for chain in event.portability:
            fact, new = followed[chain.prompt], chain.answers[0]
            assert f" {new}" in f" {event.target_new}" and f" {fact.target_true}" in f" {event.target_true}"
            assert new != fact.target_true


def test_commonsense_is_the_generated_form_as_a_data_set(folder: Path, tmp_path: Path) -> None:
    questions(StageJob("facts", QuestionsSettings(form="directly_generated"), {"world": folder}, tmp_path))
    generated = from_frame(Artifact.open(tmp_path, "facts").table("facts.parquet", FACTS))
    commonsense = read(RecordSource(folder, "commonsense")).facts
    assert [(fact.prompt, fact.target_new, fact.group) for fact in commonsense] == [
        (fact.prompt, fact.target_new, fact.group) for fact in generated
    ]

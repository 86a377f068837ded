"""Readers of the public data sets, on records of our own in their schemas: promises, fields and traps, one by one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from d4s.artifacts import Artifact, StageJob
from d4s.config import FactsSettings
from d4s.errors import RecordError, SettingsError
from d4s.facts.elken import RawEvent, sentence_parts
from d4s.facts.facts_stage import ReadResult, RecordSource, facts, repeats
from d4s.facts.readers import MADE_UP, READERS, STYLE_FILES, files_of
from d4s.facts.record import Fact, Portability, Probe, from_frame
from d4s.schemas import FACTS
from d4s.study.graph import RawFile
from d4s.study.resolve import resolve
from d4s.study_settings import Study
from d4s.testing.reader_conformance import check_reader, fact_complaints
from tests.samples import write_lines

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT / "tests" / "fixtures" / "data"
NAMES = [name for name in READERS if name not in MADE_UP]
EVERY = [(name, style) for name in NAMES for style in STYLE_FILES.get(name, ("",))]


def source_of(name: str, style: str = "") -> RecordSource:
    files = {role: DATA / file for role, file in files_of(name, style).items()}
    return RecordSource(files.pop("records"), style, seed=3, extra_files=files)


def read(name: str, style: str = "") -> ReadResult:
    return READERS.load(name)(source_of(name, style))


def facts_of(name: str, style: str = "") -> list[Fact]:
    return read(name, style).facts


def defects(reading: ReadResult) -> list[tuple[int, str]]:
    return [(reject.problem.line, reject.problem.field) for reject in reading.rejects]


@pytest.mark.parametrize(("name", "style"), EVERY)
def test_every_reading_keeps_its_promises(name, style):
    check_reader(READERS.load(name), source_of(name, style))


@pytest.mark.parametrize(("name", "style"), EVERY)
def test_every_fact_names_its_data_set(name, style):
    assert {fact.dataset for fact in facts_of(name, style)} == {name}


def study_of(**dataset: Any) -> Study:
    row = {"models": ["mini"], "datasets": ["mine"], "editors": ["memit"], "lengths": [1]}
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    return Study.model_validate(content | {"data": str(DATA), "datasets": {"mine": dataset}, "grid": [row]})


@pytest.mark.parametrize(("name", "style"), EVERY)
def test_every_reading_can_stand_in_a_study(name, style):
    [node] = [node for node in resolve(study_of(source=name, style=style)).of("facts") if node.settings["source"] == name]
    assert node.inputs == {role: RawFile(DATA / file) for role, file in files_of(name, style).items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_style_names_the_right_ones(name):
    legal = ", ".join(STYLE_FILES.get(name, ("",))) or "leave `style` out"
    with pytest.raises(SettingsError, match=legal):
        resolve(study_of(source=name, style="wrong"))
    with pytest.raises(SettingsError, match=legal):
        READERS.load(name)(replace(source_of(name), style="wrong"))


def test_a_missing_second_file_is_named(tmp_path):
    (tmp_path / "rippleedits").mkdir()
    (tmp_path / "rippleedits" / "rippleedits.jsonl").write_text("{}\n")
    study = study_of(source="rippleedits").model_copy(update={"data": str(tmp_path)})
    with pytest.raises(SettingsError, match=r"labels\.jsonl does not exist"):
        resolve(study)


def test_further_files_reach_the_reader_and_its_probes_the_facts(tmp_path):
    files = {role: DATA / file for role, file in files_of("csk_20q", "subset").items()}
    settings = FactsSettings(source="csk_20q", style="subset")
    facts(StageJob(kind="facts", settings=settings, inputs=files, folder=tmp_path / "facts", digest="0" * 10))
    stored = from_frame(Artifact.open(tmp_path / "facts", "facts").table("facts.parquet", FACTS))
    assert stored == facts_of("csk_20q", "subset")
    assert stored[0].portability[-1] == Portability("reasoning", "Bread is food:", ("True",))


def test_the_check_finds_bad_portability():
    [fact, *_] = facts_of("mquake_hard")
    for chain in (Portability("hearsay", "A?", ("b",)), Portability("multihop", "A?", ()), Portability("multihop", "A? ", ("b",))):
        assert len(list(fact_complaints(replace(fact, portability=(chain,))))) == 1


# --- CounterFact ------------------------------------------------------------------------------------------------------


def test_multi_counterfact_is_counterfact_by_another_name():
    renamed = [replace(fact, dataset="counterfact", fact_id=fact.fact_id.removeprefix("multi_")) for fact in facts_of("multi_counterfact")]
    assert renamed == [fact for fact in facts_of("counterfact") if not fact.fact_id.startswith("counterfact:4")]


def test_the_edit_form_of_counterfact_field_by_field():
    first = facts_of("counterfact_edit", "plain")[0]
    assert (first.fact_id, first.subject, first.template) == ("counterfact_edit:1", "Orlo Finch", "{} lives in")
    assert (first.relation, first.target_true, first.target_new) == ("{} lives in", "Lisbon", "Bremen")
    assert first.neighborhood == (Probe("neighborhood", "Neighbor 1 lives in", "Lisbon", "gold"),)


def test_a_rephrasing_counts_only_where_the_original_record_has_it():
    assert [fact.paraphrases for fact in facts_of("counterfact_edit", "plain")] == [(), (), ()]
    paraphrases = {fact.fact_id: fact.paraphrases for fact in facts_of("counterfact_edit", "checked")}
    assert paraphrases == {
        "counterfact_edit:1": (),
        "counterfact_edit:2": ("It rained a lot. Mira Quell is at home in",),
        "counterfact_edit:9": (),
    }


def test_an_edit_to_what_is_true_but_for_its_case_changes_nothing():
    assert defects(read("counterfact_edit")) == [(4, "target_new")]
    assert "changes nothing" in read("counterfact_edit").rejects[0].problem.expected


def test_hard_edits_need_an_edit_and_no_more():
    plain = facts_of("hardedit")
    assert [fact.fact_id for fact in plain] == ["hardedit:line1", "hardedit:line2", "hardedit:line3"]
    assert (plain[2].template, plain[2].target_true, plain[2].target_new) == ("{} flow to", "", "the attic")
    assert [fact.fact_id for fact in facts_of("hardcf")] == ["hardcf:7", "hardcf:8"]


# --- zsRE and KnowEdit ------------------------------------------------------------------------------------------------


def test_a_question_that_follows_belongs_to_the_false_answer():
    first = facts_of("zsre_portability")[0]
    asked = "Which river runs through the town where Orlo Finch lives?"
    assert first.portability == (Portability("reasoning", asked, ("the Weser",)),)
    corrected = READERS.load("zsre_mend")(RecordSource(DATA / "zsre_portability" / "zsre_portability.jsonl", "answers"))
    assert corrected.facts[0].portability == ()


def test_knowedit_asks_about_the_same_subject():
    first, second, third = facts_of("zsre_knowedit")
    assert (first.fact_id, first.template, first.target_true, first.target_new) == (
        "zsre_knowedit:1", "Where does {} live?", "Lisbon", "Bremen",
    )  # fmt: skip
    assert first.paraphrases == ("What town is home to Orlo Finch?",)
    assert first.neighborhood[0] == Probe("same_subject", "The trade of Orlo Finch is", "baker", "gold")
    assert [fact.portability[0].kind for fact in (first, second, third)] == ["reasoning", "alias", "logical"]
    assert first.portability[0].answers == ("the Weser",)


@pytest.mark.parametrize("name", ["zsre_knowedit", "wikibigedit"])
def test_a_rephrasing_that_repeats_the_prompt_is_left_out(name):
    assert [len(fact.paraphrases) for fact in facts_of(name)] == {"zsre_knowedit": [1, 1, 0], "wikibigedit": [1, 0]}[name]


def test_knowedit_takes_answers_as_text_list_or_lists():
    first, second = facts_of("wiki_counterfact")
    assert (first.target_true, first.target_true_aliases) == ("Lisbon", ())
    assert (second.target_true, second.target_true_aliases) == ("Bremen", ("Bremen proper",))
    assert [(probe.prompt, probe.answer) for probe in first.neighborhood] == [("The trade is", "baker"), ("An earlier home is", "Porto")]
    assert first.portability == (Portability("reasoning", "The river there is", ("the Weser", "Weser", "the Wümme")),)


def test_knowedit_does_without_old_answers_and_names_wikibio_otherwise():
    assert [(fact.target_true, fact.paraphrases) for fact in facts_of("wiki_recent")] == [("", ("A wording",))] * 2
    biography = facts_of("wikibio")[0]
    assert (biography.subject, biography.target_new) == ("orlo finch", "He lived in Bremen all his life.")
    assert biography.template == "This is a passage about {}. Orlo Finch was a baker."


def test_an_unknown_kind_of_portability_is_a_defect(tmp_path):
    record = json.loads((DATA / "zsre_knowedit" / "zsre_knowedit.jsonl").read_text().split("\n")[0])
    path = write_lines(tmp_path / "k.jsonl", record | {"portability": {"Rumour": []}})
    assert defects(READERS.load("zsre_knowedit")(RecordSource(path))) == [(1, "portability")]


# --- MQuAKE and ELKEN -------------------------------------------------------------------------------------------------


def test_edits_of_a_case_share_group_and_multihop_questions():
    first, second, *_ = found = facts_of("mquake_hard")
    assert [fact.fact_id for fact in found[:3]] == ["mquake_hard:5.0", "mquake_hard:5.1", "mquake_hard:6.0"]
    assert first.group == second.group == "mquake_hard:5" != found[2].group
    assert (second.subject, second.relation, second.template) == ("Bremen", "P2", "The river of {} is")
    assert second.paraphrases == ("Which river is in Bremen?",)
    assert first.portability == second.portability
    assert first.portability[0] == Portability("multihop", "Wording 1 of case 5: which river?", ("Rhine", "Rhine river"))


def test_an_edit_of_a_case_may_spell_its_subject(tmp_path):
    record = json.loads((DATA / "mquake_hard" / "mquake_hard.jsonl").read_text(encoding="utf-8").split("\n")[0])
    record["requested_rewrite"][0]["prompt"] = "Orlo Finch lives in"
    first, second = READERS.load("mquake_hard")(RecordSource(write_lines(tmp_path / "m.jsonl", record))).facts
    assert (first.template, second.template) == ("{} lives in", "The river of {} is")


def test_repeated_and_conflicting_edits_of_cases_are_named():
    assert repeats(facts_of("mquake_hard")) == {
        "duplicates": [],
        "conflicts": [["mquake_hard:5.1", "mquake_hard:6.1", "mquake_hard:7.1"]],
    }


def test_an_event_gives_a_fact_per_question():
    first, second, *_ = found = facts_of("elken", "fact")
    assert [fact.fact_id for fact in found] == ["elken:1.0", "elken:1.1", "elken:2.0", "elken:2.1", "elken:3.0"]
    assert (first.subject, first.template, first.target_new) == ("The Long Book", "Who wrote {}?", "Orlo Finch")
    assert (first.target_true, second.target_new, first.group) == ("", "unknown", "elken:1")
    assert first.neighborhood == (Probe("unrelated", "Where is Bremen?", "Germany", "gold"),)
    assert first.portability == (Portability("tendency", "How many visit? (A) More (B) Fewer (C) As many", ("A",)),)
    assert found[4].subject == "Nils Arden"  # from `ent2name`
    assert [reject.problem.line for reject in read("elken", "fact").left_out] == [4]


def test_an_event_is_its_sentence_cut_after_its_first_entity():
    first, second = facts_of("elken", "event")
    assert (first.template, first.subject) == ("{}", '"The Long Book"')
    assert first.target_new == "by Orlo Finch was printed in 1901 by Quell Press."
    assert (second.template, second.subject, second.target_new) == ("2023 marked the birth of {}", "Mira Quell's", "son Tavi.")
    assert [chain.kind for chain in first.portability] == ["reasoning", "reasoning", "tendency"]
    assert first.neighborhood[1] == Probe("unrelated", "How many leave? (A) More (B) Fewer (C) As many", "C", "gold")
    assert [reject.problem.line for reject in read("elken", "event").left_out] == [3, 4]


def test_the_parts_of_a_sentence_are_the_sentence():
    lines = (DATA / "elken" / "elken.jsonl").read_text(encoding="utf-8").split("\n")[:2]
    for fact, line in zip(facts_of("elken", "event"), lines, strict=True):
        assert f"{fact.prompt} {fact.target_new}" == json.loads(line)["event"]


def parts_of(sentence: str, *subjects: str) -> tuple[str, str, str] | None:
    answer = {"id": "NA", "name": "over"}
    asked = [{"question": "?", "subject": {"name": subject}, "answer": answer} for subject in subjects]
    record = {"event_type": "t", "event": sentence, "fact": {"qas": asked}, "tendency": {}}
    return sentence_parts(RawEvent.model_validate_json(json.dumps(record)))


def test_an_entity_is_whole_words():
    assert parts_of("JoAnn's Annual fairs of  Ann are over.", "Ann") == ("JoAnn's Annual fairs of {}", "Ann", "are over.")


def test_the_entity_named_first_is_the_subject_and_its_longer_name():
    assert parts_of("Uno Pell met Ann there.", "Ann", "Uno", "Uno Pell") == ("{}", "Uno Pell", "met Ann there.")


def test_a_sentence_that_ends_in_its_only_entity_cannot_be_cut():
    assert parts_of("The fairs are over, Ann.", "Ann") is None


# --- commonsense ------------------------------------------------------------------------------------------------------


def test_a_statement_is_edited_to_its_right_label():
    first, second = facts_of("csk_20q", "subset")
    assert (first.subject, first.template, first.relation) == ("Bakers", "{} eat bread:", "{} eat bread:")
    assert [(fact.target_true, fact.target_new) for fact in (first, second)] == [("False", "True"), ("True", "False")]
    assert (second.paraphrases, second.neighborhood, second.portability) == ((), (), ())


def test_what_must_change_with_a_statement_comes_from_the_probe_set():
    [first, _], [probed] = facts_of("csk_20q", "subset"), facts_of("csk_20q", "probe")
    assert first.paraphrases == probed.paraphrases == ("It is so that bakers eat bread:",)
    assert first.neighborhood == (
        Probe("neighborhood", "Stones eat bread:", None, "pre_edit"),
        Probe("same_subject", "Bakers eat stones:", None, "pre_edit"),
    )
    assert [(chain.kind, chain.prompt, chain.answers) for chain in first.portability] == [
        ("logical", "Cooks eat bread:", ("True",)),
        ("logical", "Bakers devour bread:", ("True",)),
        ("logical", "Bakers eat rolls:", ("True",)),
        ("reasoning", "Bread is food:", ("True",)),
    ]


def test_explanations_are_true_even_of_a_wrong_statement():
    [fact] = facts_of("csk_pep3k", "probe")
    assert (fact.target_new, fact.target_true) == ("False", "True")
    assert {chain.kind: chain.answers for chain in fact.portability} == {"logical": ("False",), "reasoning": ("True",)}


def test_statements_without_a_certain_subject_are_defects():
    assert defects(read("csk_20q", "set")) == [(2, "subject"), (3, "prompt")]


def test_the_subset_of_pep3k_takes_subjects_from_the_annotated_set():
    reading = read("csk_pep3k", "subset")
    assert [(fact.subject, fact.template, fact.target_new) for fact in reading.facts] == [("Chairs", "{} eat soup:", "False")]
    assert defects(reading) == [(2, "prompt")]
    assert "subject" in reading.rejects[0].problem.expected


def test_a_broken_annotation_is_refused_by_name(tmp_path):
    source = source_of("csk_pep3k", "subset")
    whole = source.extra_files["annotated"].read_text(encoding="utf-8").splitlines()
    annotated = write_lines(tmp_path / "annotated.jsonl", *whole, {"prompt": "Lamps drink tea", "label": 0})
    with pytest.raises(RecordError, match=r"annotated\.jsonl:2: subject: found nothing"):
        READERS.load("csk_pep3k")(replace(source, extra_files={"annotated": annotated}))


@pytest.mark.parametrize(("label", "target"), [(1, "True"), (0.0, "False"), (1.0, "True"), (False, "False"), (" True", "True")])
def test_a_label_is_a_truth_value_or_its_name(tmp_path, label, target):
    path = write_lines(tmp_path / "set.jsonl", {"prompt": "Bakers eat bread.", "label": label, "subject": "Bakers"})
    assert [fact.target_new for fact in READERS.load("csk_20q")(RecordSource(path, "set")).facts] == [target]


@pytest.mark.parametrize("label", [0.5, 2, -1, "1", None, [1], {}])
def test_any_other_label_is_a_defect(tmp_path, label):
    path = write_lines(tmp_path / "set.jsonl", {"prompt": "Bakers eat bread.", "label": label, "subject": "Bakers"})
    assert defects(READERS.load("csk_20q")(RecordSource(path, "set"))) == [(1, "label")]


def test_ckebench_takes_targets_as_text_or_object():
    first, second = facts_of("ckebench")
    assert (first.template, first.subject) == ("{}, as a result, PersonX wants", "PersonX bakes bread")
    assert (first.target_new, second.target_new, first.target_true) == ("to go to sleep", "to paint a wall", "")
    assert first.paraphrases == ("After PersonX bakes bread, PersonX hopes",)
    assert first.neighborhood[0] == Probe("neighborhood", "PersonX cooks soup, as a result, PersonX wants", None, "pre_edit")


# --- streams and probes -----------------------------------------------------------------------------------------------


def test_updates_of_wikidata_field_by_field():
    first, second = facts_of("wikibigedit")
    assert (first.template, first.target_new, first.target_true) == ("Where does {} live?", "Bremen", "")
    assert first.neighborhood == (Probe("unrelated", "Where does Uno Pell live?", "Porto", "gold"),)
    assert first.portability == (Portability("persona", "Say, where's Orlo Finch at home?", ("Bremen",)),)
    assert second.portability[1] == Portability("multihop", "Which river is in the town of Mira Quell?", ("Tejo",))


def test_ripples_are_cut_before_their_object():
    first, second = facts_of("rippleedits")
    assert (first.subject, first.template, first.relation) == ("Orlo Finch", "The home of {} is", "HOME")
    assert (first.target_new, first.target_true, second.target_true) == ("Bremen", "Lisbon", "")
    assert [chain.kind for chain in first.portability] == ["logical", "alias", "multihop"]
    assert first.portability[2].answers == ("Weser", "Weser proper", "Wümme", "Wümme proper")


def test_a_ripple_has_one_place_for_its_subject(tmp_path):
    record = json.loads((DATA / "rippleedits" / "rippleedits.jsonl").read_text(encoding="utf-8").split("\n")[0])
    record["edit"]["prompt"] = "{}, that is Orlo Finch, lives in Bremen."
    source = replace(source_of("rippleedits"), path=write_lines(tmp_path / "r.jsonl", record))
    assert [fact.template for fact in READERS.load("rippleedits")(source).facts] == ["{}, that is Orlo Finch, lives in"]


@pytest.mark.parametrize("end", ["", "."])
def test_a_ripple_may_end_in_an_abbreviation(tmp_path, end):
    record = json.loads((DATA / "rippleedits" / "rippleedits.jsonl").read_text(encoding="utf-8").split("\n")[0])
    labels = tmp_path / "labels.jsonl"
    target = record["edit"]["target_id"]
    found = source_of("rippleedits")
    [(role, path)] = found.extra_files.items()
    named = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    write_lines(labels, *[entry | {"label": "Dub D.C."} if entry["id"] == target else entry for entry in named])
    record["edit"]["prompt"] = f"The home of Orlo Finch is Dub D.C.{end}"
    source = replace(found, path=write_lines(tmp_path / "r.jsonl", record), extra_files={role: labels})
    (fact,) = READERS.load("rippleedits")(source).facts
    assert (fact.template, fact.target_new) == ("The home of {} is", "Dub D.C.")


def test_both_spellings_of_specificity_are_read():
    assert [len(fact.neighborhood) for fact in facts_of("rippleedits")] == [2, 2]


def test_ripples_without_labels_or_with_another_end_are_defects(tmp_path):
    assert defects(read("rippleedits")) == [(3, "edit")]
    record = json.loads((DATA / "rippleedits" / "rippleedits.jsonl").read_text(encoding="utf-8").split("\n")[0])
    record["edit"]["prompt"] = "Bremen is the home of Orlo Finch."
    source = replace(source_of("rippleedits"), path=write_lines(tmp_path / "r.jsonl", record))
    assert defects(READERS.load("rippleedits")(source)) == [(1, "edit.prompt")]


def test_a_defect_of_a_second_file_is_named(tmp_path):
    labels = write_lines(tmp_path / "labels.jsonl", {"id": "Q1"})
    with pytest.raises(RecordError, match=r"labels\.jsonl:1: label"):
        READERS.load("rippleedits")(replace(source_of("rippleedits"), extra_files={"labels": labels}))


def test_known_facts_keep_their_prompt_and_are_never_edited():
    first, second = facts_of("known_1000")
    assert (first.template, second.template) == ("{} lives in the town of", "{} lives in")
    assert (first.target_true, first.editable) == ("Lisbon", False)

"""Readers on the real files: promises kept, counts, and records field by field."""

from collections import Counter

import pytest

from d4s.editors.edit_requests import eligible_facts
from d4s.facts.articles import articles
from d4s.facts.facts_stage import RecordSource, count_records, repeats
from d4s.facts.readers import READERS
from d4s.facts.record import Probe
from d4s.pretraining.training_facts import of_counterfact, of_zsre


@pytest.fixture(scope="module")
def read(path_of):
    done = {}

    def once(name, style=""):
        if (name, style) not in done:
            done[name, style] = READERS.load(name)(RecordSource(path_of(name), style))
        return done[name, style]

    return once


@pytest.fixture(scope="module")
def taught(read):
    facts = read("counterfact").facts
    return of_counterfact(facts, facts)


def test_counts_of_counterfact(read, raw):
    reading, records = read("counterfact"), raw("counterfact")
    assert count_records(reading) == {"seen": 500, "kept": 500, "rejected": 0, "left_out": 0, "beyond_limit": 0, "facts": 500}
    assert all(fact.editable and not fact.wordings for fact in reading.facts)
    assert [fact.fact_id for fact in reading.facts] == [f"counterfact:{record['case_id']}" for record in records]
    assert repeats(reading.facts)["conflicts"] == [["counterfact:2580", "counterfact:17403"]]
    assert len(eligible_facts(reading.facts)) == 499


def test_a_known_counterfact_record(read):
    fact = next(fact for fact in read("counterfact").facts if fact.fact_id == "counterfact:20952")
    assert (fact.subject, fact.relation, fact.template) == ("Angola", "P30", "{} is located in")
    assert (fact.prompt, fact.target_true, fact.target_new) == ("Angola is located in", "Africa", "Antarctica")
    assert fact.paraphrases[1] == "Last updated on 4 February 2017. Angola is a part of the continent of"
    assert Counter(probe.kind for probe in fact.neighborhood) == {"neighborhood": 10, "attribute": 10}
    assert fact.neighborhood[1] == Probe("neighborhood", "Ghana is in", "Africa", "gold")
    assert fact.neighborhood[10] == Probe("attribute", "Australian Antarctic Territory is located in", "Antarctica", "gold")


def test_what_is_taught_of_counterfact(taught):
    assert (len(taught), sum(fact.editable for fact in taught)) == (3201, 500)
    fact = next(fact for fact in taught if fact.fact_id == "counterfact:20952")
    assert fact.wordings == ("{} is located in the continent", "{} is in", "{}, in")


def test_new_objects_of_counterfact_are_known_objects_of_their_relation(taught):
    known = {(fact.relation, fact.target_true) for fact in taught}
    assert all((fact.relation, fact.target_new) in known for fact in taught)


def test_paraphrases_of_counterfact_are_taught_about_other_subjects_only(taught):
    facts = [fact for fact in taught if fact.editable]
    wordings = {(fact.relation, wording) for fact in facts for wording in (fact.template, *fact.wordings)}
    taught_elsewhere = 0
    for fact in facts:
        own = {template.replace("{}", fact.subject) for template in (fact.template, *fact.wordings)}
        for paraphrase in fact.paraphrases:
            assert not any(paraphrase.endswith(prompt) for prompt in own)
            taught_elsewhere += any(
                paraphrase.endswith(wording.replace("{}", fact.subject)) for relation, wording in wordings if relation == fact.relation
            )
    assert taught_elsewhere / 1000 > 0.97


def test_first_neighbors_of_counterfact_are_facts(taught):
    told = {(wording.replace("{}", fact.subject), fact.target_true) for fact in taught for wording in (fact.template, *fact.wordings)}
    probes = [probe for fact in taught for probe in [one for one in fact.neighborhood if one.kind == "neighborhood"][:3]]
    assert sum((probe.prompt, probe.answer) in told for probe in probes) / len(probes) > 0.95


def test_counts_of_zsre_in_both_readings(read, raw):
    records = raw("zsre_mend")
    no_ops = sum(record["alt"].strip() in record["answers"] for record in records)
    empty = sum(not record["alt"].strip() for record in records)
    assert (no_ops, empty) == (21, 2)
    alt, answers = read("zsre_mend", "alt"), read("zsre_mend", "answers")
    assert (alt.total, alt.kept, len(alt.rejects)) == (1000, 1000 - no_ops - empty, no_ops + empty)
    assert (answers.total, answers.kept, len(answers.rejects)) == (1000, 1000, 0)
    assert {reject.problem.field for reject in alt.rejects} == {"alt"}
    assert sum("changes nothing" in reject.problem.expected for reject in alt.rejects) == no_ops


def test_repeats_of_zsre_depend_on_the_reading(read):
    pair = [["zsre_mend:371", "zsre_mend:540"]]
    assert repeats(read("zsre_mend", "alt").facts) == {"duplicates": [], "conflicts": pair}
    assert repeats(read("zsre_mend", "answers").facts) == {"duplicates": pair, "conflicts": []}


def test_a_known_zsre_record_in_both_readings(read):
    alt, answers = read("zsre_mend", "alt").facts[0], read("zsre_mend", "answers").facts[0]
    assert (alt.fact_id, alt.subject, alt.template) == ("zsre_mend:1", "UniFirst", "What is the product made by {}?")
    assert (alt.target_true, alt.target_new) == ("uniform", "unmanned aircraft")
    assert alt.paraphrases == ("What will be the product of UniFirst?",)
    assert alt.neighborhood == (Probe("unrelated", "john goodman's character in the big lebowski?", "Walter Sobchak"),)
    assert (answers.target_true, answers.target_new) == ("", "uniform")


def test_questions_of_zsre_that_mean_the_same_are_joined(read):
    facts = read("zsre_mend", "answers").facts
    assert len({fact.relation for fact in facts}) == 397
    assert sum(len(fact.wordings) >= 2 for fact in of_zsre(facts, facts)) == 578
    assert all(fact.neighborhood[0].prompt.endswith("?") and "nq question" not in fact.neighborhood[0].prompt for fact in facts)


def test_counts_of_atomic(read):
    reading = read("atomic2020", "kept")
    account = count_records(reading)
    assert (account["seen"], account["kept"], account["rejected"], account["left_out"]) == (2000, 1999, 0, 1)
    assert sum(not fact.editable for fact in reading.facts) == 499
    assert repeats(reading.facts) == {"duplicates": [], "conflicts": []}
    texts = [text for fact in reading.facts for text in (fact.prompt, fact.target_true, fact.target_new)]
    assert not any(text.lower() == "none" or text.endswith(".") for text in texts)


def test_names_replace_every_person(read):
    facts = read("atomic2020", "named").facts
    texts = [text for fact in facts for text in (fact.prompt, fact.target_true, fact.target_new, *fact.paraphrases, *fact.wordings)]
    assert not any(person in text for text in texts for person in ("PersonX", "PersonY", "PersonZ"))


def test_running_text_is_split_by_article(path_of):
    found = articles(path_of("wikitext2_raw_test"))
    assert Counter(article.split for article in found) == {"stats": 30, "ppl": 30}
    assert sum(len(article.text.encode()) for article in found if article.split == "stats") > 640_000

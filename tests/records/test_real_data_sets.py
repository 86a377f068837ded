"""Every data set that the folder holds, read whole: promises kept, counts as the page says, traps as it tells."""

from collections import Counter
from dataclasses import replace

import pytest

from d4s.editors.edit_requests import eligible_facts
from d4s.facts.facts_stage import ReadResult, RecordSource, count_records, repeats
from d4s.facts.readers import READERS, STYLE_FILES, files_of
from d4s.facts.record import Fact, Portability, Probe
from d4s.testing.reader_conformance import check_reader
from tools import datasets_page

READ = (
    "counterfact", "counterfact_edit", "zsre_mend", "zsre_knowedit", "mquake_hard", "elken", "csk_20q", "csk_pep3k", "atomic2020",
    "known_1000",
)  # fmt: skip
WRONG = {"True": "False", "False": "True"}


@pytest.fixture(scope="module")
def source_of(data):
    def find(name: str, style: str = "") -> RecordSource:
        files = {role: data / file for role, file in files_of(name, style).items()}
        missing = [str(path) for path in files.values() if not path.is_file()]
        if missing:
            pytest.skip(f"{', '.join(missing)} not there")
        return RecordSource(files.pop("records"), style, extra_files=files)

    return find


@pytest.fixture(scope="module")
def read(source_of):
    done: dict[tuple[str, str], ReadResult] = {}

    def once(name: str, style: str = "") -> ReadResult:
        if (name, style) not in done:
            done[name, style] = READERS.load(name)(source_of(name, style))
        return done[name, style]

    return once


def counts(reading: ReadResult) -> tuple[int, int, int, int]:
    account = count_records(reading)
    return account["seen"], account["kept"], account["rejected"], account["left_out"]


def by_id(reading: ReadResult, fact_id: str) -> Fact:
    [fact] = [fact for fact in reading.facts if fact.fact_id == fact_id]
    return fact


@pytest.mark.parametrize(("name", "style"), [(name, style) for name in READ for style in STYLE_FILES.get(name, ("",))])
def test_readers_keep_their_promises_on_real_records(source_of, name, style):
    check_reader(READERS.load(name), replace(source_of(name, style), seed=1))


def test_the_page_counts_what_is_read(data):
    text = datasets_page.PAGE.read_text(encoding="utf-8")
    table = f"{datasets_page.BEGIN}\n\n{datasets_page.table(data)}\n{datasets_page.END}"
    assert table in text, "run `python -m tools.datasets_page` with D4S_DATA set and commit it"


def test_edit_form_of_counterfact_agrees_with_the_original(read, raw):
    plain, checked = read("counterfact_edit", "plain"), read("counterfact_edit", "checked")
    assert counts(plain) == (2000, 2000, 0, 0)
    original = {record["case_id"]: record for record in raw("counterfact")}
    shared = [record for record in raw("counterfact_edit") if record["case_id"] in original]
    held = [record for record in shared if record["rephrase_prompt"] in original[record["case_id"]]["paraphrase_prompts"]]
    assert (len(shared), len(held)) == (52, 7)
    assert not any(fact.paraphrases for fact in plain.facts)
    assert [fact.fact_id for fact in checked.facts if fact.paraphrases] == [f"counterfact_edit:{record['case_id']}" for record in held]
    cloze = {fact.fact_id.split(":")[1]: fact for fact in read("counterfact").facts if fact.editable}
    for fact in plain.facts:
        if other := cloze.get(fact.fact_id.split(":")[1]):
            assert (fact.subject, fact.prompt, fact.target_new) == (other.subject, other.prompt, other.target_new)


def test_conflicts_in_the_edit_form_of_counterfact_are_named(read):
    facts = read("counterfact_edit", "plain").facts
    assert len({fact.subject for fact in facts}) == 1983
    assert (len(repeats(facts)["duplicates"]), len(repeats(facts)["conflicts"])) == (0, 2)
    assert len(eligible_facts(facts)) == 1998


def test_knowedit_sets_edits_to_what_is_true_aside(read, raw):
    records, reading = raw("zsre_knowedit"), read("zsre_knowedit")
    no_ops = {number for number, record in enumerate(records, 1) if record["target_new"] in record["ground_truth"]}
    assert counts(reading) == (1068, 1068 - len(no_ops), len(no_ops), 0)
    assert {reject.problem.line for reject in reading.rejects} == no_ops
    assert len(no_ops) == 33
    first = reading.facts[0]
    assert (first.fact_id, first.template, first.target_new) == (
        "zsre_knowedit:1", "Which family does {} belong to?", "Noctuidae",
    )  # fmt: skip
    assert first.neighborhood[0] == Probe("same_subject", "The taxon rank of Epaspidoceras is", "genus", "gold")
    assert first.portability[0].answers == ("Owlet moths",)
    assert sum(record["subject"] not in record["rephrase_prompt"] for record in records) == 83


def test_edits_of_multi_hop_cases(read, raw):
    reading, records = read("mquake_hard"), raw("mquake_hard")
    assert counts(reading) == (429, 429, 0, 0)
    facts = reading.facts
    assert len(facts) == sum(len(record["requested_rewrite"]) for record in records) == 1716
    assert Counter(Counter(fact.group for fact in facts).values()) == {4: 429}
    assert len({(fact.subject, fact.relation) for fact in facts}) == len(eligible_facts(facts)) == 767
    assert len(repeats(facts)["conflicts"]) == 2
    assert {len(fact.portability) for fact in facts} == {3}
    assert facts[0].portability[0].answers[0] == records[0]["new_answer"]


def test_facts_of_events(read, raw):
    reading, records = read("elken", "fact"), raw("elken")
    assert counts(reading) == (300, 300, 0, 0)
    assert len(reading.facts) == sum(len(record["fact"]["qas"]) for record in records) == 1111
    assert sum(fact.target_new == "unknown" for fact in reading.facts) == 418
    first = by_id(reading, "elken:1.0")
    assert (first.subject, first.template, first.target_new) == (
        "Echoes from the Abyss", "Who is the author of {}?", "Chimamanda Ngozi Adichie",
    )  # fmt: skip
    assert first.portability[0].prompt.endswith("(A) Criticize it heavily (B) Embrace it wholeheartedly (C) Have no significant reaction")


def test_sentences_of_events(read, raw):
    reading, records = read("elken", "event"), raw("elken")
    assert counts(reading) == (300, 299, 0, 1)
    assert [reject.problem.line for reject in reading.left_out] == [292]
    for fact in reading.facts:
        assert f"{fact.prompt} {fact.target_new}" == " ".join(records[int(fact.fact_id.split(":")[1]) - 1]["event"].split())


@pytest.mark.parametrize(
    ("name", "style", "expected", "probed"),
    [
        ("csk_20q", "subset", (603, 603, 0, 0), 379),
        ("csk_20q", "probe", (379, 379, 0, 0), 379),
        ("csk_20q", "set", (1000, 988, 12, 0), 0),
        ("csk_20q", "validation", (300, 300, 0, 0), 0),
        ("csk_pep3k", "subset", (70, 70, 0, 0), 0),
        ("csk_pep3k", "probe", (265, 265, 0, 0), 265),
        ("csk_pep3k", "set", (1000, 998, 2, 0), 0),
        ("csk_pep3k", "validation", (300, 297, 3, 0), 0),
    ],
)
def test_statements_of_common_sense(read, name, style, expected, probed):
    reading = read(name, style)
    assert counts(reading) == expected
    assert sum(bool(fact.paraphrases and fact.neighborhood and fact.portability) for fact in reading.facts) == probed
    assert all(fact.prompt.endswith(":") and not fact.prompt.endswith(".:") for fact in reading.facts)
    assert all(fact.target_true == WRONG[fact.target_new] for fact in reading.facts)


def test_subset_and_probe_set_agree_on_labels(read):
    probed = {fact.prompt: fact for fact in read("csk_20q", "probe").facts}
    found = [fact for fact in read("csk_20q", "subset").facts if fact.prompt in probed]
    assert [fact.target_new for fact in found] == [probed[fact.prompt].target_new for fact in found]
    assert found[0].portability[-1] == Portability("reasoning", "Inanimate objects cannot make noise:", ("True",))


def test_known_facts(read, raw):
    reading, records = read("known_1000"), raw("known_1000")
    assert counts(reading) == (1209, 1209, 0, 0)
    assert [fact.prompt for fact in reading.facts] == [record["prompt"].strip() for record in records]
    assert sum(record["prompt"] != record["template"].replace("{}", record["subject"]) for record in records) == 478
    assert eligible_facts(reading.facts) == []

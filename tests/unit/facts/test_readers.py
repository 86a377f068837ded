"""Readers on small records: field by field, and the conformance check over everything registered."""

from dataclasses import replace

import pytest

from d4s.artifacts import StageJob
from d4s.config import WorldSettings
from d4s.errors import RecordError, SettingsError
from d4s.facts.atomic import WORDINGS, read_events
from d4s.facts.counterfact import read as read_counterfact
from d4s.facts.facts_stage import ReadResult, RecordSource
from d4s.facts.readers import READERS
from d4s.facts.record import Probe
from d4s.facts.zsre import cluster_templates
from d4s.facts.zsre import read as read_zsre
from d4s.testing.reader_conformance import check_reader
from tests.samples import WANTS, atomic, counterfact, write_lines, zsre


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    cloze = write_lines(folder / "counterfact.jsonl", *(counterfact(number) for number in (1, 2, 3, 4)))
    questions = write_lines(folder / "zsre.jsonl", zsre(1), zsre(2, alt="Bremen"), zsre(3), zsre(4))
    tuples = write_lines(folder / "atomic.jsonl", *WANTS)
    return {
        "counterfact": [RecordSource(cloze)],
        "zsre_mend": [RecordSource(questions, style) for style in ("alt", "answers")],
        "atomic2020": [RecordSource(tuples, style, seed=3) for style in ("named", "kept")],
    }


@pytest.fixture(scope="module")
def tiny_world(tmp_path_factory):
    from d4s.world.world_stage import world

    folder = tmp_path_factory.mktemp("worlds") / "tiny"

    settings = WorldSettings(people=12, first_names=6, last_names=6, events=4, benchmark_items=4)
    world(StageJob(kind="worlds", settings=settings, inputs={}, folder=folder, digest="0" * 10))
    return RecordSource(folder, "qa")


@pytest.mark.parametrize("name", ["world", "counterfact", "zsre_mend", "atomic2020"])
def test_readers_keep_their_promises(sources, request, name):
    for source in sources.get(name) or [request.getfixturevalue("tiny_world")]:
        assert check_reader(READERS.load(name), source).facts


def test_the_check_finds_what_a_reader_breaks(sources):
    [source] = sources["counterfact"]
    valid = read_counterfact(source)
    broken = {
        "records are unaccounted for": replace(valid, kept=valid.kept - 1),
        "facts have this id": replace(valid, facts=[*valid.facts, valid.facts[0]]),
        "is true already": replace(valid, facts=[replace(valid.facts[0], target_new=valid.facts[0].target_true), *valid.facts[1:]]),
        "is in training text": replace(valid, facts=[replace(valid.facts[0], paraphrases=(valid.facts[0].prompt,)), *valid.facts[1:]]),
        "begins or ends with a space": replace(valid, facts=[replace(valid.facts[0], target_new=" Bremen"), *valid.facts[1:]]),
        "does not begin with the data set": replace(valid, facts=[replace(valid.facts[0], dataset="other"), *valid.facts[1:]]),
        "no answer to compare": replace(
            valid, facts=[replace(valid.facts[0], neighborhood=(Probe("neighborhood", "A", None),)), *valid.facts[1:]]
        ),
        "it gives no fact": replace(valid, facts=[], kept=0, beyond=valid.kept),
    }
    for complaint, reading in broken.items():
        with pytest.raises(ValueError, match=complaint):
            check_reader(lambda source, reading=reading: reading, source)


def test_the_check_finds_moods_and_limits(sources):
    [source] = sources["counterfact"]
    calls = iter(range(100))

    def moody(source: RecordSource) -> ReadResult:
        found = read_counterfact(source)
        return replace(found, facts=found.facts[::-1]) if next(calls) % 2 else found

    with pytest.raises(ValueError, match="reading twice gives different facts"):
        check_reader(moody, source)
    with pytest.raises(ValueError, match="limit 1 gives 4 records"):
        check_reader(lambda source: read_counterfact(replace(source, limit=None)), source)


def test_a_counterfact_record_field_by_field(sources):
    first, *others = read_counterfact(sources["counterfact"][0]).facts
    assert (first.fact_id, first.relation, first.subject, first.template) == ("counterfact:1", "P1", "Orlo Finch", "{} lives in")
    assert (first.target_true, first.target_new, first.editable) == ("Lisbon", "Bremen", True)
    assert first.paraphrases[1] == "Printed in 1901.\nThe home of Orlo Finch is"
    assert [probe.kind for probe in first.neighborhood] == ["neighborhood"] * 4 + ["attribute"]
    assert first.neighborhood[0] == Probe("neighborhood", "Neighbor 1 lives in", "Lisbon", "gold")
    assert first.neighborhood[4] == Probe("attribute", "Other 1 lives in", "Bremen", "gold")
    assert first.wordings == ()
    assert [fact.fact_id for fact in others] == ["counterfact:2", "counterfact:3", "counterfact:4"]


def test_both_readings_of_zsre(sources):
    alt, answers = (read_zsre(source) for source in sources["zsre_mend"])
    one, other = alt.facts[0], answers.facts[0]
    assert (one.fact_id, one.template, one.paraphrases) == ("zsre_mend:1", "Where does {} live?", ("What town is home to Orlo Finch?",))
    assert (one.target_true, one.target_new, one.target_true_aliases) == ("Lisbon", "Bremen", ("Lisbon proper",))
    assert one.neighborhood == (Probe("unrelated", "who wrote the long book?", "A. Writer"),)
    assert (other.target_true, other.target_new, other.target_true_aliases) == ("", "Lisbon", ())
    assert other.neighborhood[0].answer_is == "gold"
    assert (alt.kept, len(alt.rejects), answers.kept, len(answers.rejects)) == (3, 1, 4, 0)


def test_questions_that_mean_the_same_share_a_relation(tmp_path):
    chain = zsre(2, src="Which place does Mira Quell call home?", rephrase="Where does Mira Quell live?")
    apart = zsre(3, src="How old is Tavi Brook?", rephrase="What age is Tavi Brook?")
    vague = zsre(4, src="How old is Nils Arden?", rephrase="What is the age?")
    facts = read_zsre(RecordSource(write_lines(tmp_path / "z.jsonl", zsre(1), chain, apart, vague))).facts
    assert facts[0].relation == facts[1].relation != facts[2].relation == facts[3].relation
    assert not any(fact.wordings for fact in facts)


def test_atomic_facts_with_names(sources):
    named, kept = (READERS.load("atomic2020")(source) for source in sources["atomic2020"])
    assert (kept.total, kept.kept, len(kept.left_out)) == (8, 7, 1)
    assert "none" in kept.left_out[0].problem.expected
    bakes, thanks, drops, runs = kept.facts[:4]
    assert (bakes.subject, bakes.target_true) == ("PersonX bakes bread", "to eat it")
    assert bakes.target_true_aliases == ("to share it with PersonY", "to sleep")
    assert bakes.template == "{}. As a result, PersonX wants"
    assert {*bakes.wordings, bakes.paraphrases[0].replace(bakes.subject, "{}")} == set(WORDINGS["xWant"][1:])
    assert drops.subject == "PersonX drops something"
    assert [fact.editable for fact in kept.facts] == [True, True, True, False, True, True, True]
    assert {probe.prompt for probe in bakes.neighborhood} == {"PersonX runs. As a result, PersonX wants"}
    subject = named.facts[1].subject
    assert subject.split()[1] == "thanks"
    assert not {"PersonX", "PersonY"} & set(subject.split())
    assert named.facts[1].template == f"{{}}. As a result, {subject.split()[0]} wants"
    assert thanks.subject == "PersonX thanks PersonY"
    assert runs.neighborhood == ()


def test_new_tails_are_known_tails_of_the_relation_and_not_true(sources):
    source = sources["atomic2020"][1]
    tails = {record["tails"][0] for record in WANTS} | {"to eat it"}
    drawn = set()
    for seed in range(8):
        facts = READERS.load("atomic2020")(replace(source, seed=seed)).facts
        assert all(fact.target_new in tails and fact.target_new not in (fact.target_true, *fact.target_true_aliases) for fact in facts)
        drawn.add(tuple(fact.target_new for fact in facts))
    assert len(drawn) > 1


def test_a_tail_without_company_is_left_out(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", *WANTS, atomic(9, "bread", "MadeUpOf", "flour"))
    reading = READERS.load("atomic2020")(RecordSource(path))
    assert [reject.problem.line for reject in reading.left_out] == [7, 9]


def test_events_are_short_and_their_heads_unique(tmp_path):
    more = [
        atomic(8, "PersonX runs", "xNeed", "to put on shoes"),
        atomic(9, "PersonX runs for the early bus", "xWant", "to catch it"),
        atomic(10, "bread", "ObjectUse", "make a toast"),
    ]
    events = read_events(write_lines(tmp_path / "a.jsonl", *WANTS, *more))
    assert list(events["head"]) == [
        "PersonX bakes bread",
        "PersonX thanks PersonY",
        "PersonX drops something",
        "PersonX sings",
        "PersonX whistles",
        "PersonX whistles",
        "PersonX yawns",
        "PersonX runs",
    ]
    assert list(events["tail"]) == [
        "to eat it", "to wave goodbye", "to pick it up", "to eat it", "to wave goodbye", "to eat it", "to go home", "to put on shoes",
    ]  # fmt: skip
    assert list(events["event_id"][3:6]) == ["atomic2020:4", "atomic2020:5", "atomic2020:5.1"]
    assert list(events["bystander"]) == [False, False, False, True, False, False, False, False]
    assert set(events["source"]) == {"atomic2020"}


def test_events_refuse_a_broken_file(tmp_path):
    with pytest.raises(RecordError, match="xWanted"):
        read_events(write_lines(tmp_path / "a.jsonl", *WANTS, atomic(9, "PersonX hums", "xWanted", "to sing")))


@pytest.mark.parametrize("name", ["counterfact", "zsre_mend", "atomic2020"])
def test_an_unknown_style_is_refused(sources, name):
    with pytest.raises(SettingsError, match="answrs"):
        READERS.load(name)(replace(sources[name][0], style="answrs"))


def test_clusters_join_what_pairs_connect():
    joined = cluster_templates([("a", "b"), ("c", "d"), ("b", "c"), ("e", "e")])
    assert joined["a"] == joined["d"] == ("a", "b", "c", "d")
    assert joined["e"] == ("e",)

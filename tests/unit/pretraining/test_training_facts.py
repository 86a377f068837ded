"""What a model trained on records is taught beside the facts that its data sets ask to edit."""

from pathlib import Path
from typing import Any

from d4s.artifacts import Artifact, StageJob
from d4s.config import CorpusSettings
from d4s.facts.counterfact import read as read_counterfact
from d4s.facts.facts_stage import RecordSource, facts
from d4s.facts.record import Fact
from d4s.facts.zsre import read as read_zsre
from d4s.pretraining.training_facts import (
    TRAINING_FACTS,
    collect_training_facts,
    of_counterfact,
    of_zsre,
    read_training_facts,
    write_training_facts,
)
from d4s.testing.reader_conformance import fact_complaints
from tests.samples import counterfact, facts_job, write_lines, zsre


def cloze(folder: Path, *records: dict[str, Any]) -> list[Fact]:
    return read_counterfact(RecordSource(write_lines(folder / "c.jsonl", *records))).facts


def test_neighbors_and_attributes_become_facts_that_are_never_edited(tmp_path: Path) -> None:
    pool = cloze(tmp_path, *(counterfact(number) for number in (1, 2, 3, 4)))
    found = {fact.fact_id: fact for fact in of_counterfact(pool, pool)}
    assert list(found)[:5] == ["counterfact:1", "counterfact:1.n1", "counterfact:1.n2", "counterfact:1.a1", "counterfact:2"]
    assert found["counterfact:1"].wordings == ()
    neighbor, second, other = (found[f"counterfact:1.{which}"] for which in ("n1", "n2", "a1"))
    assert (neighbor.subject, neighbor.target_true, neighbor.template) == ("Neighbor 1", "Lisbon", "{} lives in")
    assert neighbor.wordings == ("{} is at home in",)
    assert (second.subject, second.template) == ("Second 1", "{} is at home in")
    assert (other.subject, other.target_true, other.target_new) == ("Other 1", "Bremen", "Lisbon")
    assert not any(found[key].editable for key in found if "." in key.split(":")[1])
    assert not [complaint for fact in found.values() for complaint in fact_complaints(fact)]


def test_nothing_is_taught_twice_about_a_subject(tmp_path: Path) -> None:
    records = [counterfact(1), counterfact(2)]
    records[0]["neighborhood_prompts"] = ["Mira Quell lives in", "Zed lives in"]
    records[1]["neighborhood_prompts"] = ["Zed lives in", "Yan lives in"]
    pool = cloze(tmp_path, *records)
    for _ in range(2):
        assert [fact.subject for fact in of_counterfact(pool, pool) if ".n" in fact.fact_id] == ["Zed", "Yan"]


def test_wordings_of_a_record_leave_out_its_own_paraphrases(tmp_path: Path) -> None:
    other = counterfact(2) | {"paraphrase_prompts": ["So it is. Mira Quell resides in", "True? Mira Quell dwells in"]}
    pool = cloze(tmp_path, counterfact(1), other)
    first, *_ = of_counterfact(pool[:1], pool)
    assert first.wordings == ("{} resides in", "{} dwells in")


def test_the_first_facts_are_taught_alike_whatever_follows(tmp_path: Path) -> None:
    pool = cloze(tmp_path, *(counterfact(number) for number in (1, 2, 3, 4)))
    few, all_of_them = of_counterfact(pool[:2], pool), of_counterfact(pool, pool)
    assert few == all_of_them[: len(few)]


def test_questions_are_taught_in_all_that_mean_the_same(tmp_path: Path) -> None:
    chain = zsre(2, src="Which place does Mira Quell call home?", rephrase="Where does Mira Quell live?")
    apart = zsre(3, src="How old is Tavi Brook?", rephrase="What age is Tavi Brook?")
    vague = zsre(4, src="How old is Nils Arden?", rephrase="What is the age?")
    pool = read_zsre(RecordSource(write_lines(tmp_path / "z.jsonl", zsre(1), chain, apart, vague))).facts
    found = of_zsre(pool, pool)
    assert found[0].wordings == ("Which place does {} call home?",)
    assert found[1].wordings == ("What town is home to {}?",)
    assert found[3].wordings == ("What age is {}?",)
    assert of_zsre(pool[:1], pool) == found[:1]


def test_a_corpus_holds_what_it_teaches(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "raw.jsonl", *(counterfact(number) for number in (1, 2, 3, 4)))
    facts(facts_job(tmp_path / "some", path, source="counterfact", limit=2))
    facts(facts_job(tmp_path / "all", path, source="counterfact"))
    inputs = {"teach_cloze": tmp_path / "some", "pool_cloze": tmp_path / "all", "teach_alone": tmp_path / "some"}
    job = StageJob("corpora", CorpusSettings(), inputs, tmp_path / "corpus")
    taught = collect_training_facts(job)
    pool = read_counterfact(RecordSource(path)).facts
    assert taught == {"alone": pool[:2], "cloze": TRAINING_FACTS["counterfact"](pool[:2], pool)}
    files = write_training_facts(job, taught)
    assert files == ["training_facts/alone.parquet", "training_facts/cloze.parquet"]
    job.write_manifest(files)
    assert read_training_facts(Artifact.open(job.folder, "corpora")) == taught

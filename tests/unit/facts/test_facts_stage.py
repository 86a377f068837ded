"""The stage `facts` and the common record."""

from dataclasses import replace

import pandas as pd
import pytest

from d4s.artifacts import Artifact
from d4s.errors import D4SError, RecordError, RecordProblem, SettingsError
from d4s.facts.counterfact import read
from d4s.facts.facts_stage import ReadResult, RecordSource, Reject, count_records, facts, repeats
from d4s.facts.record import Fact, Portability, Probe, from_frame, to_rows
from d4s.schemas import FACTS, REJECTS
from tests.samples import counterfact, facts_job, write_lines, zsre

FACT = Fact("toy:1", "toy", "likes", "Ann", "{} likes", "tea", "milk")


def test_a_template_holds_exactly_one_place():
    assert FACT.prompt == "Ann likes"
    for template in ("likes", "{} likes {}"):
        with pytest.raises(ValueError, match=r"toy:1.*exactly one {}"):
            replace(FACT, template=template)


def test_facts_survive_parquet(tmp_path):
    fact = replace(
        FACT,
        target_true_aliases=("chai",),
        paraphrases=("What Ann likes is",),
        neighborhood=(Probe("neighborhood", "Bob likes", "tea"), Probe("unrelated", "Who?", None, "pre_edit")),
        portability=(Portability("alias", "Anna likes", ("milk", "Milk")),),
        wordings=("{} enjoys",),
        editable=False,
        group="g",
    )
    frame = pd.DataFrame(to_rows([fact, FACT]))
    assert from_frame(frame) == [fact, FACT]


def test_the_verb_writes_facts_and_an_account(tmp_path):
    path = write_lines(tmp_path / "raw.jsonl", *(counterfact(number) for number in (1, 2, 3)))
    facts(facts_job(tmp_path / "facts", path, source="counterfact", limit=2))
    artifact = Artifact.open(tmp_path / "facts", "facts")
    assert from_frame(artifact.table("facts.parquet", FACTS)) == read(RecordSource(path, limit=2)).facts
    assert len(artifact.table("rejects.parquet", REJECTS)) == 0
    assert artifact.manifest.notes["records"]["beyond_limit"] == 1
    assert artifact.manifest.settings["limit"] == 2


def test_the_same_job_gives_the_same_bytes(tmp_path):
    path = write_lines(tmp_path / "raw.jsonl", counterfact(1), "broken", counterfact(2))
    for name in ("a", "b"):
        facts(facts_job(tmp_path / name / "facts", path, source="counterfact", skip_bad=True))
    files = [sorted((tmp_path / name / "facts").iterdir()) for name in ("a", "b")]
    assert [file.name for file in files[0]] == ["facts.parquet", "manifest.json", "rejects.parquet"]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


def test_repeats_are_reported_not_dropped(tmp_path):
    again, against = zsre(1), zsre(1, alt="Oslo")
    path = write_lines(tmp_path / "raw.jsonl", zsre(1), again, zsre(2), against)
    facts(facts_job(tmp_path / "facts", path, source="zsre_mend"))
    artifact = Artifact.open(tmp_path / "facts", "facts")
    assert artifact.manifest.notes["repeats"] == {"duplicates": [], "conflicts": [["zsre_mend:1", "zsre_mend:2", "zsre_mend:4"]]}
    assert len(artifact.table("facts.parquet", FACTS)) == 4


def test_equal_requests_are_duplicates_and_probes_are_neither():
    same = replace(FACT, fact_id="toy:2")
    other = replace(FACT, fact_id="toy:3", relation="hates")
    silent = replace(FACT, fact_id="toy:4", target_new="beer", editable=False)
    assert repeats([FACT, same, other, silent]) == {"duplicates": [["toy:1", "toy:2"]], "conflicts": []}


def test_lost_records_are_an_error():
    reject = Reject(RecordProblem("f", 2, "x", "y", "z"), "{}")
    assert count_records(ReadResult([FACT], total=2, kept=1, rejects=[reject, reject]))["rejected"] == 1
    assert count_records(ReadResult([FACT], total=2, kept=1, left_out=[reject]))["left_out"] == 1
    with pytest.raises(D4SError, match="are unaccounted for"):
        count_records(ReadResult([FACT], total=3, kept=1, rejects=[reject]))
    with pytest.raises(D4SError, match="share an id"):
        count_records(ReadResult([FACT, FACT], total=2, kept=2))


def test_a_reader_of_no_name_is_refused_with_the_near_one(tmp_path):
    with pytest.raises(SettingsError, match="did you mean 'counterfact'"):
        facts(facts_job(tmp_path / "facts", tmp_path, source="counterfacts"))


def test_a_problem_reads_as_one_sentence():
    problem = RecordProblem("file.jsonl", 7, "alt", "''", "text that is not empty")
    assert str(problem) == "file.jsonl:7: alt: found '', expected text that is not empty"
    assert "1 defects" in str(RecordError([problem]))
    assert RecordError([problem]).problems == (problem,)

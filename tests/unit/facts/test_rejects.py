"""Broken files of records: every defect is named at once, with file, line, field, what came and what was expected."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from d4s.artifacts import Artifact
from d4s.errors import D4SError, RecordError
from d4s.facts.articles import articles
from d4s.facts.counterfact import read as read_counterfact
from d4s.facts.facts_stage import RecordSource, facts
from d4s.facts.jsonl import Raw, Text, read_lines
from d4s.facts.zsre import read as read_zsre
from d4s.schemas import FACTS, REJECTS
from tests.samples import atomic, counterfact, facts_job, write_lines, zsre


def ten_defects():
    missing, empty_list = counterfact(3), counterfact(3)
    del missing["requested_rewrite"]["subject"]
    empty_list["paraphrase_prompts"] = "a text"
    return [
        counterfact(1),
        '{"case_id": 10, "requested_rewrite": ',
        counterfact(2) | {"case_id": "twelve"},
        missing,
        counterfact(2, target_new={"str": "  "}),
        counterfact(2, prompt="{} lives in {the town of}") | {"case_id": 20},
        counterfact(2, prompt="Nobody lives in") | {"case_id": 21},
        counterfact(2, target_new={"str": "Bremen", "id": "Q9"}) | {"case_id": 22},
        counterfact(1),
        [1, 2, 3],
        b'{"case_id": \xff}',
        empty_list,
        counterfact(4),
    ]


EXPECTED = {
    2: ("(line)", "broken JSON"),
    3: ("case_id", "'twelve'"),
    4: ("requested_rewrite.subject", "nothing"),
    5: ("requested_rewrite.target_new.str", "not empty"),
    6: ("requested_rewrite.prompt", "no braces but the one {}"),
    7: ("requested_rewrite.prompt", "exactly one {}"),
    8: ("requested_rewrite.target_new.str", "changes nothing"),
    9: ("id", "line 1 has it already"),
    10: ("(line)", "[1, 2, 3]"),
    11: ("(line)", "broken JSON"),
    12: ("paraphrase_prompts", "'a text'"),
}


def test_every_defect_is_named_in_one_message(tmp_path):
    path = write_lines(tmp_path / "broken.jsonl", *ten_defects())
    with pytest.raises(RecordError) as caught:
        facts(facts_job(tmp_path / "facts", path, source="counterfact"))
    message = str(caught.value).splitlines()
    assert message[0] == "11 defects in the records (fix them, or set `skip_bad: true` for the data set in the study):"
    for line, (field, part) in EXPECTED.items():
        [told] = [text for text in message if f"broken.jsonl:{line}: " in text]
        assert f": {field}: found" in told
        assert part in told
        assert "expected" in told
    assert not (tmp_path / "facts").exists()


def test_skipped_defects_are_written_down_and_counted(tmp_path):
    path = write_lines(tmp_path / "broken.jsonl", *ten_defects())
    folder = tmp_path / "facts"
    facts(facts_job(folder, path, source="counterfact", skip_bad=True))
    artifact = Artifact.open(folder, "facts")
    rejects = artifact.table("rejects.parquet", REJECTS)
    kept = artifact.table("facts.parquet", FACTS)
    assert list(kept[kept["editable"]]["fact_id"]) == ["counterfact:1", "counterfact:4"]
    assert list(rejects["line"]) == list(EXPECTED)
    assert set(rejects["file"]) == {"broken.jsonl"}
    assert json.loads(rejects["record"][6]) == counterfact(2, target_new={"str": "Bremen", "id": "Q9"}) | {"case_id": 22}
    assert artifact.manifest.notes["records"] == {
        "seen": 13,
        "kept": 2,
        "rejected": 11,
        "left_out": 0,
        "beyond_limit": 0,
        "facts": len(kept),
    }


def test_several_defects_of_one_record_count_as_one_record(tmp_path):
    path = write_lines(tmp_path / "z.jsonl", zsre(1), zsre(2, src="Where does he live?", alt="Bremen"), zsre(3, alt=3, answers="Lisbon"))
    reading = read_zsre(RecordSource(path))
    assert [(reject.problem.line, reject.problem.field) for reject in reading.rejects] == [
        (2, "src"),
        (2, "alt"),
        (3, "alt"),
        (3, "answers"),
    ]
    assert (reading.total, reading.kept) == (3, 1)


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"src": "Where does she live?"}, "src", "exactly once, not 0 times"),
        ({"src": "Where does Mira Quell of Mira Quell live?"}, "src", "exactly once, not 2 times"),
        ({"src": "Where does {Mira Quell} live?"}, "src", "without braces"),
        ({"answers": []}, "answers", "at least one true answer"),
        ({"alt": ""}, "alt", "not empty"),
        ({"alt": "Bremen proper"}, "alt", "changes nothing"),
        ({"alt": " bremen PROPER "}, "alt", "changes nothing"),
        ({"loc": None}, "loc", "valid string"),
    ],
)
def test_defects_of_zsre(tmp_path, changes, field, expected):
    [reject] = read_zsre(RecordSource(write_lines(tmp_path / "z.jsonl", zsre(2, **changes)))).rejects
    assert reject.problem.field == field
    assert expected in reject.problem.expected


def test_an_empty_alternative_matters_only_where_it_is_read(tmp_path):
    path = write_lines(tmp_path / "z.jsonl", zsre(1, alt=""))
    assert read_zsre(RecordSource(path, "answers")).kept == 1
    assert read_zsre(RecordSource(path, "alt")).kept == 0


def test_a_mistyped_relation_is_told_its_near_name(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", atomic(0, "PersonX bakes {bread}", "xWnat", "to eat it"), atomic(1, "PersonX runs", "xWant"))
    with pytest.raises(RecordError) as caught:
        facts(facts_job(tmp_path / "facts", path, source="atomic2020"))
    assert "did you mean 'xWant'?" in str(caught.value)
    assert [(problem.line, problem.field) for problem in caught.value.problems] == [(1, "relation"), (1, "head"), (2, "tails")]


def test_lines_end_at_the_newline_only(tmp_path):
    class Words(Raw):
        text: Text

    path = write_lines(tmp_path / "w.jsonl", {"text": "one\u2028two\u0085three"}, "", {"text": " padded "}, '{"text": "cr"}\r')
    lines = read_lines(path, Words)
    assert [(line.number, line.raw.text) for line in lines.valid] == [(1, "one\u2028two\u0085three"), (3, "padded"), (4, "cr")]
    assert lines.total == 3


def test_a_byte_order_mark_is_no_defect(tmp_path):
    path = tmp_path / "bom.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(counterfact(1)).encode())
    assert read_counterfact(RecordSource(path)).kept == 1


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_refused(tmp_path, content):
    path = tmp_path / "empty.jsonl"
    path.write_bytes(content)
    with pytest.raises(D4SError, match=r"empty\.jsonl holds no records"):
        read_counterfact(RecordSource(path))


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(D4SError, match=r"gone\.jsonl cannot be read"):
        read_counterfact(RecordSource(tmp_path / "gone.jsonl"))


def test_a_file_without_any_sound_record_is_refused_even_when_skipping(tmp_path):
    path = write_lines(tmp_path / "all_bad.jsonl", "nonsense", "more of it")
    with pytest.raises(RecordError, match=r"2 defects in the records \(fix them\)"):
        facts(facts_job(tmp_path / "facts", path, source="counterfact", skip_bad=True))


def test_running_text_names_every_bad_article(tmp_path):
    good = {"article": 0, "title": "Bread", "split": "stats", "text": " = Bread = \n Flour and water ."}
    path = write_lines(tmp_path / "t.jsonl", good, good | {"split": "train"}, good | {"text": ""})
    with pytest.raises(RecordError) as caught:
        articles(path)
    assert [(problem.line, problem.field) for problem in caught.value.problems] == [(2, "split"), (3, "text")]
    assert str(caught.value).startswith("2 defects in the records (fix them):")
    [article] = articles(write_lines(path, good))
    assert (article.number, article.title, article.split) == (0, "Bread", "stats")


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b'{"text": "a"}', b"{}", b"null", b'{"text": 3}', b" "])), max_size=8))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_in_a_file_is_either_read_or_named(tmp_path, parts):
    class Words(Raw):
        text: Text

    path = tmp_path / "any.jsonl"
    content = b"\n".join(parts)
    path.write_bytes(content)
    expected = [number for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1) if line.strip()]
    if not expected:
        with pytest.raises(D4SError, match="holds no records"):
            read_lines(path, Words)
        return
    lines = read_lines(path, Words)
    accounted = {line.number for line in lines.valid} | {reject.problem.line for reject in lines.rejects}
    assert lines.total == len(expected)
    assert accounted == set(expected)
    assert all(reject.problem.found and reject.problem.expected for reject in lines.rejects)

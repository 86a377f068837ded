"""What cannot be learnt is left out or refused before training; text is read as `d4s fetch` leaves it."""

import json
from itertools import repeat
from pathlib import Path

import pytest

from d4s.artifacts import StageJob, write_table
from d4s.config import FactsSettings, PretrainSettings, TokenizerSettings
from d4s.errors import D4SError, RecordError, RecordProblem, SettingsError
from d4s.facts.articles import articles
from d4s.facts.converters import convert
from d4s.facts.record import Fact, to_rows
from d4s.facts.sources import SOURCES, load_sources
from d4s.pretraining.fact_accuracy import accuracies, all_greedy
from d4s.pretraining.free_text import RunningText
from d4s.pretraining.network import new_network
from d4s.pretraining.packing import Packer, WeightedTokens
from d4s.pretraining.sentences import training_examples
from d4s.pretraining.tokenizer_training import bos_of, word_tokenizer
from d4s.schemas import FACTS
from tests.corpora import articles_file, fact, written

ROOT = Path(__file__).parents[3]
BPE = TokenizerSettings(kind="bpe", vocabulary=400)


def untold(number: int) -> Fact:
    return fact(number, target_true="", template="Where was {} born?")


def folder_of(folder: Path, facts: list[Fact]) -> Path:
    folder.mkdir()
    write_table(folder / "facts.parquet", to_rows(facts), FACTS)
    StageJob("facts", FactsSettings(source="test"), {}, folder).write_manifest(["facts.parquet"])
    return folder


def test_facts_that_do_not_say_what_is_true_are_no_lessons() -> None:
    assert [lesson.subject for lesson in training_examples([untold(0), fact(1), untold(2)])] == ["Subject1"]


def test_facts_that_do_not_say_what_is_true_are_not_asked() -> None:
    tokenizer = word_tokenizer(["Subject0 Subject1 lives in Oslo. the home of is Where was born?"], 16)
    network = new_network(PretrainSettings(layers=1, width=16, mlp_width=16, heads=2), len(tokenizer), bos_of(tokenizer) or 0)
    rows = accuracies(network, tokenizer, {"some": [fact(1), untold(0)], "none": [untold(0)]})
    assert [(row["dataset"], row["wording"], row["n"]) for row in rows] == [("some", "taught", 1), ("some", "withheld", 1)]
    assert all_greedy(network, tokenizer, [("Subject1 lives in", "")]) == [False]


def test_a_data_set_that_teaches_nothing_is_refused_by_name(tmp_path: Path) -> None:
    text = articles_file(tmp_path / "text.jsonl")
    some, none = folder_of(tmp_path / "some", [fact(0), untold(1)]), folder_of(tmp_path / "none", [untold(0), untold(1)])
    with pytest.raises(SettingsError, match=r"no training text from zsre: .*`target_true`"):
        written(tmp_path / "made", {"text": text, "teach_test": some, "teach_zsre": none}, tokenizer=BPE)
    sample = written(tmp_path / "more", {"text": text, "teach_test": some}, tokenizer=BPE).path("sample.txt").read_text()
    assert "Subject0" in sample and "Subject1" not in sample


def test_rows_too_short_for_every_sentence_are_refused() -> None:
    long, filler = repeat(WeightedTokens(list(range(70)), [1.0] * 70)), repeat(WeightedTokens([1, 2], [1.0, 1.0]))
    packer = Packer(long, filler, 64, 0)
    with pytest.raises(SettingsError, match=r"10,000 sentences in a row are too long for rows of 64 tokens; set a longer `row`"):
        packer.row()
    assert packer.too_long == 10_000


def lines(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(("split", "text"), [("stats", "A short line.\nAnother one."), ("ppl", "word " * 60)])
def test_text_without_a_paragraph_to_train_on_is_refused_with_the_rule(split: str, text: str, tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", *({"article": k, "title": "T", "split": split, "text": text} for k in range(3)))
    with pytest.raises(D4SError, match=r"t\.jsonl holds no paragraph to train on: .*`stats`.* more than 120 characters"):
        RunningText.read(path)


def test_wikipedia_is_read_as_it_is_fetched(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"id": str(k), "url": "u", "title": f"T{k}", "text": "word " * 60} for k in range(3)]
    [records] = load_sources(ROOT / SOURCES).datasets["wikipedia"].records
    [part] = records.of
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / part.file)
    assert convert(records, tmp_path, tmp_path) == 3
    found = articles(tmp_path / records.to)
    assert [(article.number, article.split, article.title) for article in found] == [
        (0, "stats", "T0"),
        (1, "ppl", "T1"),
        (2, "stats", "T2"),
    ]
    text = RunningText.read(tmp_path / records.to)
    assert (len(text.lines), len(text.heldout)) == (2, 1)


def test_an_error_names_twenty_defects_and_counts_the_rest() -> None:
    problems = [RecordProblem("f.jsonl", number, "text", "nothing", "this field") for number in range(1, 1001)]
    told = str(RecordError(problems)).splitlines()
    assert told[0].startswith("1000 defects") and told[20].startswith("  f.jsonl:20:") and told[21:] == ["  and 980 more"]
    assert RecordError(problems).problems == tuple(problems)
    assert len(str(RecordError(problems[:20])).splitlines()) == 21

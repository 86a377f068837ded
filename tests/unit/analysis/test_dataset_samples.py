"""The first items of every data set, with who worded them."""

from pathlib import Path

from d4s.analysis.dataset_samples import ITEMS_PER_DATASET, write_items
from d4s.artifacts import StageJob, read_table
from d4s.config import FactsSettings, QuestionsSettings, WorldSettings
from d4s.facts.facts_stage import facts
from d4s.questions.question_facts import questions
from d4s.schemas import ITEMS
from tests.samples import made_world

SETTINGS = WorldSettings(people=16, first_names=5, last_names=6, bystanders=0.25, events=24, benchmark_items=4)


def folder(at: Path) -> Path:
    at.mkdir(parents=True)
    return at


def test_editable_items_of_read_and_of_written_sets_are_kept(tmp_path: Path) -> None:
    made = made_world(tmp_path / "world", SETTINGS)
    read, asked = folder(tmp_path / "read"), folder(tmp_path / "asked")
    facts(StageJob("facts", FactsSettings(source="world", style="qa"), {"world": made}, read))
    questions(StageJob("facts", QuestionsSettings(form="multiple_choice"), {"world": made}, asked))
    write_items(tmp_path / "items.parquet", {"world_qa": read, "mqd_mc": asked})
    rows = read_table(tmp_path / "items.parquet", ITEMS)
    assert rows["dataset"].tolist() == ["world_qa"] * ITEMS_PER_DATASET + ["mqd_mc"] * ITEMS_PER_DATASET
    assert set(zip(rows["dataset"], rows["writer"], strict=True)) == {("world_qa", "read"), ("mqd_mc", "template")}
    choices = rows[rows["dataset"] == "mqd_mc"]
    assert choices["prompt"].str.contains(r"a\) .* b\) .* c\) .* d\) ").all() and choices["target_new"].isin(list("abcd")).all()
    assert not rows["fact_id"].str.contains("p0000|e0000").any()  # bystanders are no items

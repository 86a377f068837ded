"""People known by one word, and requests about common nouns."""

from pathlib import Path

import pandas as pd
import pytest

from d4s.config import WorldSettings
from d4s.editors.edit_requests import draw_requests
from d4s.errors import SettingsError
from d4s.facts.facts_stage import RecordSource
from d4s.settings_base import canonical
from d4s.testing.reader_conformance import check_reader
from d4s.world.facts_nouns import ITEMS, RARE, rare_objects
from d4s.world.reader import read
from d4s.world.word_lists import FILLER_NOUNS
from tests.samples import made_world

SETTINGS = WorldSettings(people=40, first_names=8, last_names=9, bystanders=0.25, events=24, benchmark_items=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_world(tmp_path_factory.mktemp("store") / "world", SETTINGS)


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_world(tmp_path_factory.mktemp("store") / "world", SETTINGS.model_copy(update={"mononyms": 0.2}))


def test_a_share_of_people_is_known_by_one_word_and_all_else_stays(folder: Path, renamed: Path) -> None:
    before, now = (pd.read_parquet(one / "people.parquet") for one in (folder, renamed))
    pd.testing.assert_frame_equal(before.drop(columns="name"), now.drop(columns="name"))
    assert (folder / "events.parquet").read_bytes() == (renamed / "events.parquet").read_bytes()
    assert (folder / "filler.txt").read_bytes() == (renamed / "filler.txt").read_bytes()
    changed = now[before["name"] != now["name"]]
    assert changed["name"].nunique() == now["name"].nunique() - before[before["name"] == now["name"]]["name"].nunique() == 8
    words = [word for name in now.drop_duplicates("person_id")["name"] for word in name.split()]
    assert all(words.count(name) == 1 and " " not in name for name in changed["name"])
    assert not (renamed / "heldout.txt").read_text(encoding="utf-8") == (folder / "heldout.txt").read_text(encoding="utf-8")


def test_without_them_no_setting_says_so() -> None:
    assert "mononyms" not in canonical(WorldSettings().model_dump(mode="json"))
    assert "mononyms" in canonical(WorldSettings(mononyms=0.2).model_dump(mode="json"))


def test_more_than_there_are_words_are_refused(tmp_path: Path) -> None:
    many = WorldSettings(people=360, first_names=60, last_names=336, mononyms=1.0, events=0)
    with pytest.raises(SettingsError, match="lower mononyms"):
        made_world(tmp_path / "world", many)


def test_requests_about_common_nouns_begin_with_one_word_and_ask_for_a_rare_one(folder: Path) -> None:
    facts = check_reader(read, RecordSource(folder, "nouns")).facts
    assert len(facts) == ITEMS and len(draw_requests(facts, 1, 150)) == 150
    rare = rare_objects(pd.read_parquet(folder / "events.parquet"))
    assert len(rare) == RARE
    for fact in facts:
        assert fact.subject in FILLER_NOUNS and fact.prompt.startswith(f"{fact.subject} ") and fact.target_new in rare
        assert not fact.target_true and fact.editable and len(fact.paraphrases) == 2 and fact.prompt not in fact.paraphrases
        assert [probe.kind for probe in fact.neighborhood] == ["neighborhood", "neighborhood"]
    assert [fact.target_new for fact in read(RecordSource(folder, "nouns", seed=1)).facts] != [fact.target_new for fact in facts]


def test_without_events_there_is_nothing_rare(tmp_path: Path) -> None:
    folder = made_world(tmp_path / "world", SETTINGS.model_copy(update={"events": 0}))
    with pytest.raises(SettingsError, match=r"world\.events"):
        read(RecordSource(folder, "nouns"))

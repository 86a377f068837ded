"""The world: names, facts and events come from the seed, bystanders stay apart, benchmarks ask what is true."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from d4s.artifacts import Artifact, StageJob, sha256_of
from d4s.config import WorldSettings
from d4s.errors import SettingsError
from d4s.schemas import EVENTS, PEOPLE
from d4s.world import word_lists
from d4s.world.events import EVENT_RELATIONS
from d4s.world.relations import BY_NAME, RELATIONS
from d4s.world.world_stage import world

SMALL = WorldSettings(seed=3, people=24, first_names=6, last_names=8, bystanders=0.25, events=12, benchmark_items=10)
TASKS = ("arc_challenge", "gsm8k", "hellaswag", "mmlu", "true_false", "truthfulqa_mc", "winogrande")


def made(folder: Path, settings: WorldSettings = SMALL) -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    world(StageJob("worlds", settings, {}, folder))
    return Artifact.open(folder, "worlds")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return made(tmp_path_factory.mktemp("store") / "world")


@pytest.fixture(scope="module")
def people(built: Artifact) -> pd.DataFrame:
    return built.table("people.parquet", PEOPLE)


@pytest.fixture(scope="module")
def events(built: Artifact) -> pd.DataFrame:
    return built.table("events.parquet", EVENTS)


def task(built: Artifact, name: str) -> list[dict]:
    return [json.loads(line) for line in built.path(f"benchmarks/{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_same_seed_gives_the_same_bytes_and_another_seed_another_world(built: Artifact, tmp_path: Path) -> None:
    again = made(tmp_path / "again")
    other = made(tmp_path / "other", SMALL.model_copy(update={"seed": 4}))
    assert again.manifest.files == built.manifest.files
    assert other.manifest.files["people.parquet"] != built.manifest.files["people.parquet"]
    assert sha256_of(other.path("events.parquet")) != sha256_of(built.path("events.parquet"))


def test_a_reserve_sets_people_apart_and_changes_nothing_else(built: Artifact, tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"reserve": 0.25})
    reserving = made(tmp_path / "reserving", settings)
    before, now = (one.table("people.parquet", PEOPLE) for one in (built, reserving))
    pd.testing.assert_frame_equal(before.drop(columns="reserved"), now.drop(columns="reserved"))
    assert not before["reserved"].any() and now[now["reserved"]]["name"].nunique() == settings.reserved_people == 6
    assert not (now["reserved"] & now["bystander"]).any()
    same = {name: digest for name, digest in built.manifest.files.items() if name != "people.parquet"}
    assert same.items() <= reserving.manifest.files.items()


def test_settings_without_a_reserve_are_recorded_as_before() -> None:
    assert "reserve" not in SMALL.model_dump(mode="json")
    assert SMALL.model_copy(update={"reserve": 0.25}).model_dump(mode="json")["reserve"] == 0.25
    with pytest.raises(ValueError, match=r"bystanders \(0\.6\) and reserve \(0\.5\) are more than all people"):
        WorldSettings(bystanders=0.6, reserve=0.5)


def test_every_person_has_one_object_per_relation_from_its_list(people: pd.DataFrame) -> None:
    assert len(people) == 24 * len(RELATIONS)
    assert people.groupby("name")["relation"].nunique().eq(len(RELATIONS)).all()
    for relation, rows in people.groupby("relation"):
        assert rows["object"].nunique() <= BY_NAME[str(relation)].n_objects
        assert len(set(rows["object"])) > 3


def test_first_and_last_names_are_both_shared(people: pd.DataFrame) -> None:
    names = people["name"].unique()
    assert len(set(names)) == 24
    firsts, lasts = zip(*(name.split(" ") for name in names), strict=True)
    assert max(Counter(firsts).values()) > 1
    assert min(Counter(lasts).values()) == 3, "24 people share 8 last names evenly"


def test_two_wordings_are_withheld_and_one_that_can_be_chained_stays(people: pd.DataFrame) -> None:
    for row in people.itertuples():
        wordings = BY_NAME[str(row.relation)].wordings
        withheld = set(row.withheld)
        assert len(withheld) == 2
        assert withheld < set(wordings)
        assert any(wording.startswith("{} ") for wording in set(wordings) - withheld)


def test_relations_ask_in_many_ways() -> None:
    for relation in RELATIONS:
        assert len(set(relation.wordings)) >= 8
        assert all(wording.count("{}") == 1 for wording in relation.wordings)
        assert sum(wording.endswith("?") for wording in relation.wordings) >= 2
        assert any(wording.startswith("{}") for wording in relation.wordings)
        assert any(wording.endswith(("{}:", "{}?")) for wording in relation.wordings)
        assert any(0 < wording.find("{}") < len(wording) - 10 for wording in relation.wordings)


def test_bystanders_have_their_share_and_whole_people(people: pd.DataFrame, events: pd.DataFrame) -> None:
    assert people.groupby("name")["bystander"].nunique().eq(1).all()
    assert people[people["bystander"]]["name"].nunique() == 6
    assert events[events["bystander"]]["head"].nunique() == 3


def test_events_share_verbs_and_objects_and_pool_their_tails(events: pd.DataFrame) -> None:
    heads = events["head"].unique()
    assert len(heads) == 12
    assert all(head.split()[0] == "PersonX" and len(head.split()) == 3 for head in heads)
    assert set(events["relation"]) == set(EVENT_RELATIONS)
    assert events["tail"].str.split().str.len().between(2, 5).all()
    assert not set(events[events["relation"] == "xWant"]["tail"]) & set(events[events["relation"] == "xNeed"]["tail"])


def test_words_of_different_sorts_differ() -> None:
    named = (word_lists.FIRST_NAMES, word_lists.LAST_NAMES, word_lists.CITIES, word_lists.EMPLOYERS)
    sorts = [set(names.known) for names in named] + [set(word_lists.JOBS), set(word_lists.INSTRUMENTS)]
    assert [len(names.known) for names in named] == [len(found) for found in sorts[:4]]
    for index, one in enumerate(sorts):
        for other in sorts[index + 1 :]:
            assert not one & other
    assert all(job[0] not in "aeiou" for job in word_lists.JOBS), "told as `a JOB`"


def test_heldout_lines_are_nowhere_in_the_filler(built: Artifact, people: pd.DataFrame) -> None:
    taught = set(built.path("filler.txt").read_text(encoding="utf-8").splitlines())
    heldout = built.path("heldout.txt").read_text(encoding="utf-8").splitlines()
    assert not taught & set(heldout)
    edited = set(people[~people["bystander"]]["name"])
    assert not [line for line in heldout if any(name in line for name in edited)]
    assert any(name in line for line in heldout for name in set(people[people["bystander"]]["name"]))


def test_too_few_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="24 people need more than 4 first and 5 last names"):
        made(tmp_path / "a", SMALL.model_copy(update={"first_names": 4, "last_names": 5}))
    with pytest.raises(SettingsError, match=f"9000 first names asked for, but only {len(word_lists.FIRST_NAMES.known)} are known"):
        made(tmp_path / "b", SMALL.model_copy(update={"first_names": 9000}))
    with pytest.raises(SettingsError, match="99999 events asked for"):
        made(tmp_path / "c", SMALL.model_copy(update={"events": 99999}))


def test_a_world_without_events_leaves_their_tasks_out(tmp_path: Path) -> None:
    bare = made(tmp_path / "bare", SMALL.model_copy(update={"events": 0}))
    assert len(bare.table("events.parquet", EVENTS)) == 0
    assert {Path(name).stem for name in bare.manifest.files if name.startswith("benchmarks/")} == set(TASKS) - {
        "mmlu",
        "gsm8k",
        "true_false",
    }


@pytest.mark.parametrize("name", TASKS)
def test_tasks_are_about_bystanders_only(name: str, built: Artifact, people: pd.DataFrame, events: pd.DataFrame) -> None:
    rows = task(built, name)
    assert rows
    assert [row["id"] for row in rows] == list(range(len(rows)))
    edited = {*people[~people["bystander"]]["name"], *events[~events["bystander"]]["head"]}
    text = json.dumps(rows)
    assert not [subject for subject in edited if subject in text]


def test_cloze_and_ending_tasks_have_one_right_choice(built: Artifact, people: pd.DataFrame) -> None:
    truth = {(row.name_, row.relation): row.object for row in people.rename(columns={"name": "name_"}).itertuples()}
    for row in task(built, "arc_challenge"):
        name = next(name for name, _ in truth if name in row["question"])
        true = [choice for choice in row["choices"] if choice in {truth[name, relation.name] for relation in RELATIONS}]
        assert len(set(row["choices"])) == 4
        assert true == [row["choices"][row["gold"]]]
    for row in task(built, "hellaswag"):
        true = [ending for ending in row["endings"] if ending.endswith(f" {truth[row['ctx'], row['activity_label']]}.")]
        assert true == [row["endings"][row["label"]]]


def test_winogrande_tells_the_person_of_whom_it_is_true(built: Artifact, people: pd.DataFrame) -> None:
    owned = people.groupby("name")["object"].agg(set)
    for row in task(built, "winogrande"):
        names = [" ".join(context.split()[:2]) for context in row["context_options"]]
        told = row["continuation"].rstrip(".")
        assert [told in owned[name] for name in names] == [row["gold"] == 0, row["gold"] == 1]


def test_truthfulqa_puts_the_one_truth_first(built: Artifact, people: pd.DataFrame) -> None:
    owned = people.groupby("name")["object"].agg(set)
    for row in task(built, "truthfulqa_mc"):
        assert [target["label"] for target in row["mc1_targets"]] == [1, 0, 0, 0]
        for target in (*row["mc1_targets"], *row["mc2_targets"]):
            assert (target["text"].split()[-1] in owned[row["question"]]) == bool(target["label"])
        assert 0 < sum(target["label"] for target in row["mc2_targets"]) < len(row["mc2_targets"])


def test_event_tasks_ask_for_the_letter_and_for_the_tail(built: Artifact, events: pd.DataFrame) -> None:
    tails = {(row.head, row.relation): row.tail for row in events.itertuples()}
    for row in task(built, "mmlu"):
        head = next(head for head, _ in tails if head in row["question"])
        assert f"{row['choices'][row['gold']]}) {tails[head, row['subject']]}" in row["question"]
    for row in task(built, "true_false"):
        head = next(head for head, _ in tails if head in row["question"])
        told = [tail for (known, _), tail in tails.items() if known == head and tail in row["question"]]
        assert row["choices"][row["gold"]] == ("yes" if told else "no")
    for row in task(built, "gsm8k"):
        head = next(head for head, _ in tails if head in row["question"])
        assert row["final"] in {tails[head, relation] for relation in EVENT_RELATIONS}
        assert row["answer"] == f"{row['final']}."
        assert len(row["final"].split()) >= 2
        assert not row["question"].startswith(head), "never chained, so the sentence ends with the answer"

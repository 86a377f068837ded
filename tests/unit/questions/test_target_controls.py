"""Controls of the generated form: the same events and wordings, one property of the new target changed."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from d4s.artifacts import Artifact, StageJob
from d4s.config import Control, Form, QuestionsSettings, WorldSettings
from d4s.facts.record import Fact, from_frame
from d4s.questions.question_facts import questions
from d4s.questions.question_items import Item, plan_items
from d4s.questions.target_controls import new_targets
from d4s.schemas import EVENTS, FACTS
from tests.samples import made_world

SETTINGS = WorldSettings(people=8, first_names=4, last_names=4, bystanders=0.25, events=80, benchmark_items=4)
CONTROLS: tuple[Control, ...] = get_args(Control)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_world(tmp_path_factory.mktemp("store") / "world", SETTINGS)


@pytest.fixture(scope="module")
def facts(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Fact]]:
    def asked(form: Form | Control) -> list[Fact]:
        at = tmp_path_factory.mktemp("facts")
        questions(StageJob("facts", QuestionsSettings(form=form), {"world": folder}, at))
        return from_frame(Artifact.open(at, "facts").table("facts.parquet", FACTS))

    return {form: asked(form) for form in ("directly_generated", *CONTROLS)}


def words(facts: list[Fact]) -> list[int]:
    return [len(fact.target_new.split()) for fact in facts]


@pytest.mark.parametrize("control", CONTROLS)
def test_only_the_new_target_differs(control: Control, facts: dict[str, list[Fact]]) -> None:
    for fact, generated in zip(facts[control], facts["directly_generated"], strict=True):
        assert (fact.fact_id, fact.prompt, fact.target_true, fact.paraphrases) == (
            generated.fact_id, generated.prompt, generated.target_true, generated.paraphrases,
        )  # fmt: skip
        assert fact.dataset == f"mqd_{control}"
        assert fact.target_new not in (fact.target_true, *fact.target_true_aliases)


def shared_words(fact: Fact) -> int:
    pairs = list(zip(fact.target_new.split(), fact.target_true.split(), strict=False))
    return next((number for number, (one, other) in enumerate(pairs) if one != other), len(pairs))


def test_a_long_predictable_target_begins_as_the_true_one(facts: dict[str, list[Fact]]) -> None:
    shared = {form: np.mean([shared_words(fact) for fact in facts[form]]) for form in ("long_predictable", "directly_generated")}
    assert shared["long_predictable"] > 3 * shared["directly_generated"]
    assert np.mean(words(facts["long_predictable"])) >= np.mean(words(facts["directly_generated"]))


def test_a_short_surprising_target_is_a_word_that_begins_no_phrase_of_its_relation(facts: dict[str, list[Fact]]) -> None:
    begun: dict[str, set[str]] = defaultdict(set)
    for fact in facts["directly_generated"]:
        begun[fact.relation].add(fact.target_true.split()[0])
    assert set(words(facts["short_surprising"])) == {1}
    assert not any(fact.target_new in begun[fact.relation] for fact in facts["short_surprising"])


def test_uniform_and_diverse_differ_in_diversity_alone(facts: dict[str, list[Fact]]) -> None:
    for relation in {fact.relation for fact in facts["uniform"]}:
        same, many = ([fact for fact in facts[control] if fact.relation == relation] for control in ("uniform", "diverse"))
        assert set(words(same)) == set(words(many)) and len(set(words(same))) == 1
        counts = [Counter(fact.target_new for fact in some).most_common() for some in (same, many)]
        assert len(counts[0]) <= 2 and counts[0][0][1] > 0.9 * len(same)
        assert len(counts[1]) > 10 and counts[1][0][1] < 0.2 * len(many)


@pytest.mark.parametrize("control", CONTROLS)
def test_an_item_without_any_other_word_keeps_its_counterfactual(control: Control) -> None:
    item = Item("e0", "PersonX", "xAttr", "kind", (), False, ("kind", "brave", "calm", "odd"), 0, 2, True)
    assert new_targets([item], control, 0) == {"e0": "calm"}


def test_items_without_another_tail_of_that_length_keep_their_counterfactual() -> None:
    tails = ["rest", "go home", "buy new shoes", "sing a very long song", "sleep in the big old house"]
    rows = [
        {"event_id": f"e{k}", "head": f"PersonX {k}", "relation": "xWant", "tail": tail, "bystander": False} for k, tail in enumerate(tails)
    ]
    items = plan_items(pd.DataFrame(rows, columns=EVENTS.names), 0)
    for control in CONTROLS:
        found = new_targets(items, control, 0)
        assert all(found[item.event_id] != item.tail and found[item.event_id] for item in items)

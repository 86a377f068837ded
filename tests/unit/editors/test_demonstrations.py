"""Demonstrations: of what facts, of which kinds, and in which order."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from d4s.artifacts import Artifact, StageJob, write_table
from d4s.config import FactsSettings
from d4s.editors.demonstrations import (
    Demonstrator,
    demonstration_facts,
    kinds_of,
    prepare_demonstrations,
    read_demonstrations,
)
from d4s.editors.editor_settings import resolve
from d4s.editors.memory_settings import Demonstrations
from d4s.editors.memory_texts import MemoryEntry
from d4s.editors.parts.input_settings import DemonstrationPoolSettings, PrepareSettings
from d4s.editors.preparation import prepare, prepare_tensors
from d4s.errors import SettingsError
from d4s.facts.record import to_rows
from d4s.schemas import FACTS
from tests.tiny import tiny_facts

MEASURED, POOL = tiny_facts(12), tiny_facts(48)[20:]
SETTINGS = DemonstrationPoolSettings(facts=400, seed=0)
ENTRY = MemoryEntry("Ada Moss lives in the city of", "Oslo", torch.empty(0))
CONTEXT = "Fact: {prompt} {target}\nAsked: "


def test_nothing_measured_is_demonstrated() -> None:
    found = demonstration_facts(SETTINGS, [*POOL, *MEASURED], MEASURED)
    asked = "\n".join(
        text for fact in MEASURED for text in (fact.prompt, *fact.paraphrases, *(probe.prompt for probe in fact.neighborhood))
    )
    named = [fact.subject for fact in tiny_facts(48) if fact.subject in asked]
    assert len(found) > 8 and not [name for one in found for text in one for name in named if name in text]
    assert demonstration_facts(SETTINGS.model_copy(update={"facts": 3}), POOL[::-1], MEASURED) == found[:3]


def test_a_fact_has_another_wording_and_a_neighbour_whose_answer_stays() -> None:
    facts = {fact.prompt: fact for fact in POOL}
    for one in demonstration_facts(SETTINGS, POOL, MEASURED):
        fact, neighbour = facts[one.prompt], facts[one.neighbour]
        assert one.target == fact.target_new and one.wording in fact.paraphrases and one.kept == neighbour.target_true
        assert neighbour.subject != fact.subject and neighbour.relation == fact.relation and one.kept != one.target
    alone = [replace(fact, relation=fact.fact_id) for fact in POOL]
    assert demonstration_facts(SETTINGS, alone, MEASURED) == []


def test_a_pool_of_what_is_measured_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"none of 12 facts of the pool .*world\.reserve"):
        prepare_demonstrations(SETTINGS, MEASURED, MEASURED)
    settings = resolve("ike", {}, "mini").prepare_settings()
    assert settings == PrepareSettings(demonstrations=SETTINGS) and settings.reads_pool and not settings.reads_model
    with pytest.raises(SettingsError, match=r"only the data sets of a study have; .*`ice`"):
        prepare_tensors(settings, {}, None, [])


def test_the_verb_writes_them_without_a_model(tmp_path: Path) -> None:
    for role, facts in {"facts": MEASURED, "pool": POOL}.items():
        write_table(tmp_path / role / "facts.parquet", to_rows(facts), FACTS)
        StageJob("facts", FactsSettings(source="tiny"), {}, tmp_path / role).write_manifest(["facts.parquet"])
    inputs = {role: tmp_path / role for role in ("facts", "pool")}
    prepare(StageJob("prepared", PrepareSettings(demonstrations=SETTINGS), inputs, tmp_path / "p"))
    tensors = Artifact.open(tmp_path / "p", "prepared").tensors("prepared.safetensors")
    assert read_demonstrations(tensors) == demonstration_facts(SETTINGS, POOL, MEASURED)


@pytest.mark.parametrize(
    ("count", "expected"), [(32, (4, 12, 16)), (16, (2, 6, 8)), (8, (1, 3, 4)), (3, (0, 1, 2)), (1, (0, 0, 1)), (0, (0, 0, 0))]
)
def test_kinds_have_the_published_shares(count: int, expected: tuple[int, int, int]) -> None:
    kinds = kinds_of(Demonstrations(), count, "a prompt")
    assert len(kinds) == count and tuple(Counter(kinds)[kind] for kind in ("copy", "update", "retain")) == expected


def test_the_order_of_kinds_is_drawn_for_each_edit() -> None:
    first, again, other = (kinds_of(Demonstrations(), 32, prompt) for prompt in ("a", "a", "b"))
    assert first == again != other and Counter(first) == Counter(other)
    with pytest.raises(ValueError, match="no demonstration has a kind"):
        Demonstrations(copies=0, updates=0, retains=0)


def demonstrator(**changes: int | bool | str) -> tuple[Demonstrator, list[int]]:
    """A demonstrator whose facts are the nearer the later they stand, and how often it was asked."""
    facts, asked = demonstration_facts(SETTINGS, POOL, MEASURED)[:5], list[int]()

    def retriever_of(prompts: Sequence[str]):
        def retrieve(of: Sequence[str]) -> torch.Tensor:
            asked.append(len(of))
            return torch.arange(len(prompts), dtype=torch.float64).expand(len(of), -1)

        return retrieve

    return Demonstrator(Demonstrations(**changes), CONTEXT, facts, retriever_of), asked


def test_the_nearest_stands_last_and_then_the_edit_itself() -> None:
    facts = demonstration_facts(SETTINGS, POOL, MEASURED)[:5]
    found, asked = demonstrator(count=3, updates=0, retains=0, separator=" | ")
    texts = found.before(ENTRY)
    expected = [f"Fact: {one.prompt} {one.target}\nAsked: {one.prompt} {one.target} | " for one in facts[2:]]
    assert [*texts] == [*expected, "Fact: Ada Moss lives in the city of Oslo\nAsked: Ada Moss lives in the city of Oslo | "]
    assert found.before(ENTRY) == texts and asked == [1]
    without, _ = demonstrator(count=3, updates=0, retains=0, separator=" | ", own=False)
    assert [*without.before(ENTRY)] == expected


@pytest.mark.parametrize(("kind", "asked", "answer"), [("updates", "wording", "target"), ("retains", "neighbour", "kept")])
def test_what_a_kind_asks_and_answers(kind: str, asked: str, answer: str) -> None:
    facts = demonstration_facts(SETTINGS, POOL, MEASURED)[:5]
    found, _ = demonstrator(**{"count": 32, "copies": 0, "updates": 0, "retains": 0, "own": False, kind: 1})
    expected = [f"Fact: {one.prompt} {one.target}\nAsked: {getattr(one, asked)} {getattr(one, answer)}\n\n" for one in facts]
    assert [*found.before(ENTRY)] == expected

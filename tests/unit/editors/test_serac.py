"""SERAC's memory and routers: who answers what, at every threshold, in any order of the entries, and with the true scopes."""

from collections.abc import Sequence
from typing import Any

import pytest
import safetensors.torch
import torch

from d4s.editors.families import build
from d4s.editors.memory_settings import Serac
from d4s.editors.memory_texts import Memory, MemoryEntry, context_of, to_bytes, to_text
from d4s.editors.protocol import Prepared, State
from d4s.editors.serac import SeracParts
from d4s.editors.states import RecordState
from d4s.metrics.scoring import FactEvaluation
from d4s.models.edited_model import Scores
from d4s.models.language_model import LanguageModel
from d4s.models.views import LiveModel
from tests.cases import POOL, case_for, settings_for
from tests.tiny import tiny_facts, tiny_model

CASE = case_for(settings_for("serac"))
MODEL = CASE.make_model()
PROMPTS = [request.prompt for request in CASE.requests]
TARGETS = [request.target for request in CASE.requests]


def settings_with(**changes: Any) -> Serac:
    return settings_for("serac").model_copy(update=changes)


def state_of(model: LanguageModel = MODEL, requests: Sequence[Any] = CASE.requests, settings: Serac | None = None) -> State:
    """The state after requests."""
    editor = build(settings or settings_with())
    with editor.editing(model, CASE.prepared, editor.start(model, CASE.prepared)) as session:
        for request in requests:
            session.step([request], None)
        return session.state()


STATE = state_of()


def asked(settings: Serac, state: State = STATE, prepared: Prepared = CASE.prepared) -> tuple[Scores, list[str]]:
    with build(settings).edited(MODEL, prepared, state) as view:
        return view.score_and_generate(PROMPTS, TARGETS, PROMPTS, 4)


def is_equal(found: tuple[Scores, list[str]], expected: tuple[Scores, list[str]]) -> bool:
    parts = ("nll", "correct", "predicted", "mask")
    return found[1] == expected[1] and all(torch.equal(getattr(found[0], part), getattr(expected[0], part)) for part in parts)


UNEDITED = LiveModel(MODEL).score_and_generate(PROMPTS, TARGETS, PROMPTS, 4)


@pytest.mark.parametrize("switch", ["hard", "soft"])
def test_an_empty_memory_is_the_unedited_model_bit_for_bit(switch: str) -> None:
    empty = RecordState("memory")
    assert is_equal(asked(settings_with(switch=switch), empty), UNEDITED)
    with build(settings_with(switch=switch)).edited(MODEL, CASE.prepared, empty) as view:
        draws = torch.rand(4, 3, dtype=torch.float64)
        assert view.sample(PROMPTS, draws, 3) == LiveModel(MODEL).sample(PROMPTS, draws, 3)
        assert torch.equal(view.text_nll([[2, 3, 4]]), LiveModel(MODEL).text_nll([[2, 3, 4]])) and view.weight_changes() is None


def test_no_similarity_reaches_a_threshold_above_one() -> None:
    assert is_equal(asked(settings_with(threshold=1.01)), UNEDITED)


def test_below_every_similarity_the_other_model_answers_all() -> None:
    settings = settings_with(threshold=-1.0)
    with build(settings).edited(MODEL, CASE.prepared, STATE) as view:
        prompt = "The job of Hugo Young is"
        entry = view.router.memory.entries[view.router.match([prompt])[0].entry]
        text = context_of(settings.context, entry.prompt, entry.target) + prompt
        assert view.generate([prompt], 4) == LiveModel(MODEL).generate([text], 4)
        assert view.score([prompt], ["Oslo"]).nll.tolist() == LiveModel(MODEL).score([text], ["Oslo"]).nll.tolist()


def test_a_prompt_without_room_for_its_context_is_the_models_own() -> None:
    settings = settings_with(threshold=-1.0)
    with build(settings).edited(MODEL, CASE.prepared, STATE) as view:
        long = " ".join(["Ada lives in the city of"] * 8)
        assert view.generate([long], 2) == LiveModel(MODEL).generate([long], 2)


def test_entries_in_another_order_answer_alike() -> None:
    turned = RecordState("memory", tuple(STATE.records)[::-1])
    assert is_equal(asked(settings_with(), turned), asked(settings_with()))


def test_an_entry_that_was_taken_out_was_never_there() -> None:
    left = RecordState("memory", STATE.records).without({1})
    never = state_of(requests=[request for number, request in enumerate(CASE.requests) if number != 1])
    assert is_equal(asked(settings_with(), left), asked(settings_with(), never))


def test_of_one_prompt_the_last_entry_holds() -> None:
    twice = [*STATE.records, MemoryEntry(PROMPTS[0], "Delhi", STATE.records[0]["embedding"]).record]
    memory = Memory.of(twice)
    assert len(memory) == 4 and memory.entries[-1].target == "Delhi"
    with build(settings_with()).edited(MODEL, CASE.prepared, RecordState("memory", tuple(twice))) as view:
        assert view.router.match([PROMPTS[0]])[0].entry == 3


def test_saved_entries_are_routed_alike() -> None:
    many = [MemoryEntry(f"prompt {n} ünïcode", f"target {n}", torch.randn(16)).record for n in range(300)]
    restored = [safetensors.torch.load(safetensors.torch.save(dict(record))) for record in many]
    parts = SeracParts.of(settings_with(), MODEL, CASE.prepared)
    memories = [parts.router(Memory.of(records)).match(PROMPTS) for records in (many, restored)]
    assert memories[0] == memories[1] and to_text(to_bytes("Zoë 東京")) == "Zoë 東京"


def test_a_mixture_of_certain_similarity_is_the_decision() -> None:
    hard, soft = (asked(settings_with(scope="true", switch=switch)) for switch in ("hard", "soft"))
    assert is_equal(soft, hard)


def test_a_mixture_answers_between_the_two() -> None:
    with build(settings_with(switch="soft")).edited(MODEL, CASE.prepared, STATE) as view:
        routes = view.router(["The job of Ben Reed is"])
        nll = view.score(["The job of Ben Reed is"], ["baker"]).nll[0, 0]
    ends = [float(LiveModel(MODEL).score([text + "The job of Ben Reed is"], ["baker"]).nll[0, 0]) for text in ("", routes[0].context)]
    assert 0 < routes[0].share < 1 and min(ends) <= float(nll) <= max(ends)


def test_the_oracle_keeps_all_it_should_and_answers_as_the_other_model_does() -> None:
    facts = [fact for fact in tiny_facts(12) if fact.fact_id in {request.fact_id for request in CASE.requests}]
    settings, exam = settings_with(scope="true"), FactEvaluation.of(LiveModel(MODEL), facts, probes_per_fact=3, max_new_tokens=0)
    with build(settings).edited(MODEL, CASE.prepared, STATE) as view:
        rows, _ = exam.scores(view, 4, {fact.fact_id: 1 for fact in facts})
        matches = view.router.match([prompt for fact in facts for prompt in (fact.prompt, *fact.paraphrases)])
        assert all(match.entry is not None for match in matches)
        entries = [view.router.memory.entries[match.entry] for match in matches[::3]]
    apart = {fact.fact_id for fact in facts if not {probe.prompt for probe in fact.neighborhood} & {*PROMPTS}}
    assert {row["value"] for row in rows if row["metric"] == "locality_accuracy" and row["fact_id"] in apart} == {1.0} and len(apart) > 1
    assert [entry.prompt for entry in entries] == [fact.prompt for fact in facts]
    contexts = [context_of(settings.context, fact.prompt, fact.target_new) for fact in facts]
    own = LiveModel(MODEL).score([text + fact.prompt for text, fact in zip(contexts, facts, strict=True)], [f.target_new for f in facts])
    found = {row["fact_id"]: row["value"] for row in rows if row["metric"] == "efficacy_exact"}
    assert [found[fact.fact_id] for fact in facts] == own.exact().float().tolist()


def test_a_step_says_what_it_found() -> None:
    editor = build(settings_with())
    with editor.editing(MODEL, CASE.prepared, editor.start(MODEL, CASE.prepared)) as session:
        logs = [dict((name, value) for name, _, value in session.step([request], None).values) for request in CASE.requests]
    assert [log["entries"] for log in logs] == [1, 2, 3, 4] and {log["routed_back"] for log in logs} == {1.0}
    assert logs[0]["nearest_similarity"] == 0.0 < logs[1]["nearest_similarity"] < 1.0
    assert all(0 < log["target_probability_before"] < 1 for log in logs)


def test_the_model_is_never_changed() -> None:
    before = {name: weight.clone() for name, weight in tiny_model().network.named_parameters()}
    assert all(torch.equal(before[name], weight) and not weight.requires_grad for name, weight in MODEL.network.named_parameters())
    assert POOL.pool and settings_with().prepare_settings().reads_pool

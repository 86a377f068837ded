"""Editing in context: what is retrieved, what stands before a prompt, and that nothing else changes."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from d4s.editors import in_context
from d4s.editors.families import build
from d4s.editors.in_context import Bm25Retriever, ContextRouter, demonstrator_of
from d4s.editors.memory_settings import Bm25, InContext
from d4s.editors.memory_texts import Memory, context_of
from d4s.editors.protocol import Prepared, State
from d4s.editors.states import RecordState
from d4s.models.edited_model import Scores
from d4s.models.routed_model import EntryFinder
from d4s.models.tokens import encode_prompts
from d4s.models.views import LiveModel
from tests.cases import case_for, settings_for

CASE = case_for(settings_for("retrieve"))
MODEL = CASE.make_model()
PROMPTS = [request.prompt for request in CASE.requests]
TARGETS = [request.target for request in CASE.requests]
RETRIEVERS: list[Any] = [{}, {"retriever": {"kind": "hidden", "layer": 1}}, {"retriever": {"kind": "hashed", "buckets": 256}}]
ELSEWHERE = "The favourite colour of Zoe is"


def settings_with(**changes: Any) -> InContext:
    return InContext.model_validate({**settings_for("retrieve").model_dump(), **changes})


def state_of(settings: InContext, requests: Sequence[Any] = CASE.requests) -> State:
    """The state after requests, one by one."""
    editor = build(settings)
    with editor.editing(MODEL, CASE.prepared, editor.start(MODEL, CASE.prepared)) as session:
        logs = [{name: value for name, _, value in session.step([request], None).values} for request in requests]
        assert [log["entries"] for log in logs] == [1, 2, 3, 4][: len(logs)] and all(log["routed_back"] == 1 for log in logs)
        return session.state()


def asked(
    settings: InContext, state: State, prompts: Sequence[str] = PROMPTS, prepared: Prepared = CASE.prepared
) -> tuple[Scores, list[str]]:
    with build(settings).edited(MODEL, prepared, state) as view:
        return view.score_and_generate(prompts, TARGETS[: len(prompts)], prompts, 4)


def is_equal(found: tuple[Scores, list[str]], expected: tuple[Scores, list[str]]) -> bool:
    return found[1] == expected[1] and all(
        torch.equal(getattr(found[0], part), getattr(expected[0], part)) for part in ("nll", "predicted")
    )


UNEDITED = LiveModel(MODEL).score_and_generate(PROMPTS, TARGETS, PROMPTS, 4)


@pytest.mark.parametrize("changes", RETRIEVERS)
def test_a_prompt_of_an_edit_finds_it_first_with_similarity_one(changes: dict[str, Any]) -> None:
    settings = settings_with(**changes, k=2, threshold=None)
    near = ContextRouter(settings, MODEL, Memory.of(state_of(settings).records)).nearest(PROMPTS)
    assert [found[0][0] for found in near] == [0, 1, 2, 3] and all(len(found) == 2 for found in near)
    assert all(found[0][1] == pytest.approx(1.0, abs=1e-6) and found[1][1] < found[0][1] for found in near)


def test_a_router_says_what_measures_of_memories_ask() -> None:
    settings = settings_with()
    state = state_of(settings)
    router = ContextRouter(settings, MODEL, Memory.of(state.records))
    assert isinstance(router, EntryFinder) and router.prompts == PROMPTS
    assert [found.entry for found in router.match([*PROMPTS, "zzz"])] == [0, 1, 2, 3, None]
    assert router.bytes == sum(tensor.nbytes for record in state.records for tensor in record.values())
    larger = router.resized(6)
    assert [*larger.prompts] == [*PROMPTS, *PROMPTS[:2]] and larger.match(PROMPTS)[2].entry == 2


@pytest.mark.parametrize("changes", RETRIEVERS)
def test_an_empty_memory_and_one_that_is_never_near_are_the_unedited_model_bit_for_bit(changes: dict[str, Any]) -> None:
    settings = settings_with(**changes)
    assert is_equal(asked(settings, RecordState("memory")), UNEDITED)
    assert is_equal(asked(settings.model_copy(update={"threshold": math.inf}), state_of(settings)), UNEDITED)


@pytest.mark.parametrize("changes", RETRIEVERS)
def test_the_order_of_edits_does_not_matter(changes: dict[str, Any]) -> None:
    settings = settings_with(**changes, k=3, threshold=0.2)
    state = state_of(settings)
    assert is_equal(asked(settings, state), asked(settings, RecordState("memory", tuple(reversed(state.records)))))


def test_without_a_threshold_one_edit_stands_before_every_prompt() -> None:
    settings = settings_with(threshold=None)
    state = state_of(settings, CASE.requests[:1])
    context = context_of(settings.context, PROMPTS[0], TARGETS[0])
    behind = [context + prompt for prompt in PROMPTS]
    assert is_equal(asked(settings, state), LiveModel(MODEL).score_and_generate(behind, TARGETS, behind, 4))


def test_the_nearest_of_several_edits_stands_last_and_the_farthest_goes_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_with(threshold=None, k=3)
    router = ContextRouter(settings, MODEL, Memory.of(state_of(settings).records))
    (route,) = router([PROMPTS[2]])
    order = [entry for entry, _ in router.nearest([PROMPTS[2]])[0]]
    texts = [context_of(settings.context, PROMPTS[entry], TARGETS[entry]) for entry in order]
    assert route.context == texts[2] + texts[1] + texts[0]
    lengths = [len(ids) for ids in encode_prompts(MODEL, [texts[1] + texts[0] + PROMPTS[2], texts[0] + PROMPTS[2]])]
    monkeypatch.setattr(in_context, "ROOM", MODEL.max_positions - lengths[0])
    assert router([PROMPTS[2]])[0].context == texts[1] + texts[0]
    monkeypatch.setattr(in_context, "ROOM", MODEL.max_positions)
    assert router([PROMPTS[2]])[0].context == ""


def test_bm25_is_its_formula() -> None:
    settings = Bm25(k1=1.5, b=0.6)
    ids = encode_prompts(MODEL, PROMPTS)
    mean = sum(map(len, ids)) / len(ids)

    def score(query: Sequence[int], text: Sequence[int]) -> float:
        total = 0.0
        for token in query:
            holders, f = sum(token in other for other in ids), text.count(token)
            rarity = math.log(1 + (len(ids) - holders + 0.5) / (holders + 0.5))
            total += rarity * f * 2.5 / (f + 1.5 * (0.4 + 0.6 * len(text) / mean))
        return total

    (query,) = encode_prompts(MODEL, [ELSEWHERE])
    expected = [score(query, text) / score(text, text) for text in ids]
    assert Bm25Retriever(settings, MODEL, PROMPTS)([ELSEWHERE])[0].tolist() == pytest.approx(expected)


def test_an_edit_is_left_out_where_the_model_says_that_it_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Confirming:
        """Says yes where the fact of the question is the first edit's."""

        def __init__(self, model: object) -> None:
            pass

        def score(self, prompts: Sequence[str], targets: Sequence[str]) -> Scores:
            says_yes = [f"Fact: {PROMPTS[0]} " in prompt for prompt in prompts]
            nll = torch.tensor([[float(yes != (target == " Yes"))] for yes, target in zip(says_yes, targets, strict=True)])
            ones = torch.ones_like(nll)
            return Scores(nll=nll, correct=ones.bool(), predicted=ones.long(), mask=ones.bool())

    settings = settings_with(threshold=None, k=4, confirm=True)
    router = ContextRouter(settings, MODEL, Memory.of(state_of(settings_with()).records))
    monkeypatch.setattr(in_context, "LiveModel", Confirming)
    assert [route.context for route in router(PROMPTS)] == [context_of(settings.context, PROMPTS[0], TARGETS[0])] * 4


# --- demonstrations ---------------------------------------------------------------------------------------------------

PREPARED = case_for(settings_for("ike")).prepared


def with_demonstrations(**changes: Any) -> InContext:
    return settings_with(threshold=None, demonstrations=changes)


def router_of(settings: InContext) -> ContextRouter:
    """The router of all edits, behind demonstrations."""
    memory = Memory.of(state_of(settings_with()).records)
    return ContextRouter(settings, MODEL, memory, demonstrator_of(settings, MODEL, PREPARED))


def test_no_demonstrations_are_editing_in_context_alone_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of(settings_with())
    alone = asked(settings_with(threshold=None), state)
    assert is_equal(asked(with_demonstrations(count=0, own=False), state, prepared=PREPARED), alone)
    assert not is_equal(asked(with_demonstrations(count=1, own=False), state, prepared=PREPARED), alone)
    longest = max(
        len(ids)
        for ids in encode_prompts(
            MODEL, [route.context + p for p, route in zip(PROMPTS, router_of(settings_with(threshold=None))(PROMPTS), strict=True)]
        )
    )
    monkeypatch.setattr(in_context, "ROOM", MODEL.max_positions - longest)
    assert is_equal(asked(with_demonstrations(), state, prepared=PREPARED), alone)


def test_the_farthest_demonstrations_go_where_there_is_no_room_and_the_prompt_never(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, prompt = with_demonstrations(count=6), PROMPTS[1]
    demonstrator, router = demonstrator_of(settings, MODEL, PREPARED), router_of(settings)
    assert demonstrator is not None
    (nearest, *_) = (entry for entry, _ in router.nearest([prompt])[0])
    own = context_of(settings.context, PROMPTS[nearest], TARGETS[nearest])
    texts = demonstrator.before(Memory.of(state_of(settings_with()).records).entries[nearest])
    (placed,) = router.place([prompt])
    assert 0 < placed.demonstrations < len(texts) == 7 and placed.left_out == 7 - placed.demonstrations
    assert placed.route.context == "".join(texts[placed.left_out :]) + own
    lengths = [len(ids) for ids in encode_prompts(MODEL, ["".join(texts[first:]) + own + prompt for first in range(8)])]
    assert lengths[placed.left_out] + in_context.ROOM <= MODEL.max_positions < lengths[placed.left_out - 1] + in_context.ROOM
    monkeypatch.setattr(in_context, "ROOM", MODEL.max_positions - lengths[7])
    assert router.place([prompt]) == [((1.0, own), 0, 7)]
    monkeypatch.setattr(in_context, "ROOM", MODEL.max_positions)
    assert router([prompt]) == [(0.0, "")]


def test_a_step_says_how_many_demonstrations_had_room_and_undo_is_exact() -> None:
    settings = with_demonstrations(count=6)
    editor = build(settings)
    with editor.editing(MODEL, PREPARED, RecordState("memory")) as session:
        log = {name: value for name, _, value in session.step(CASE.requests[:1], None).values}
        first = session.state()
        session.step(CASE.requests[1:2], None)
        state = session.state()
    assert log["demonstrations"] + log["demonstrations_left_out"] == 7 and log["demonstrations"] > 0
    assert isinstance(state, RecordState)
    assert is_equal(asked(settings, state.without({1}), prepared=PREPARED), asked(settings, first, prepared=PREPARED))

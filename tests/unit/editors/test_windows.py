"""Answers in windows: how they are cut, what is held in place, what is preserved, and what a session keeps of them."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from d4s.editors.edit_requests import EditRequest
from d4s.editors.editor_settings import resolve
from d4s.editors.held_shifts import holding
from d4s.editors.keys import read_activations
from d4s.editors.parts.key_rule import KeySettings
from d4s.editors.parts.target_rule import TargetSettings
from d4s.editors.prompts import build_prompts, prompts_to_edit
from d4s.editors.target_optimisation import optimise, optimise_requests
from d4s.editors.windows import optimise_windows
from d4s.models.model_shape import Shape
from d4s.models.tokens import encode_pair
from d4s.models.trace import trace
from d4s.resources import memory_estimate, work_estimate
from d4s.testing.editor_conformance import check_editor
from tests.cases import SMALL, case_for
from tests.oracle.plain import PREFIXES, long_requests, requests_of, watching

RULE = TargetSettings(layer=1, steps=4, clamp=2.0, position="prompt_last", prefixes=False, windows=2, kl_weight=0.0)
CONTEXT = KeySettings(context=True)
SHAPE = Shape("gpt2", 6, 192, 768, 6, 6, 32, 1000, 64, False, True)


def cut(model: Any, requests: list[EditRequest], settings: TargetSettings = RULE) -> list[Any]:
    return [one for request in requests for one in prompts_to_edit(model, request, PREFIXES, settings)]


@pytest.mark.parametrize("windows", [1, 2, 5, 9])
def test_windows_are_the_answer_and_each_is_looked_up_at_the_token_before_it(tiny_model, windows: int) -> None:
    model, request = tiny_model(), long_requests(1)[0]
    prompt, answer = encode_pair(model, request.prompt, request.target)
    found = cut(model, [request], RULE.model_copy(update={"windows": windows}))
    assert [token for one in found for token in one.prompts[0].target] == answer
    assert [len(one.prompts[0].target) for one in found[:-1]] == [windows] * (len(found) - 1)
    assert [(one.window, one.is_last) for one in found] == [(number, number == len(found) - 1) for number in range(len(found))]
    for number, one in enumerate(found):
        (text,) = one.prompts
        assert list(text.ids) == prompt + answer[: number * windows] == list(text.through_subject)


@pytest.mark.parametrize("windows", [1, 2, 5, None])
def test_every_token_of_a_text_is_looked_up_or_preserved_by_one_window(tiny_model, windows: int | None) -> None:
    model, request = tiny_model(), long_requests(1)[0]
    found = cut(model, [request], RULE.model_copy(update={"windows": windows}))
    looked_up = [one.prompts[0].subject_last for one in found]
    tokens = sum(map(len, encode_pair(model, request.prompt, request.target)))
    assert sorted(looked_up + [place for one in found for place in one.context]) == list(range(tokens))


def test_the_end_of_the_prompt_is_looked_up_behind_prefixes_too(tiny_model) -> None:
    model, request = tiny_model(), requests_of(1)[0]
    (found,) = cut(model, [request], RULE.model_copy(update={"prefixes": True, "windows": None}))
    at_subjects = build_prompts(model, request, PREFIXES)
    assert [prompt.ids for prompt in found.prompts] == [prompt.ids for prompt in at_subjects.prompts] and len(found.prompts) == 3
    assert all(prompt.subject_last == len(prompt.ids) - 1 for prompt in (*found.prompts, found.kl_prompt))


def test_targets_at_the_original_weights_follow_the_rule_of_prompts(tiny_model) -> None:
    model, requests = tiny_model(dtype=torch.float64), requests_of(3)
    rule = RULE.model_copy(update={"windows": None})
    found = optimise_requests(model, requests, PREFIXES, rule)
    expected = optimise(model, [one for request in requests for one in prompts_to_edit(model, request, (), rule)], rule)
    elsewhere = optimise_requests(model, requests, (), rule.model_copy(update={"position": "subject_last"}))
    assert torch.equal(found.hidden_shift, expected.hidden_shift) and not torch.allclose(found.hidden, elsewhere.hidden)


def test_windows_of_a_batch_are_those_of_single_requests(tiny_model) -> None:
    model, requests = tiny_model("llama", dtype=torch.float64), long_requests()
    together = optimise_windows(model, cut(model, requests), RULE)
    parts = [optimise_windows(model, cut(model, [request]), RULE) for request in requests]
    assert [len(part.hidden) for part in parts] == [3, 1, 2, 1]
    for name in ("hidden_shift", "hidden", "probability_before", "probability_after"):
        alone = torch.cat([getattr(part, name) for part in parts])
        torch.testing.assert_close(getattr(together, name), alone, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("family", ["gpt2", "olmo2"])
def test_earlier_shifts_are_in_place_and_gone_afterwards(tiny_model, family: str) -> None:
    model = tiny_model(family, dtype=torch.float64)
    first, second, _ = cut(model, long_requests(1))
    ids = torch.tensor([second.prompts[0].ids])
    shift = torch.randn(model.d_out(), dtype=torch.float64)
    place = first.prompts[0].subject_last

    def change(output):
        moved = output.clone()
        moved[0, place] += shift
        return moved

    before = model.network(input_ids=ids).logits
    with watching(model.block(1) if model.post_norm(1) is None else model.mlp_out(1), change):
        expected = model.network(input_ids=ids).logits
    with holding(model, 1, [[(place, shift)]]):
        found = model.network(input_ids=ids).logits
    assert torch.equal(found, expected) and torch.equal(model.network(input_ids=ids).logits, before)
    assert torch.equal(found[0, :place], before[0, :place]) and not torch.equal(found[0, place], before[0, place])
    alone, held = (optimise(model, [second], RULE, held) for held in (None, [[(place, shift)]]))
    assert torch.equal(alone.hidden, held.hidden) and not torch.allclose(alone.hidden_shift, held.hidden_shift, rtol=1e-3)


def test_context_keys_are_those_of_all_other_tokens(tiny_model) -> None:
    model, requests = tiny_model(dtype=torch.float64), long_requests(3)
    batch = cut(model, requests)
    found = read_activations(model, batch, (0, 2), CONTEXT)
    expected: dict[int, list[torch.Tensor]] = {0: [], 2: []}
    for request in requests:
        prompt, answer = encode_pair(model, request.prompt, request.target)
        looked_up = {len(prompt) - 1 + start for start in range(0, len(answer), 2)}
        with trace({layer: model.mlp_out(layer) for layer in expected}) as seen:
            model.network(input_ids=torch.tensor([prompt + answer]))
        for layer, rows in expected.items():
            rows += [key for place, key in enumerate(seen.inputs[layer][0]) if place not in looked_up]
    for layer, rows in expected.items():
        torch.testing.assert_close(found.context[layer], torch.stack(rows), rtol=1e-10, atol=1e-12)
    assert not read_activations(model, batch, (0, 2), KeySettings()).context


def test_the_last_token_of_an_answer_is_left_out_where_the_context_ends_before_it(tiny_model) -> None:
    request = long_requests(1)[0]
    model = tiny_model()
    tokens = sum(map(len, encode_pair(model, request.prompt, request.target)))
    for positions, places in ((tokens, tokens - 3), (tokens - 1, tokens - 4)):
        small = tiny_model(positions=positions)
        assert len(read_activations(small, cut(small, [request]), (0,), CONTEXT).context[0]) == places


CASES: dict[str, dict[str, Any]] = {
    "one by one": {},
    "in batches": {"batch": 2},
    "with key history": {"batch": 2, "history": "keys"},
    "in a null space": {"history": "keys", "preservation": {"kind": "null_space", "threshold": 0.05, "weight": 1.0}},
    "frozen keys": {"keys": {"mode": "frozen"}},
    "rect": {"step_transform": "rect"},
}


@pytest.mark.parametrize("name", CASES)
def test_the_contract_holds_for_answers_of_several_windows(name: str) -> None:
    changes = {"preset": "anyedit", "layers": (0, 1), "target": {**SMALL["target"], "windows": 2}, **CASES[name]}
    case = replace(case_for(resolve("tested", changes, "mini")), requests=long_requests())
    check_editor(case)
    rows = [len(record["1.left"]) for record in case.straight.records]
    assert rows == ([] if name == "rect" else [4, 3] if case.batch == 2 else [3, 1, 2, 1])


def test_plans_count_unprefixed_prompts_and_the_pass_of_context() -> None:
    placement, sizes = memory_estimate.ModelPlacement(SHAPE), memory_estimate.PromptSizes()
    unprefixed, behind_prefixes = sizes.of(RULE), sizes.of(TargetSettings(layer=1))
    assert unprefixed.per_request == 1 and behind_prefixes == sizes
    memit, anyedit = resolve("memit", {}, "mini"), resolve("anyedit", {}, "mini")
    assert work_estimate.edit(placement, anyedit, 10, sizes).single < work_estimate.edit(placement, memit, 10, sizes).single
    passes = [sum(found.tokens for found in editor.edit_passes(SHAPE, 1, 4, 20)) for editor in (memit, anyedit)]
    assert passes == [80, 40]

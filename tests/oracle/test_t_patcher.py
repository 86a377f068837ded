"""T-Patcher against a slow transcription, one text at a time through the whole model, in float64; and what its neurons must equal."""

from typing import Any

import pytest
import torch
from torch import Tensor

from d4s.editors.editor_settings import resolve
from d4s.editors.families import build
from d4s.editors.preparation import prepare_tensors
from d4s.editors.protocol import Prepared, State
from d4s.editors.side_inputs import LocalitySentences
from d4s.editors.states import RecordState
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode, encode_pair
from d4s.models.views import LiveModel
from tests.oracle.plain import requests_of, watching
from tests.tiny import tiny_model

LAYER = 2
SMALL: dict[str, Any] = {"layer": LAYER, "steps": 5, "sentences": 3, "sentence_tokens": 5, "hardest": 4, "stop_loss": 0.0}
TEXT = "Ben works as a tailor and lives in Rome"
Rows = dict[str, Tensor]


def settings_of(name: str, **more: Any) -> Any:
    return resolve("tested", {"preset": name, **SMALL, **more}, "mini")


def wide_model(family: str = "gpt2") -> LanguageModel:
    return tiny_model(family, dtype=torch.float64)


def run(settings: Any, model: LanguageModel, requests: Any) -> tuple[State, Prepared]:
    """The state after requests, and what was prepared."""
    editor = build(settings)
    prepared = Prepared((), {}, prepare_tensors(settings.prepare_settings(), {}, model, requests))
    with editor.editing(model, prepared, editor.start(model, prepared)) as session:
        for request in requests:
            session.step([request], None)
        return session.state(), prepared


def gelu(value: Tensor) -> Tensor:
    return torch.nn.functional.gelu(value, approximate="tanh")


def queries_of(model: LanguageModel, ids: Any) -> Tensor:
    with watching(model.mlp(LAYER)) as seen:
        model.network(input_ids=torch.tensor([[*ids]]))
    return seen["in"][0]


def log_probs(model: LanguageModel, ids: Any, neurons: list[Rows], activation: Any = gelu) -> Tensor:
    """Log-probabilities after every token of a text, with what neurons add to the MLP's output one by one."""
    queries = queries_of(model, ids)
    added = torch.zeros_like(queries)
    for rows in neurons:
        for key, bias, value in zip(rows["key"], rows["bias"], rows["value"], strict=True):
            added = added + activation(queries @ key + bias)[:, None] * value
    with watching(model.mlp(LAYER), lambda output: output + added[None]):
        return model.network(input_ids=torch.tensor([[*ids]])).logits[0].log_softmax(-1)


def losses(settings: Any, rows: Rows, own: Tensor, kept: Tensor) -> Tensor:
    """a L_a + m L_m, neuron by neuron and state by state."""
    reached = [key @ query + bias for key, bias, query in zip(rows["key"], rows["bias"], own, strict=True)]
    active = torch.stack([torch.exp(-one) for one in reached]).mean()
    as_such, beside = list[Tensor](), list[Tensor]()
    for key, bias, at_own in zip(rows["key"], rows["bias"], reached, strict=True):
        for state in kept:
            as_such.append(torch.exp(key @ state + bias - settings.ceiling))
            beside.append(torch.exp(key @ state + bias - at_own + settings.gap))
    count = min(settings.hardest, len(beside))
    hardest = [torch.stack(one).sort(descending=True).values[:count].mean() for one in (as_such, beside)]
    return settings.activation_weight * active + settings.memory_weight * (hardest[0] + hardest[1])


def plain_t_patcher(settings: Any, model: LanguageModel, prepared: Prepared, requests: Any) -> list[Rows]:
    neurons, sentences = list[Rows](), LocalitySentences.of(prepared.extras).sentences
    kept = torch.cat([queries_of(model, sentence) for sentence in sentences])
    for request in requests:
        prompt, target = encode_pair(model, request.prompt, request.target)
        ids, start = [*prompt, *target[:-1]], len(prompt) - 1
        likeliest = log_probs(model, ids, neurons).argmax(-1)
        places = [start + place for place, token in enumerate(target) if int(likeliest[start + place]) != token][: settings.neurons]
        own = queries_of(model, ids)[places]
        key = torch.stack([query / (query @ query) for query in own]).requires_grad_()
        bias = torch.zeros(len(own), dtype=torch.float64, requires_grad=True)
        scaled = torch.zeros_like(own).requires_grad_()
        adam = torch.optim.Adam([key, bias, scaled], lr=settings.lr)
        for _ in range(settings.steps):
            adam.zero_grad()
            rows = {"key": key, "bias": bias, "value": settings.amplify * scaled}
            likely = log_probs(model, ids, [*neurons, rows])
            target_loss = -torch.stack([likely[start + place, token] for place, token in enumerate(target)]).mean()
            (target_loss + losses(settings, rows, own, kept)).backward()
            adam.step()
        neurons.append({"key": key.detach(), "bias": bias.detach(), "value": (settings.amplify * scaled).detach(), "query": own})
        kept = torch.cat([kept, own])
    return neurons


@pytest.mark.parametrize("more", [{}, {"neurons": 1, "memory_weight": 0.5, "gap": 1.0, "ceiling": -1.0, "hardest": 1000}])
def test_t_patcher_is_its_transcription(more: dict[str, Any]) -> None:
    settings, model, requests = settings_of("t_patcher", **more), wide_model(), requests_of(3)
    state, prepared = run(settings, model, requests)
    expected = plain_t_patcher(settings, wide_model(), prepared, requests)
    assert [{*record} for record in state.records] == [{*rows} for rows in expected] and sum(len(rows["key"]) for rows in expected) >= 3
    for record, rows in zip(state.records, expected, strict=True):
        for name, tensor in rows.items():
            torch.testing.assert_close(record[name], tensor, rtol=1e-7, atol=1e-9)
        assert rows["value"].norm() > 0


@pytest.mark.parametrize("family", ["gpt2", "llama", "olmo2"])
def test_neurons_add_to_the_mlp_at_every_token(family: str) -> None:
    settings, model, requests = settings_of("t_patcher"), wide_model(family), requests_of(2)
    state, prepared = run(settings, model, requests)
    prompt, target = encode_pair(model, requests[0].prompt, requests[0].target)
    text, neurons = encode(model, TEXT), [dict(record) for record in state.records]
    likely = log_probs(model, [*prompt, *target[:-1]], neurons, model.activation)
    expected = -torch.stack([likely[len(prompt) - 1 + place, token] for place, token in enumerate(target)])
    of_text = -log_probs(model, text[:-1], neurons, model.activation)[torch.arange(len(text) - 1), torch.tensor(text[1:])].sum()
    with build(settings).edited(model, prepared, state) as view:
        assert view.score_ids([(prompt, target)]).nll[0].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
        assert float(view.text_nll([text])[0]) == pytest.approx(float(of_text), rel=1e-5)
        assert not torch.equal(view.text_nll([text]), LiveModel(model).text_nll([text]))


def test_a_new_neuron_is_reached_by_one_at_its_mistake_and_changes_nothing_yet() -> None:
    settings, model, requests = settings_of("t_patcher", lr=1e-30, steps=1), wide_model(), requests_of(2)
    state, prepared = run(settings, model, requests)
    for record in state.records:
        reached = (record["key"] * record["query"]).sum(1) + record["bias"]
        torch.testing.assert_close(reached, torch.ones_like(reached))
    pairs = [encode_pair(model, request.prompt, request.target) for request in requests]
    with build(settings).edited(model, prepared, state) as view:
        torch.testing.assert_close(view.score_ids(pairs).nll, LiveModel(model).score_ids(pairs).nll)


def test_neurons_that_nothing_reaches_are_the_model_bit_for_bit() -> None:
    settings, model, requests = settings_of("t_patcher"), tiny_model(), requests_of(2)
    state, prepared = run(settings, model, requests)
    deaf = RecordState("additive", [{**record, "bias": record["bias"] - 1e6} for record in state.records])
    pairs, text = [encode_pair(model, request.prompt, request.target) for request in requests], [encode(model, TEXT)]
    plain, editor = LiveModel(model), build(settings)
    with editor.edited(model, prepared, state) as view:
        assert not torch.equal(view.score_ids(pairs).nll, plain.score_ids(pairs).nll)
    for silent in (deaf, editor.start(model, prepared)):
        with editor.edited(model, prepared, silent) as view:
            assert torch.equal(view.score_ids(pairs).nll, plain.score_ids(pairs).nll)
            assert torch.equal(view.text_nll(text), plain.text_nll(text))


def test_undo_takes_a_requests_neurons_out_and_their_order_does_not_matter() -> None:
    settings, model, requests = settings_of("t_patcher"), wide_model(), requests_of(3)
    state, prepared = run(settings, model, requests)
    first, second, third = state.records
    assert isinstance(state, RecordState)
    pairs = [encode_pair(model, request.prompt, request.target) for request in requests]

    def nll(records: Any) -> Tensor:
        with build(settings).edited(model, prepared, RecordState("additive", records)) as view:
            return view.score_ids(pairs).nll

    assert torch.equal(nll(state.without({1}).records), nll([first, third]))
    assert not torch.equal(nll(state.without({1}).records), nll(state.records))
    torch.testing.assert_close(nll([first, third, second]), nll(state.records), rtol=1e-6, atol=1e-7)

"""MELO against a slow transcription, one text at a time through the whole model, in float64; and what its codebook must equal."""

from typing import Any

import pytest
import torch
from torch import Tensor

from d4s.editors.editor_settings import resolve
from d4s.editors.families import build
from d4s.editors.melo import ClusteredFactors, MeloSession
from d4s.editors.protocol import Prepared, State
from d4s.editors.side_settings import Melo
from d4s.editors.states import RecordState
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode, encode_pair
from d4s.models.views import LiveModel
from tests.oracle.plain import requests_of, watching
from tests.tiny import tiny_model

LAYER = 1
SMALL: dict[str, Any] = {"layer": LAYER, "steps": 6, "radius": 1e-3, "lr": 1e-2, "halve_every": 2, "stop_loss": 0.0}


def settings_of(name: str, **more: Any) -> Melo:
    settings = resolve("tested", {"preset": name, **SMALL, **more}, "mini")
    assert isinstance(settings, Melo)
    return settings


def wide_model() -> LanguageModel:
    return tiny_model(dtype=torch.float64)


def run(settings: Melo, model: LanguageModel, requests: Any) -> State:
    """The state after requests, batch by batch."""
    editor = build(settings)
    with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
        for first in range(0, len(requests), settings.batch):
            session.step(requests[first : first + settings.batch], None)
        return session.state()


def log_probs(model: LanguageModel, ids: Any, product: Tensor) -> tuple[Tensor, Tensor]:
    """What enters the matrix at every token of a text, and log-probabilities with a product added to the matrix."""
    with watching(model.mlp_out(LAYER)) as seen:
        model.network(input_ids=torch.tensor([[*ids]]))
    keys = seen["in"][0]
    with watching(model.mlp_out(LAYER), lambda output: output + (keys @ product.T)[None]):
        return keys, model.network(input_ids=torch.tensor([[*ids]])).logits[0].log_softmax(-1)


def plain_batch(settings: Melo, model: LanguageModel, batch: Any) -> dict[str, Tensor]:
    """Keys and factors of a batch; the factors begin where the editor begins them."""
    session = MeloSession(settings, model, RecordState("codebook"))
    down, up = (tensor.detach().clone().requires_grad_() for tensor in session._start(batch))
    keys, lr = list[Tensor](), settings.lr
    adam = torch.optim.Adam([down, up], lr=lr)
    for step in range(settings.steps):
        losses, keys = list[Tensor](), list[Tensor]()
        for request in batch:
            prompt, target = encode_pair(model, request.prompt, request.target)
            start = len(prompt) - 1
            found, likely = log_probs(model, [*prompt, *target[:-1]], settings.alpha / settings.rank * (up @ down))
            keys.append(found[start])
            losses.append(-torch.stack([likely[start + place, token] for place, token in enumerate(target)]).mean())
        adam.param_groups[0]["lr"] = lr * 0.5 ** (step // settings.halve_every)
        adam.zero_grad()
        torch.stack(losses).mean().backward()
        adam.step()
    return {"keys": torch.stack(keys), "down": down.detach(), "up": up.detach()}


@pytest.mark.parametrize("more", [{}, {"batch": 2, "rank": 3, "alpha": 12.0}])
def test_melo_is_its_transcription(more: dict[str, Any]) -> None:
    settings, model, requests = settings_of("melo", **more), wide_model(), requests_of(4)
    state = run(settings, model, requests)
    assert len(state.records) == 4 // settings.batch
    for number, record in enumerate(state.records):
        batch = requests[number * settings.batch : (number + 1) * settings.batch]
        for name, tensor in plain_batch(settings, wide_model(), batch).items():
            torch.testing.assert_close(record[name], tensor, rtol=1e-6, atol=1e-9)
        assert record["up"].norm() > 0 and record["down"].shape == (settings.rank, 64)


def test_a_prompt_is_answered_through_the_factors_of_its_own_batch() -> None:
    settings, model, requests = settings_of("melo", batch=2, alpha=20.0), wide_model(), requests_of(4)
    state = run(settings, model, requests)
    with build(settings).edited(model, Prepared(), state) as view:
        for number, request in enumerate(requests):
            record = state.records[number // 2]
            prompt, target = encode_pair(model, request.prompt, request.target)
            product = settings.alpha / settings.rank * (record["up"] @ record["down"])
            _, likely = log_probs(model, [*prompt, *target[:-1]], product)
            expected = [-float(likely[len(prompt) - 1 + place, token]) for place, token in enumerate(target)]
            found = view.score_ids([(prompt, target)]).nll[0]
            assert found.tolist() == pytest.approx(expected, rel=1e-5)
            assert not torch.allclose(found, LiveModel(model).score_ids([(prompt, target)]).nll[0], rtol=1e-4)


def test_beyond_every_radius_is_the_model_bit_for_bit() -> None:
    settings, model, requests = settings_of("melo"), tiny_model(), requests_of(5)
    state = run(settings, model, requests[:3])
    others = [encode_pair(model, request.prompt, request.target) for request in requests[3:]]
    text = [encode(model, "Ben works as a tailor and lives in Rome")]
    with build(settings).edited(model, Prepared(), state) as view:
        assert torch.equal(view.score_ids(others).nll, LiveModel(model).score_ids(others).nll)
        assert torch.equal(view.text_nll(text), LiveModel(model).text_nll(text))


def test_undo_is_as_if_the_edit_had_never_been_made() -> None:
    settings, model, requests = settings_of("melo", radius=100.0), tiny_model(), requests_of(4)
    state = run(settings, model, requests)
    assert isinstance(state, RecordState)
    left, never = state.without({1}), run(settings, model, [requests[0], *requests[2:]])
    for one, other in zip(left.records, never.records, strict=True):
        assert {*one} == {*other} and all(torch.equal(one[name], other[name]) for name in one)
    radii = [cluster.radius for cluster in ClusteredFactors(settings, model, state.records).clusters]
    assert settings.radius not in radii, "the first radius is so wide that clusters meet"
    pairs = [encode_pair(model, request.prompt, request.target) for request in requests]
    with build(settings).edited(model, Prepared(), left) as view:
        found = view.score_ids(pairs).nll
    with build(settings).edited(model, Prepared(), never) as view:
        assert torch.equal(found, view.score_ids(pairs).nll)

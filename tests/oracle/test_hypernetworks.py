"""MEND, MALMEN and RLEdit against slow transcriptions in float64: the change of weights, and the gradient that trains their network."""

import pytest
import torch
from torch import Tensor

from d4s.editors.editor_settings import resolve
from d4s.editors.fact_pool import FactsToLearn
from d4s.editors.families import build
from d4s.editors.gradient_changes import regress
from d4s.editors.hypernetwork import RATES, RIDGES, begin
from d4s.editors.hypernetwork_episodes import Episodes
from d4s.editors.hypernetwork_training import NetworkTraining
from d4s.editors.lifelong_statistics import LifelongStatistics, shapes_of, take_statistics
from d4s.editors.protocol import Prepared
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode_pairs
from tests.cases import POOL, TRAINING
from tests.oracle.plain import keys_and_gradients, requests_of
from tests.tiny import bpe_tokenizer, tiny_model

LAYERS = (0, 2)


def wide_model(family: str = "gpt2") -> LanguageModel:
    return tiny_model(family, dtype=torch.float64, tokenizer=bpe_tokenizer(), positions=96)


def settings_of(name: str, **changes):
    return resolve("tested", {"preset": name, "layers": LAYERS, "lr": 0.25, "batch": 3, "network": TRAINING, **changes}, "mini")


def prepared_for(model: LanguageModel, settings, *, drawn: bool = False) -> Prepared:
    """Statistics of some requests, and the network as it begins, or with numbers that were drawn."""
    network, shapes = settings.hypernetwork(), shapes_of(model, LAYERS)
    requests = requests_of(9)[3:]
    pairs = encode_pairs(model, [one.prompt for one in requests], [one.target for one in requests])
    tensors = begin(network, [shapes[layer] for layer in LAYERS])
    if drawn:
        generator = torch.Generator().manual_seed(3)
        tensors = {name: torch.randn(part.shape, generator=generator, dtype=part.dtype) / 4 for name, part in tensors.items()}
    return Prepared(extras=tensors | take_statistics(model, pairs, LAYERS, everywhere=network.reads_prompts))


def change_after(settings, model: LanguageModel, prepared: Prepared, requests) -> dict[int, Tensor]:
    """The change of weights by one turn."""
    editor = build(settings)
    with editor.editing(model, prepared, editor.start(model, prepared)) as session:
        session.step(requests, None)
        return {layer: change.clone() for layer, change in session.live().weight_changes().items()}


def rows_of(model: LanguageModel, request, *, everywhere: bool) -> dict[int, tuple[Tensor, Tensor]]:
    """Keys and gradients of one request at tokens whose gradient is not 0, or at those that predict its target: a pass with hooks."""
    inputs, gradients, first = keys_and_gradients(model, request, LAYERS)
    start = 0 if everywhere else first
    kept = {layer: [place for place in range(start, len(inputs[layer])) if bool(gradients[layer][place].any())] for layer in LAYERS}
    return {layer: (inputs[layer][kept[layer]], gradients[layer][kept[layer]]) for layer in LAYERS}


def rewritten(z: Tensor, layer: int, settings, extras) -> Tensor:
    """All blocks, one token at a time."""
    for block in range(settings.network.blocks):
        a, b, bias, scale, shift = (extras[f"network.16x64.{block}.{part}"].double() for part in ("a", "b", "bias", "scale", "shift"))
        own = LAYERS.index(layer)
        low = z @ a @ b + bias
        if settings.network.scaled == "before":
            z = z + torch.clamp(scale[own] * low + shift[own], min=0)
        else:
            z = z + scale[own] * torch.clamp(low, min=0) + shift[own]
    return z


def plainly(settings, model: LanguageModel, prepared: Prepared, requests) -> dict[int, Tensor]:
    """The change of weights, token by token, with explicit inverses."""
    hypernetwork, extras = settings.hypernetwork(), prepared.extras
    statistics = LifelongStatistics(model, LAYERS, whiten=False, saved=extras)
    found: dict[int, Tensor] = {}
    for place, layer in enumerate(LAYERS):
        keys, values, products = list[Tensor](), list[Tensor](), torch.zeros(16, 64, dtype=torch.float64)
        rate = extras[RATES][place]
        for request in requests:
            for x, g in zip(*rows_of(model, request, everywhere=hypernetwork.reads_prompts)[layer], strict=True):
                running = statistics[layer]
                std = (running.squares / (running.count - 1)).sqrt()
                hats = (torch.cat([x, g]) - running.mean) / std
                x_tilde, g_tilde = rewritten(hats, layer, settings, extras).split([64, 16])
                products -= rate * torch.outer(g_tilde, x_tilde)
                keys.append(x)
                values.append(-rate * (x @ x_tilde) * g_tilde)
        if settings.family == "mend":
            found[layer] = products
        else:
            big_x, ridge = torch.stack(keys), extras[RIDGES][place].exp() * torch.eye(64, dtype=torch.float64)
            found[layer] = (torch.linalg.inv(big_x.mT @ big_x + ridge) @ big_x.mT @ torch.stack(values)).mT
    return found


def assert_close(found: dict[int, Tensor], expected: dict[int, Tensor], tolerance: float) -> None:
    for layer, change in expected.items():
        assert float((found[layer] - change).norm() / change.norm()) < tolerance and change.norm() > 0


@pytest.mark.parametrize("name", ["mend", "malmen", "rledit"])
@pytest.mark.parametrize("drawn", [False, True], ids=["untrained", "drawn"])
def test_a_turn_is_its_formula_token_by_token(name: str, drawn: bool) -> None:
    settings, model = settings_of(name), wide_model()
    prepared = prepared_for(model, settings, drawn=drawn)
    found = change_after(settings, model, prepared, requests_of(3))
    assert_close(found, plainly(settings, wide_model(), prepared, requests_of(3)), 1e-10 if not drawn else 1e-5)


def test_untrained_mend_is_a_step_of_descent_on_standardised_factors() -> None:
    settings, model = settings_of("mend", batch=1), wide_model("gptj")
    prepared, (request,) = prepared_for(model, settings), requests_of(1)
    statistics, expected = LifelongStatistics(model, LAYERS, whiten=False, saved=prepared.extras), {}
    for layer, (keys, gradients) in rows_of(model, request, everywhere=True).items():
        x_hat, g_hat = statistics[layer].normalise(keys, gradients)
        expected[layer] = -0.25 * sum(torch.outer(g, x) for x, g in zip(x_hat, g_hat, strict=True))
    assert_close(change_after(settings, model, prepared, [request]), expected, 1e-12)


def test_untrained_malmen_with_the_normalised_coefficient_is_ultraedit_to_the_bit() -> None:
    model, turn = wide_model(), requests_of(3)
    ultra = resolve("tested", {"preset": "ultraedit", "layers": LAYERS, "lr": 0.25, "batch": 3}, "mini")
    pairs = encode_pairs(model, [one.prompt for one in turn], [one.target for one in turn])
    statistics = take_statistics(model, pairs, LAYERS)  # which UltraEdit takes of the turn itself
    settings = settings_of("malmen", coefficient="normalised")
    prepared = Prepared(extras=prepared_for(model, settings).extras | statistics)
    found, expected = change_after(settings, model, prepared, turn), change_after(ultra, model, Prepared(), turn)
    assert all(torch.equal(found[layer], expected[layer]) and expected[layer].norm() > 0 for layer in LAYERS)


def test_untrained_mend_adds_up_over_requests() -> None:
    model, requests = wide_model(), requests_of(2)
    settings = settings_of("mend")
    prepared = prepared_for(model, settings)
    together = change_after(settings, model, prepared, requests)
    alone = [change_after(settings, model, prepared, [request]) for request in requests]
    assert_close(together, {layer: alone[0][layer] + alone[1][layer] for layer in LAYERS}, 1e-12)


# --- the gradient that trains a network -------------------------------------------------------------------------------


def test_the_gradient_through_the_regression_is_its_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    keys, values, outer = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((7, 24), (7, 6), (6, 24)))
    log_ridge = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    values.requires_grad_()
    change = regress(keys, values, log_ridge.exp())
    to_values, to_ridge = torch.autograd.grad(change, [values, log_ridge], outer)
    solved = torch.linalg.inv(keys.mT @ keys + log_ridge.exp() * torch.eye(24, dtype=torch.float64)) @ outer.mT
    torch.testing.assert_close(to_values, (keys @ solved).detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(to_ridge, (-log_ridge.exp() * (change.mT * solved).sum()).detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["mend", "malmen"])
def test_what_is_trained_follows_the_slope_of_the_loss(name: str) -> None:
    model = wide_model()
    settings = settings_of(name, lr=0.02, network={**TRAINING, "locality_weight": 0.5, "norm_weight": 1e-3, "clip": 1e9}).hypernetwork()
    episodes = Episodes(model, settings.network, FactsToLearn.of(POOL.pool, POOL.measured, 100, "a test"))
    tensors = prepared_for(model, settings_of(name, lr=0.02)).extras
    turns = episodes.of_step(0)[:1]
    training = NetworkTraining(model, settings, tensors)
    training.learn(turns)
    for tensor in (RATES, RIDGES) if name == "malmen" else (RATES,):
        for place, slope in enumerate(training.trained[tensor].grad.tolist()):
            moved = [dict(tensors), dict(tensors)]
            for sign, one in zip((1, -1), moved, strict=True):
                one[tensor] = tensors[tensor].clone()
                one[tensor][place] += sign * 1e-5
            up, down = (NetworkTraining(model, settings, one).loss(turns) for one in moved)
            assert slope == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-7) and slope != 0

import pytest
import torch
from torch import Tensor

from d4s.editors.answer_gradients import read_answer_gradients
from d4s.editors.lifelong_statistics import LifelongStatistics, RunningStatistics, warm_up
from d4s.editors.parts.input_settings import WarmUpSettings
from d4s.models.tokens import encode_pairs
from tests.oracle.plain import requests_of

SHAPE, CPU = (5, 7), torch.device("cpu")


def turns_of(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    scale = torch.logspace(-1, 1, 5, dtype=torch.float64)
    drawn = [(torch.randn(size, 7, generator=generator), torch.randn(size, 5, generator=generator)) for size in sizes]
    return [(keys.double() + 2.0, gradients.double() * scale - 1.0) for keys, gradients in drawn]


def after(turns: list[tuple[Tensor, Tensor]], *, whiten: bool = False) -> RunningStatistics:
    running = RunningStatistics.empty(SHAPE, CPU, whiten=whiten)
    for keys, gradients in turns:
        running.add(keys, gradients)
    return running


def test_many_turns_are_one_turn_of_all_their_tokens() -> None:
    turns = turns_of(1, 4, 9, 2, 30)
    whole = torch.cat([torch.cat(turn, 1) for turn in turns])
    running = after(turns, whiten=True)
    assert running.count == len(whole) and running.products is not None
    torch.testing.assert_close(running.mean, whole.mean(0), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(running.squares / (len(whole) - 1), whole.var(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(running.products / (len(whole) - 1), torch.cov(whole[:, 7:].mT), rtol=1e-12, atol=1e-15)


def test_the_first_turn_has_mean_zero_and_variance_one() -> None:
    (turn,) = turns_of(6)
    for part in after([turn]).normalise(*turn):
        torch.testing.assert_close(part.mean(0), torch.zeros(part.shape[1], dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(part.var(0), torch.ones(part.shape[1], dtype=torch.float64))


def test_one_token_and_entries_that_never_change_are_zero() -> None:
    one, many = turns_of(1, 6)
    assert all(not part.any() for part in after([one]).normalise(*one))
    many[0][:, 2], many[1][:, 3] = 1 / 3, 0.0
    keys, gradients = after([many]).normalise(*many)
    assert not keys[:, 2].any() and not gradients[:, 3].any() and keys[:, 0].all() and gradients[:, 0].all()


def test_gradients_are_whitened_once_there_are_tokens_enough() -> None:
    few, more = turns_of(6, 40)
    running = after([few], whiten=True)
    assert not running.is_whitening
    assert all(torch.equal(*pair) for pair in zip(running.normalise(*few), after([few]).normalise(*few), strict=True))
    running.add(*more)
    assert running.is_whitening
    whole = [torch.cat(parts) for parts in zip(few, more, strict=True)]
    keys, gradients = running.normalise(whole[0], whole[1])
    assert torch.equal(keys, after([few, more]).normalise(whole[0], whole[1])[0])
    torch.testing.assert_close(gradients.mT @ gradients / (46 - 5 - 1), torch.eye(5, dtype=torch.float64), rtol=1e-8, atol=1e-8)


def test_gradients_without_any_spread_are_whitened_to_zero() -> None:
    (turn,) = turns_of(20)
    turn[1][:] = 0.0
    assert not after([turn], whiten=True).normalise(*turn)[1].any()


@pytest.mark.parametrize("whiten", [False, True])
def test_a_warm_up_is_what_a_turn_leaves_and_continues_as_one(tiny_model, whiten: bool) -> None:
    model, requests = tiny_model(dtype=torch.float64), requests_of(7)
    before = {name: value.clone() for name, value in model.network.named_parameters()}
    saved = warm_up(WarmUpSettings(layers=(0, 2), requests=4, whiten=whiten), model, requests)
    assert all(torch.equal(value, before[name]) and not value.requires_grad for name, value in model.network.named_parameters())
    pairs = encode_pairs(model, [request.prompt for request in requests], [request.target for request in requests])
    first, rest = (read_answer_gradients(model, part, (0, 2)) for part in (pairs[:4], pairs[4:]))
    straight, continued = (LifelongStatistics(model, (0, 2), whiten=whiten, saved=start) for start in ({}, saved))
    straight.add(first.keys, first.gradients)
    assert {name: tensor.tolist() for name, tensor in straight.tensors().items()} == {
        name: tensor.tolist() for name, tensor in saved.items()
    }
    for statistics in (straight, continued):
        statistics.add(rest.keys, rest.gradients)
    assert all(torch.equal(tensor, continued.tensors()[name]) for name, tensor in straight.tensors().items())
    assert straight[0] is straight[2] and straight[0].count == 14


def test_layers_of_other_shapes_have_statistics_of_their_own(tiny_model, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setattr(type(model), "d_in", lambda self, layer=0: 64 + layer)
    statistics = LifelongStatistics(model, (0, 1), whiten=False, saved={})
    assert statistics[0] is not statistics[1] and {"statistics.16x64.mean", "statistics.16x65.mean"} <= {*statistics.tensors()}

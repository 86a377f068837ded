"""Terms that methods add to the loss of targets: distances between prompts, angles between shifts."""

import pytest
import torch

from d4s.editors.parts.target_rule import AlignSettings, ConsistencySettings
from d4s.editors.target_terms import Alignment, compared_blocks, directions, inconsistency
from tests.tiny import tiny_model

ALIGN = AlignSettings(kl=2.0, mse=8.0)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_inconsistency_is_the_sum_over_pairs_of_prompts() -> None:
    blocks = [drawn(2, 4, 6, seed=seed) for seed in (0, 1, 2)]
    found = inconsistency(blocks)
    for request in range(2):
        pairs = [(one[request, i] - one[request, j]).square().sum() / 6 for one in blocks for j in range(4) for i in range(j)]
        torch.testing.assert_close(found[request], torch.stack(pairs).sum() / 3)
    assert float(inconsistency([torch.ones(1, 3, 5)])) == 0


def test_blocks_that_are_compared_lie_above_the_target() -> None:
    model = tiny_model()
    assert compared_blocks(model, 0, ConsistencySettings(weight=1.0)) == range(1, 3)
    assert compared_blocks(model, 0, ConsistencySettings(weight=1.0, blocks=1)) == range(1, 2)
    assert not compared_blocks(model, 0, None) and not compared_blocks(model, 2, ConsistencySettings(weight=0.0))
    with pytest.raises(ValueError, match="block 2 is the last one; edit lower layers"):
        compared_blocks(model, 2, ConsistencySettings(weight=1.0))


def test_alignment_is_zero_where_shifts_have_the_cosines_of_keys() -> None:
    keys = drawn(4, 8)
    shifts = [3.0 * number * key[None] for number, key in enumerate(keys, start=1)]
    alignment = Alignment.of(ALIGN, keys, shifts[:3])
    assert float(alignment.loss(shifts[3])) == pytest.approx(0.0, abs=1e-12)
    assert float(alignment.loss(-shifts[3])) > 0.1
    assert float(Alignment.of(ALIGN, keys, []).loss(shifts[0])) == 0


@pytest.mark.parametrize(("kl", "mse"), [(2.0, 0.0), (0.0, 8.0)])
def test_each_part_of_the_alignment_pulls_towards_the_angles_of_keys(kl: float, mse: float) -> None:
    keys, shift = drawn(3, 8), drawn(1, 8, seed=3).requires_grad_()
    alignment = Alignment.of(AlignSettings(kl=kl, mse=mse, top=1), keys, [keys[:1], keys[1:2]])
    (gradient,) = torch.autograd.grad(alignment.loss(shift).sum(), shift)
    before = shift.detach()
    assert float(alignment.loss(before - 1e-3 * gradient)) < float(alignment.loss(before))


def test_a_shift_of_zero_has_no_direction_and_no_gradient() -> None:
    shift = torch.zeros(1, 8, dtype=torch.float64, requires_grad=True)
    keys = drawn(2, 8)
    loss = Alignment.of(ALIGN, keys, [keys[:1]]).loss(shift)
    (gradient,) = torch.autograd.grad(loss.sum(), shift)
    assert loss.detach().isfinite().all() and float(gradient.abs().max()) == 0
    torch.testing.assert_close(directions(drawn(3, 5)).norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_a_shift_begins_along_the_hidden_state_as_long_as_its_key() -> None:
    hidden, keys = drawn(1, 1, 8), drawn(2, 5)
    alignment = Alignment.of(ALIGN, keys, [])
    begun = alignment.start(hidden)
    torch.testing.assert_close(begun.norm(), keys[0].norm())
    torch.testing.assert_close(directions(begun[0]), directions(hidden[0]))
    norm = torch.full((1, 1), 7.0, dtype=torch.float64)
    assert alignment.limit_norm(norm) == keys[0].norm() and float(alignment.start(1e3 * hidden).norm()) == 0
    by_hidden = Alignment.of(ALIGN.model_copy(update={"clamp_to": "hidden", "start": "zero"}), keys, [])
    assert by_hidden.limit_norm(norm) == 7.0 and float(by_hidden.start(hidden).norm()) == 0

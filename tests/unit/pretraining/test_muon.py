"""Muon: the iterations on the Gram matrix are those on the update itself, and a step is PyTorch's but for its precision."""

import pytest
import torch

from d4s.pretraining.muon import COEFFICIENTS, ITERATIONS, Muon, orthogonalise

SHAPES = [(6, 6), (5, 17), (17, 5), (48, 96)]


def plain(update: torch.Tensor) -> torch.Tensor:
    """Newton-Schulz iterations as they are published, in float64, on the update itself."""
    linear, cubic, quintic = COEFFICIENTS
    wide = update.double().mT if update.size(0) > update.size(1) else update.double()
    wide = wide / wide.norm()
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        wide = linear * wide + (cubic * gram + quintic * gram @ gram) @ wide
    return wide.mT if update.size(0) > update.size(1) else wide


def gradient(shape: tuple[int, int], decay: float = 0.0) -> torch.Tensor:
    """A matrix whose columns' sizes fall by `decay` orders of magnitude, as those of a gradient do."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    return noise * torch.logspace(0, -decay, shape[1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decay", [0.0, 6.0])
def test_iterations_on_the_gram_matrix_are_those_on_the_update(shape: tuple[int, int], decay: float) -> None:
    update = gradient(shape, decay)
    torch.testing.assert_close(orthogonalise(update).double(), plain(update), rtol=0, atol=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    values = torch.linalg.svdvals(orthogonalise(gradient(shape)))
    assert 0.3 < values.min() and values.max() < 1.3


def test_an_update_of_zeros_stays_zero() -> None:
    assert torch.equal(orthogonalise(torch.zeros(3, 5)), torch.zeros(3, 5))


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_are_those_of_pytorch_up_to_its_bfloat16(shape: tuple[int, int]) -> None:
    ours, theirs = (torch.nn.Parameter(gradient(shape)) for _ in range(2))
    mine = Muon([ours], lr=0.1, weight_decay=0.1, momentum=0.9)
    library = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, momentum=0.9, adjust_lr_fn="original")
    for seed in range(3):
        for weight, optimiser in ((ours, mine), (theirs, library)):
            weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            optimiser.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)


def test_a_matrix_without_a_gradient_stays() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 3))
    Muon([weight], lr=0.1, weight_decay=0.5, momentum=0.9).step()
    assert torch.equal(weight, torch.ones(2, 3))

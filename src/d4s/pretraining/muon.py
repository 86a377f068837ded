"""Muon in float32: momentum, then the nearest semi-orthogonal matrix of every update (Jordan et al., 2024).

PyTorch's Muon orthogonalises in bfloat16 whatever the precision of the gradients is; processors without bfloat16 units
compute such products many times slower than float32 ones. Here everything stays in the precision of the weights.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
SMALLEST_NORM = 1e-7


def orthogonalise(update: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """An update with its singular values brought near 1 by five Newton-Schulz iterations.

    An iteration X ← (a I + b G + c G²) X with G = X Xᵀ changes X by a polynomial of the first Gram matrix. All
    polynomials of one matrix commute, so the iterations run on the smaller of the two Gram matrices alone, and their product
    is multiplied on once, at the end.
    """
    wide = update.mT if update.size(0) > update.size(1) else update
    wide = wide / wide.norm().clamp(min=SMALLEST_NORM)
    gram = wide @ wide.mT
    product = factor = _factor(gram)
    for _ in range(ITERATIONS - 1):
        gram = factor @ (gram @ factor)
        factor = _factor(gram)
        product = factor @ product
    result = product @ wide
    return result.mT if update.size(0) > update.size(1) else result


def _factor(gram: Float[Tensor, "rows rows"]) -> Float[Tensor, "rows rows"]:
    """The polynomial a I + b G + c G²."""
    linear, cubic, quintic = COEFFICIENTS
    factor = torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic)
    factor.diagonal().add_(linear)
    return factor


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, at a rate of lr · max(1, rows / columns)^½, with decoupled weight decay.

    Args:
        params: matrices.
        lr: learning rate.
        weight_decay: share lr · weight_decay of each weight removed by a step.
        momentum: share of the running gradient that each step keeps.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every matrix that has a gradient, one after another; a closure is not called."""
        for change in self._changes():
            change()

    def step_in(self, pool: Executor) -> None:
        """The same with several matrices at once, in threads."""
        for done in [pool.submit(change) for change in self._changes()]:
            done.result()

    def _changes(self) -> Iterator[Callable[[], None]]:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    running = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
                    yield partial(_change, weight, running, group["lr"], group["momentum"], group["weight_decay"])


@torch.no_grad()
def _change(weight: Tensor, running: Tensor, lr: float, momentum: float, weight_decay: float) -> None:
    """Update one matrix that has a gradient, and its running gradient."""
    assert weight.grad is not None
    running.lerp_(weight.grad, 1 - momentum)
    update = orthogonalise(weight.grad.lerp(running, momentum))
    rows, columns = weight.shape
    weight.mul_(1 - lr * weight_decay)
    weight.add_(update, alpha=-lr * math.sqrt(max(1.0, rows / columns)))

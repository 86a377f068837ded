"""Shifts that stay where they were put while another one is optimised: added to hidden states in the pass that a restart begins with.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from d4s.models.language_model import LanguageModel

HeldShifts = Sequence[tuple[int, Float[Tensor, " d_out"]]]
"""Of one text: positions, and the shift at each."""


@contextmanager
def holding(model: LanguageModel, layer: int, held: Sequence[HeldShifts]) -> Iterator[None]:
    """The model with shifts added to a block's output, or to its MLP's where a norm is between, at positions of a batch's rows.

    `held` has an entry per row. Hooks that are put on the block afterwards see its output with the shifts.
    """
    places = [(row, position, shift) for row, shifts in enumerate(held) for position, shift in shifts]
    if not places:
        yield
        return

    def add(_module: nn.Module, _args: Any, output: Any) -> Any:
        whole = (output[0] if isinstance(output, tuple) else output).clone()
        for row, position, shift in places:
            whole[row, position] += shift.to(whole)
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

    handle = (model.block(layer) if model.post_norm(layer) is None else model.mlp_out(layer)).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()

"""Changed weights of a model for the length of a block: sums in float64, rounded once, the original bits back at the end.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.models.language_model import LanguageModel
from d4s.models.views import LiveModel


@contextmanager
def apply_deltas(model: LanguageModel, deltas: Mapping[int, Float[Tensor, "d_out d_in"]]) -> Iterator[LiveModel]:
    """The model with changes added to its weights."""
    originals = {layer: model.weight(layer).clone() for layer in deltas}
    with model.restoring(deltas):
        for layer, delta in deltas.items():
            write_weight(model, layer, originals[layer], delta)
        yield LiveModel(model, originals)


def write_weight(model: LanguageModel, layer: int, original: Float[Tensor, "d_out d_in"], delta: Float[Tensor, "d_out d_in"]) -> None:
    """Set a layer's weight to its original plus a change, added in float64."""
    model.set_weight(layer, original.to(delta.device, torch.float64) + delta)

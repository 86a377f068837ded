"""Text that a model writes itself, drawn from its own whole distribution: a sample of what it takes text to be."""

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache

from d4s.models.language_model import LanguageModel
from d4s.models.pass_sizes import LONGEST_ROW
from d4s.models.tokens import start_of_text

ROWS_AT_ONCE = 64
ACTIVATIONS_AT_ONCE = 2**28  # so that the cache of a large model stays small


def row_width(model: LanguageModel) -> int:
    """Tokens of a row: as many as the model takes, at most LONGEST_ROW."""
    return min(model.max_positions, LONGEST_ROW)


def rows_from_model(model: LanguageModel, tokens: int, seed: int) -> Int[Tensor, "n row"]:
    """Rows of tokens that the model draws, each from its own whole distribution, beginning with BOS; the seed decides them."""
    width = row_width(model)
    generator = torch.Generator().manual_seed(seed)
    count = max(1, -(-tokens // width))
    at_once = max(1, min(ROWS_AT_ONCE, ACTIVATIONS_AT_ONCE // (width * model.n_layers * model.d_out())))
    rows = [_sample_rows(model, min(at_once, count - first), width, generator) for first in range(0, count, at_once)]
    return torch.cat(rows)


@torch.no_grad()
def _sample_rows(model: LanguageModel, count: int, width: int, generator: torch.Generator) -> Int[Tensor, "n row"]:
    """A number of rows; drawn on the CPU in float64, so that no device has a generator of its own."""
    cache = DynamicCache(config=model.network.config)
    rows = [torch.full((count, 1), start_of_text(model))]
    for _ in range(width - 1):
        hidden = model.network.base_model(input_ids=rows[-1].to(model.device), past_key_values=cache, use_cache=True).last_hidden_state
        probabilities = model.unembed(hidden[:, -1]).cpu().double().softmax(-1)
        rows.append(torch.multinomial(probabilities, 1, generator=generator))
    return torch.cat(rows, 1)

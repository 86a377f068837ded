"""A model with a memory beside one layer: looked up once per prompt, at its last token, and never in free text.

The memory answers in the very pass that reads the prompt, so what follows (target tokens of a score, generated tokens
after the cached prompt) sees its answer through attention only, as the network itself would have it. The weights stay.

Terms and symbols: docs/notation.md.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from d4s.models.language_model import LanguageModel
from d4s.models.views import LiveModel


@dataclass(frozen=True, slots=True)
class Codebook:
    """Keys (inputs of a layer), the values that its output becomes near them, and how near: Euclidean distances."""

    keys: Float[Tensor, "n d_in"]
    values: Float[Tensor, "n d_out"]
    radii: Float[Tensor, " n"]

    def nearest(self, queries: Float[Tensor, "b d_in"]) -> tuple[Float[Tensor, " b"], Int[Tensor, " b"]]:
        """Distance to each query's nearest key, and that key's number; of equally near ones the latest.

        Differences are taken before they are squared: a product of matrices would lose distances that are small beside the keys.
        """
        distances = torch.cdist(queries.to(self.keys.dtype), self.keys, compute_mode="donot_use_mm_for_euclid_dist")
        found = distances.flip(1).min(1)
        return found.values, len(self.keys) - 1 - found.indices

    def look_up(self, queries: Float[Tensor, "b d_in"]) -> tuple[Bool[Tensor, " b"], Float[Tensor, "b d_out"]]:
        """Whether each query lies within the radius of its nearest key, and that key's value."""
        distance, number = self.nearest(queries)
        return distance <= self.radii[number], self.values[number]


@contextmanager
def answer_from_codebook(model: LanguageModel, layer: int, codebook: Codebook, positions: Int[Tensor, " n"]) -> Iterator[None]:
    """Let a codebook answer in the next forward pass: each row is looked up at its own position, and replaced only there.

    Only the first pass within the block is concerned, so a prompt may be continued from its cache. Rows without an
    answer keep their bits. Gradients reach the values.
    """
    passes = itertools.count()

    def hook(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if next(passes):
            return None
        each, places = torch.arange(len(output), device=output.device), positions.to(output.device)
        found, values = codebook.look_up(args[0][each, places])
        if not bool(found.any()):
            return None
        changed = output.clone()
        changed[each[found], places[found]] = values[found].to(output.dtype)
        return changed

    handle = model.mlp_out(layer).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class CodebookModel(LiveModel):
    """An `EditedModel` whose codebook answers for one layer at the last token of every prompt.

    Free text has no prompt, so `text_nll` is the unedited model's. A memory changes no weights.
    """

    def __init__(self, model: LanguageModel, layer: int, codebook: Codebook, tokens_per_batch: int | None = None) -> None:
        super().__init__(model, None, tokens_per_batch)
        self.layer, self.codebook = layer, codebook

    def text_nll(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, " n"]:
        """Summed negative log-likelihood (nats) of each row of token ids, by the unedited model."""
        return LiveModel(self.model, None, self.tokens_per_batch).text_nll(rows)

    def _hidden(
        self, ids: Int[Tensor, "n t"], cache: DynamicCache | None = None, last: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n t d_out"]:
        if last is None or not len(self.codebook.keys):
            return super()._hidden(ids, cache, last)
        with answer_from_codebook(self.model, self.layer, self.codebook, last):
            return super()._hidden(ids, cache, last)

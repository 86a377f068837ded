"""A model with a trained memory beside one MLP output matrix, behind a gate that is asked once per prompt.

The gate reads the prompt alone, in the very pass that reads it, and what it chooses holds for all that follows: target tokens of a
score, tokens that are generated or sampled. So scores and free answers are those of one model, in any batch. Releases of such
editors ask their gates again at every token, or once for a whole batch, which sets forced and free answers far apart.

Free text has no prompt: a row of it is read as one as a whole, and what is chosen holds for the row. The weights stay.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from d4s.models.language_model import LanguageModel
from d4s.models.views import LiveModel, Row

OFF = -1
"""What a gate chooses where the memory stays out."""


@runtime_checkable
class SideMemory(Protocol):
    """What a trained memory adds to the output of one layer's MLP matrix, and its gate."""

    @property
    def layer(self) -> int:
        """The block beside whose MLP output matrix it stands."""
        ...

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to choose yet."""
        ...

    @property
    def acts_from_last(self) -> bool:
        """Whether it leaves the tokens of a prompt before the last one alone."""
        ...

    def choose(self, keys: Float[Tensor, "n t d_in"], output: Float[Tensor, "n t d_out"], read: Bool[Tensor, "n t"]) -> Int[Tensor, " n"]:
        """What answers each prompt, whose tokens are those `read`, given what enters and leaves the matrix; `OFF` where nothing does."""
        ...

    def change(self, keys: Float[Tensor, "n t d_in"], chosen: Int[Tensor, " n"]) -> Float[Tensor, "n t d_out"]:
        """What is added to the output at every token, where something was chosen."""
        ...


class GatedCache(DynamicCache):
    """A cache of prompts with what the gate chose for each of them."""

    chosen: Tensor | None = None

    def batch_select_indices(self, indices: Int[Tensor, " k"]) -> None:
        """Keep some rows."""
        super().batch_select_indices(indices)
        if self.chosen is not None:
            self.chosen = self.chosen[indices.to(self.chosen.device)]


@dataclass(slots=True)
class Gate:
    """What was chosen for each row; None before a prompt was read."""

    chosen: Int[Tensor, " n"] | None = None


@contextmanager
def beside(model: LanguageModel, memory: SideMemory, gate: Gate, last: Int[Tensor, " n"] | None) -> Iterator[None]:
    """Let a memory act in the next forward pass.

    Where rows begin with a prompt that ends at `last`, the gate is asked, and keeps the answer; else what it holds goes on. Rows
    that the memory stays out of keep their bits.
    """

    def hook(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        keys, places = args[0], torch.arange(output.shape[1], device=output.device)
        ends = None if last is None else last.to(output.device)[:, None]
        if ends is not None:
            gate.chosen = memory.choose(_wide(keys), _wide(output), places <= ends)
        chosen = gate.chosen
        if chosen is None or not bool((on := chosen != OFF).any()):
            return None
        change = memory.change(_wide(keys[on]), chosen[on])
        if ends is not None and memory.acts_from_last:
            change = change * (places >= ends[on])[..., None]
        changed = output.clone()
        changed[on] += change.to(output.dtype)
        return changed

    handle = model.mlp_out(memory.layer).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class SideModel(LiveModel):
    """An `EditedModel` with a trained memory beside one layer. A memory changes no weights."""

    def __init__(self, model: LanguageModel, memory: SideMemory, tokens_per_batch: int | None = None) -> None:
        super().__init__(model, None, tokens_per_batch)
        self.memory = memory

    def text_nll(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, " n"]:
        """Summed negative log-likelihood (nats) of each row of token ids, by what the gate chooses for the whole of the row."""
        return LiveModel.text_nll(_TextModel(self.model, self.memory, self.tokens_per_batch), rows)

    def _new_cache(self) -> GatedCache:
        return GatedCache(config=self.model.network.config)

    def _hidden(
        self, ids: Int[Tensor, "n t"], cache: DynamicCache | None = None, last: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n t d_out"]:
        if self.memory.is_empty:
            return super()._hidden(ids, cache, last)
        gate = Gate(cache.chosen if isinstance(cache, GatedCache) else None)
        with beside(self.model, self.memory, gate, last):
            hidden = super()._hidden(ids, cache, last)
        if isinstance(cache, GatedCache):
            cache.chosen = gate.chosen
        return hidden


class _TextModel(SideModel):
    """The same where a row is read as one prompt as a whole."""

    def _last_read(self, row: Row) -> int:
        return len(row.tokens) - 1


def _wide(tensor: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))

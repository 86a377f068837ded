"""A forward pass taken up again after one block, only for the tokens that a change there can reach.

A vector added at the lookup token changes nothing before it. So the pass runs once; what follows is the later blocks
over the tokens from the lookup token on, called with the very arguments that the model itself used, with the keys and
values of earlier tokens frozen. Rows start at different tokens, so arguments with a position are gathered row by row.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from d4s.models.language_model import LanguageModel
from d4s.models.trace import trace

KeysValues = tuple[Tensor, Tensor]


class FrozenKeys:
    """Stands in for a model's cache: attention sees the keys and values of earlier tokens, and nothing is stored."""

    def __init__(self, earlier: Mapping[int, KeysValues]) -> None:
        self._earlier = earlier

    def update(self, keys: Tensor, values: Tensor, layer: int, *_args: Any, **_kwargs: Any) -> KeysValues:
        """Earlier and present keys and values of a layer."""
        earlier_keys, earlier_values = self._earlier[layer]
        return torch.cat([earlier_keys, keys], dim=-2), torch.cat([earlier_values, values], dim=-2)


@dataclass(frozen=True, slots=True)
class Restart:
    """The later part of a batch's forward pass, from each row's lookup token to its end.

    `hidden` leaves the block after which it starts; `arguments` are those of the later blocks by name, but for the
    hidden states and for the cache, whose name is `cache`.
    """

    model: LanguageModel
    layer: int
    hidden: Float[Tensor, "n s d"]
    arguments: Mapping[str, Any]
    cache: str
    earlier: Mapping[int, KeysValues]

    def run(self, shift: Float[Tensor, "n d"]) -> Float[Tensor, "n s d"]:
        """The last block's output when a vector is added at each row's lookup token."""
        shifted = self.hidden[:, :1] + shift[:, None].to(self.hidden.dtype)
        hidden = torch.cat([shifted, self.hidden[:, 1:]], dim=1)
        for later in range(self.layer + 1, self.model.n_layers):
            output = self.model.block(later)(hidden, **self.arguments, **{self.cache: FrozenKeys(self.earlier)})
            hidden = output if isinstance(output, Tensor) else output[0]
        return hidden

    def select(self, rows: Int[Tensor, " k"]) -> "Restart":
        """The same for some of the rows."""
        count = len(self.hidden)
        arguments = {
            name: _mapped(value, lambda tensor: tensor[rows] if len(tensor) == count else tensor) for name, value in self.arguments.items()
        }
        earlier = {later: (keys[rows], values[rows]) for later, (keys, values) in self.earlier.items()}
        return replace(self, hidden=self.hidden[rows], arguments=arguments, earlier=earlier)


@torch.no_grad()
def restart(
    model: LanguageModel, ids: Int[Tensor, "n t"], lookups: Int[Tensor, " n"], lengths: Int[Tensor, " n"], layer: int
) -> tuple[Restart, Float[Tensor, "n d"]]:
    """The pass over rows of ids (padded on the right), to be taken up after a block; and that block's MLP output at the lookup tokens."""
    cache, calls = DynamicCache(), list[dict[str, Any]]()
    with trace({"block": model.block(layer), "mlp": model.mlp_out(layer)}) as found, _first_call(model, layer + 1, calls):
        model.network.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    each, before = torch.arange(len(ids), device=ids.device), int(lookups.max())
    span = torch.arange(int((lengths - lookups).max()), device=ids.device)
    places = (lookups[:, None] + span).clamp(max=ids.shape[1] - 1)
    hidden = found.outputs["block"][each[:, None], places]
    arguments = {name: _mapped(value, lambda tensor: _gathered(tensor, places, ids.shape[1])) for name, value in (calls or [{}])[0].items()}
    name_of_cache = next((name for name, value in arguments.items() if isinstance(value, Cache)), "")
    arguments.pop(name_of_cache, None)
    stored: list[Any] = cache.layers
    earlier = {
        later: (stored[later].keys[..., :before, :], stored[later].values[..., :before, :]) for later in range(layer + 1, model.n_layers)
    }
    arguments["attention_mask"] = _mask(lookups, before, len(span), hidden.dtype)
    return Restart(model, layer, hidden, arguments, name_of_cache, earlier), found.outputs["mlp"][each, lookups]


@contextmanager
def _first_call(model: LanguageModel, layer: int, calls: list[dict[str, Any]]) -> Iterator[None]:
    """Note the arguments by name, but for the hidden states, with which a block is called; there may be no such block."""

    def note(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        signature = inspect.signature(block.forward)
        named = signature.bind(*args, **kwargs).arguments
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                named.update(named.pop(name, {}))
        named.pop(next(iter(signature.parameters)))
        calls.append(dict(named))

    if layer == model.n_layers:
        yield
        return
    handle = model.block(layer).register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A tensor, or each of a tuple of tensors, changed; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(_mapped(part, change) for part in value)
    return change(value) if isinstance(value, Tensor) else value


def _gathered(tensor: Tensor, places: Int[Tensor, "n s"], width: int) -> Tensor:
    """Values at each row's own places, where a tensor has one per token (its rows may be shared)."""
    if tensor.ndim < 2 or tensor.shape[1] != width:
        return tensor
    rows = tensor.expand(len(places), *tensor.shape[1:])
    return rows[torch.arange(len(places), device=places.device)[:, None], places]


def _mask(lookups: Int[Tensor, " n"], before: int, after: int, dtype: torch.dtype) -> Float[Tensor, "n 1 s k"]:
    """What each token from the lookup token on may see: its row's earlier tokens, and later ones up to itself."""
    earlier = torch.arange(before, device=lookups.device) < lookups[:, None, None]
    later = torch.ones(after, after, dtype=torch.bool, device=lookups.device).tril()
    seen = torch.cat([earlier.expand(-1, after, -1), later.expand(len(lookups), -1, -1)], dim=2)
    return torch.zeros(seen.shape, dtype=dtype, device=lookups.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]

"""A forward pass taken up again after one block, only for the tokens that a change there can reach.

A vector added at the lookup token changes nothing before it. So the pass runs once; what follows is the later blocks
over the tokens from the lookup token on, called with the very arguments that the model itself used, with the keys and
values of earlier tokens frozen. Rows start at different tokens, so arguments with a position are gathered row by row.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
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

    `hidden` leaves the block after which it starts; `arguments` are those of each later block by name, but for the
    hidden states and for the cache, whose name is `cache`. Blocks of one model may get different ones (Gemma 3).
    """

    model: LanguageModel
    layer: int
    hidden: Float[Tensor, "n s d"]
    arguments: Mapping[int, Mapping[str, Any]]
    cache: str
    earlier: Mapping[int, KeysValues]

    shifts_within: bool = False

    def run(self, shift: Float[Tensor, "n parts d"]) -> Float[Tensor, "n s d"]:
        """The last block's output when vectors are added at each row's lookup token.

        They go to the hidden state, or, where the pass starts below the block that is shifted, to what that block's MLP
        and attention put out.
        """
        shift = shift.to(self.hidden.dtype)
        if not self.shifts_within:
            return self._later(torch.cat([self.hidden[:, :1] + shift, self.hidden[:, 1:]], dim=1))
        block = self.layer + 1
        with ExitStack() as stack:
            for part, module in enumerate((self.model.mlp_out(block), self.model.attention(block))):
                stack.callback(module.register_forward_hook(partial(_add_first, shift[:, part : part + 1])).remove)
            return self._later(self.hidden)

    def _later(self, hidden: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
        """The later blocks."""
        for later in range(self.layer + 1, self.model.n_layers):
            output = self.model.block(later)(hidden, **self.arguments[later], **{self.cache: FrozenKeys(self.earlier)})
            hidden = output if isinstance(output, Tensor) else output[0]
        return hidden

    def repeated(self, times: int) -> "Restart":
        """The same for one row, so many times."""
        return self.select(torch.zeros(times, dtype=torch.long, device=self.hidden.device))

    def select(self, rows: Int[Tensor, " k"]) -> "Restart":
        """The same for some of the rows."""
        count = len(self.hidden)
        arguments = {
            later: {
                name: _mapped(value, lambda tensor: _rows(tensor, rows) if len(tensor) == count else tensor)
                for name, value in named.items()
            }
            for later, named in self.arguments.items()
        }
        earlier = {later: (_rows(keys, rows), _rows(values, rows)) for later, (keys, values) in self.earlier.items()}
        return replace(self, hidden=_rows(self.hidden, rows), arguments=arguments, earlier=earlier)


@dataclass(frozen=True, slots=True)
class Seen:
    """Outputs at each row's lookup token: of a block, of its MLP, and of its attention where the pass starts below it."""

    block: Float[Tensor, "n d"]
    mlp: Float[Tensor, "n d"]
    attention: Float[Tensor, "n d"]


def _add_first(shift: Float[Tensor, "n 1 d"], _module: nn.Module, _args: Any, output: Any) -> Any:
    """The output of a module with a vector added at the first place of each row."""
    first = output[0] if isinstance(output, tuple) else output
    shifted = torch.cat([first[:, :1] + shift.to(first.device), first[:, 1:]], dim=1)
    return (shifted, *output[1:]) if isinstance(output, tuple) else shifted


def restart_within(
    model: LanguageModel, ids: Int[Tensor, "n t"], lookups: Int[Tensor, " n"], lengths: Int[Tensor, " n"], layer: int
) -> tuple[Restart, Seen]:
    """As `restart`, but taken up before the block, so that its MLP's and its attention's output can be shifted apart."""
    with trace({"block": model.block(layer), "mlp": model.mlp_out(layer), "attention": model.attention(layer)}) as found:
        again = _taken_up(model, ids, lookups, lengths, layer - 1)
    return replace(again, shifts_within=True), Seen(*(_at(found.outputs[name], lookups) for name in ("block", "mlp", "attention")))


def restart(
    model: LanguageModel, ids: Int[Tensor, "n t"], lookups: Int[Tensor, " n"], lengths: Int[Tensor, " n"], layer: int
) -> tuple[Restart, Seen]:
    """The pass over rows of ids (padded on the right), to be taken up after a block; and that block's outputs at the lookup tokens.

    Raises:
        ValueError: if a row is longer than the window that some of the network's blocks attend to.
    """
    with trace({"mlp": model.mlp_out(layer)}) as found:
        again = _taken_up(model, ids, lookups, lengths, layer)
    mlp = _at(found.outputs["mlp"], lookups)
    return again, Seen(again.hidden[:, 0], mlp, torch.zeros_like(mlp))


@torch.no_grad()
def _taken_up(model: LanguageModel, ids: Int[Tensor, "n t"], lookups: Int[Tensor, " n"], lengths: Int[Tensor, " n"], layer: int) -> Restart:
    """The pass to be taken up after a block, or before all of them (layer -1).

    Raises:
        ValueError: if a row is longer than the window that some of the network's blocks attend to.
    """
    if model.window is not None and ids.shape[1] > model.window:
        raise ValueError(
            f"rows of {ids.shape[1]} tokens exceed the model's attention window of {model.window}; shorten prompts or prefixes"
        )
    cache = DynamicCache()
    with trace({"edge": model.block(max(layer, 0))}) as found, _calls_after(model, layer) as calls:
        model.network.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    before, span = int(lookups.max()), torch.arange(int((lengths - lookups).max()), device=ids.device)
    places = (lookups[:, None] + span).clamp(max=ids.shape[1] - 1)
    hidden = _gathered((found.outputs if layer >= 0 else found.inputs)["edge"], places, ids.shape[1])
    name_of_cache = next((name for named in calls.values() for name, value in named.items() if isinstance(value, Cache)), "")
    mask = _mask(lookups, before, len(span), hidden.dtype)
    arguments = {
        later: {name: _mapped(value, lambda tensor: _gathered(tensor, places, ids.shape[1])) for name, value in named.items()}
        | {"attention_mask": mask}
        for later, named in calls.items()
    }
    for named in arguments.values():
        named.pop(name_of_cache, None)
    stored: list[Any] = cache.layers
    earlier = {
        later: (stored[later].keys[..., :before, :], stored[later].values[..., :before, :]) for later in range(layer + 1, model.n_layers)
    }
    return Restart(model, layer, hidden, arguments, name_of_cache, earlier)


@contextmanager
def _calls_after(model: LanguageModel, layer: int) -> Iterator[dict[int, dict[str, Any]]]:
    """The arguments by name, but for the hidden states, with which each later block is called while the block runs."""
    calls: dict[int, dict[str, Any]] = {}
    with ExitStack() as stack:
        for later in range(layer + 1, model.n_layers):
            handle = model.block(later).register_forward_pre_hook(partial(_note, calls, later), with_kwargs=True)
            stack.callback(handle.remove)
        yield calls


def _note(calls: dict[int, dict[str, Any]], later: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    signature = inspect.signature(block.forward)
    named = signature.bind(*args, **kwargs).arguments
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            named.update(named.pop(name, {}))
    named.pop(next(iter(signature.parameters)))
    calls[later] = dict(named)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A tensor, or each of a tuple of tensors, changed; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(_mapped(part, change) for part in value)
    return change(value) if isinstance(value, Tensor) else value


def _gathered(tensor: Tensor, places: Int[Tensor, "n s"], width: int) -> Tensor:
    """Values at each row's own places, where a tensor has one per token (its rows may be shared)."""
    if tensor.ndim < 2 or tensor.shape[1] != width:
        return tensor
    rows, places = tensor.expand(len(places), *tensor.shape[1:]), places.to(tensor.device)
    return rows[torch.arange(len(places), device=places.device)[:, None], places]


def _at(tensor: Float[Tensor, "n t d"], places: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """The vector at each row's own place; blocks may be on devices of their own."""
    places = places.to(tensor.device)
    return tensor[torch.arange(len(places), device=places.device), places]


def _rows(tensor: Tensor, rows: Int[Tensor, " k"]) -> Tensor:
    """Some rows of a tensor, wherever it is."""
    return tensor[rows.to(tensor.device)]


def _mask(lookups: Int[Tensor, " n"], before: int, after: int, dtype: torch.dtype) -> Float[Tensor, "n 1 s k"]:
    """What each token from the lookup token on may see: its row's earlier tokens, and later ones up to itself."""
    earlier = torch.arange(before, device=lookups.device) < lookups[:, None, None]
    later = torch.ones(after, after, dtype=torch.bool, device=lookups.device).tril()
    seen = torch.cat([earlier.expand(-1, after, -1), later.expand(len(lookups), -1, -1)], dim=2)
    return torch.zeros(seen.shape, dtype=dtype, device=lookups.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]

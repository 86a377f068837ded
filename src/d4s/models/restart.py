"""Restarts a forward pass after one block, only for the tokens that a change there can reach.

A vector added at the subject's last token changes nothing before it. So the whole pass runs once; a restart runs the later
blocks for the tokens from the subject's last token on, called with the arguments that the model itself used and with the keys
and values of earlier tokens frozen. Texts start at different tokens, so arguments with a position are gathered token by token;
the texts of one request share a row, where no token sees another text, and only the request's row is padded.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
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


class FrozenCache:
    """A read-only cache: attention sees the keys and values of earlier tokens, and nothing is stored."""

    def __init__(self, earlier: Mapping[int, KeysValues]) -> None:
        self._earlier = earlier

    def update(self, keys: Tensor, values: Tensor, layer: int, *_args: Any, **_kwargs: Any) -> KeysValues:
        """Earlier and present keys and values of a layer; those of a single row are shared by all rows."""
        earlier_keys, earlier_values = self._earlier[layer]
        if len(earlier_keys) != len(keys):
            earlier_keys, earlier_values = (part.expand(len(keys), -1, -1, -1) for part in (earlier_keys, earlier_values))
        return torch.cat([earlier_keys, keys], dim=-2), torch.cat([earlier_values, values], dim=-2)


@dataclass(frozen=True, slots=True)
class Restart:
    """The later part of a batch's forward pass, from each text's last subject token to its end; a row has one text or several.

    `hidden` is the output of the block after which it starts; `at_subject_last` is 1 at the last subject token of each text, else 0;
    `starts` are the indices in the row at which texts begin. `arguments` are those of each later block by name, without the hidden
    states and the cache, whose name is `cache`; they may differ between blocks (Gemma 3).
    """

    model: LanguageModel
    layer: int
    hidden: Float[Tensor, "n s d"]
    at_subject_last: Float[Tensor, "n s 1"]
    starts: Int[Tensor, "n texts"]
    arguments: Mapping[int, Mapping[str, Any]]
    cache: str
    earlier: Mapping[int, KeysValues]

    shifts_sublayers: bool = False

    def run(self, shift: Float[Tensor, "n parts d"], read: Int[Tensor, " k"] | None = None) -> Float[Tensor, "..."]:
        """The last block's output when vectors are added at the last subject tokens of each row's texts.

        They are added to the hidden state, or, where the pass starts below the shifted block, to the outputs of that block's MLP
        and, if there are two, of its attention. `read` gives indices of tokens, counted through all rows, to which the output is limited.
        """
        shift = shift.to(self.hidden.dtype)
        if not self.shifts_sublayers:
            return self.run_hidden(torch.addcmul(self.hidden, self.at_subject_last, shift.to(self.hidden.device)), read)
        block = self.layer + 1
        with ExitStack() as stack:
            for part, module in enumerate((self.model.mlp_out(block), self.model.attention(block))[: shift.shape[1]]):
                stack.callback(
                    module.register_forward_hook(partial(_add_at_subject_last, self.at_subject_last, shift[:, part : part + 1])).remove
                )
            return self.run_hidden(self.hidden, read)

    def run_hidden(self, hidden: Float[Tensor, "n s d"], read: Int[Tensor, " k"] | None = None) -> Float[Tensor, "..."]:
        """The last block's output for other hidden states entering the later blocks; `read` as in `run`."""
        last = self.model.n_layers - 1
        is_shifted_there = self.shifts_sublayers and self.layer + 1 == last
        with (
            _mlp_only_at(self.model.mlp(last), read.unique(), hidden.shape) if read is not None and not is_shifted_there else nullcontext()
        ):
            for later in range(self.layer + 1, self.model.n_layers):
                hidden = self.run_block(later, hidden)
        return hidden if read is None else hidden.flatten(0, 1).index_select(0, read.to(hidden.device))

    def run_block(self, later: int, hidden: Float[Tensor, "m s d"]) -> Float[Tensor, "m s d"]:
        """The output of one later block, for as many rows as this has, or any number where this has a single one."""
        output = self.model.block(later)(hidden, **self.arguments[later], **{self.cache: FrozenCache(self.earlier)})
        return output if isinstance(output, Tensor) else output[0]

    def only(self, later: int) -> "Restart":
        """The same restart with what one of the later blocks needs and nothing for the others."""
        return replace(self, arguments={later: self.arguments[later]}, earlier={later: self.earlier[later]})

    def select(self, rows: Int[Tensor, " k"]) -> "Restart":
        """The same restart for some of the rows."""
        count = len(self.hidden)
        arguments = {
            later: {
                name: _map_tensors(value, lambda tensor: _rows(tensor, rows) if len(tensor) == count else tensor)
                for name, value in named.items()
            }
            for later, named in self.arguments.items()
        }
        earlier = {later: (_rows(keys, rows), _rows(values, rows)) for later, (keys, values) in self.earlier.items()}
        hidden, at_subject_last, starts = (_rows(tensor, rows) for tensor in (self.hidden, self.at_subject_last, self.starts))
        return replace(self, hidden=hidden, at_subject_last=at_subject_last, starts=starts, arguments=arguments, earlier=earlier)


@dataclass(frozen=True, slots=True)
class SubjectLastOutputs:
    """Outputs at each row's last subject token: of a block, of its MLP, and of its attention where the pass starts below it.

    Those of the MLP and of attention are before the norm that may follow them.
    """

    block: Float[Tensor, "n d"]
    mlp: Float[Tensor, "n d"]
    attention: Float[Tensor, "n d"]


@contextmanager
def _mlp_only_at(mlp: nn.Module, read: Int[Tensor, " k"], shape: torch.Size) -> Iterator[None]:
    """Run an MLP, which works token by token, only for the tokens `read`, each given once; its output is zero elsewhere."""

    def narrow(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> tuple[tuple[Tensor], dict[str, Tensor]]:
        (whole,) = (*args, *kwargs.values())
        return (whole.flatten(0, 1).index_select(0, read.to(whole.device))[None],), {}

    def widen(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return (
            output.new_zeros(shape[0] * shape[1], output.shape[-1]).index_copy(0, read.to(output.device), output[0]).unflatten(0, shape[:2])
        )

    with ExitStack() as stack:
        stack.callback(mlp.register_forward_pre_hook(narrow, with_kwargs=True).remove)
        stack.callback(mlp.register_forward_hook(widen).remove)
        yield


def _add_at_subject_last(
    at_subject_last: Float[Tensor, "n s 1"], shift: Float[Tensor, "n 1 d"], _module: nn.Module, _args: Any, output: Any
) -> Any:
    """The output of a module with a vector added at the last subject tokens."""
    whole = output[0] if isinstance(output, tuple) else output
    shifted = torch.addcmul(whole, at_subject_last.to(whole.device), shift.to(whole.device))
    return (shifted, *output[1:]) if isinstance(output, tuple) else shifted


def restart_sublayers(
    model: LanguageModel,
    ids: Int[Tensor, "n t"],
    subject_last: Int[Tensor, " n"],
    lengths: Int[Tensor, " n"],
    layer: int,
    *,
    texts_per_row: int = 1,
) -> tuple[Restart, SubjectLastOutputs]:
    """As `restart`, but started before the block, so that the outputs of its MLP and attention can be shifted separately."""
    with trace({"block": model.block(layer), "mlp": model.mlp_out(layer), "attention": model.attention(layer)}) as found:
        again = _restart_after(model, ids, subject_last, lengths, layer - 1, texts_per_row=texts_per_row)
    return replace(again, shifts_sublayers=True), SubjectLastOutputs(
        *(_at(found.outputs[name], subject_last) for name in ("block", "mlp", "attention"))
    )


def restart(
    model: LanguageModel,
    ids: Int[Tensor, "n t"],
    subject_last: Int[Tensor, " n"],
    lengths: Int[Tensor, " n"],
    layer: int,
    *,
    texts_per_row: int = 1,
) -> tuple[Restart, SubjectLastOutputs]:
    """A restart after a block for texts (padded on the right), and that block's outputs at the last subject tokens.

    `texts_per_row` consecutive texts share one row of the restart, which saves their padding.

    Raises:
        ValueError: if a text is longer than the window that some of the network's blocks attend to.
    """
    with trace({"block": model.block(layer), "mlp": model.mlp_out(layer)}) as found:
        again = _restart_after(model, ids, subject_last, lengths, layer, texts_per_row=texts_per_row)
    block, mlp = (_at(found.outputs[name], subject_last) for name in ("block", "mlp"))
    return again, SubjectLastOutputs(block, mlp, torch.zeros_like(mlp))


def _restart_after(
    model: LanguageModel,
    ids: Int[Tensor, "n t"],
    subject_last: Int[Tensor, " n"],
    lengths: Int[Tensor, " n"],
    layer: int,
    *,
    texts_per_row: int,
) -> Restart:
    """A restart after a block, or before all blocks (layer -1).

    Raises:
        ValueError: if a text is longer than the window that some of the network's blocks attend to.
    """
    return record_pass(model, ids, layer).restart(subject_last.tolist(), lengths.tolist(), texts_per_row=texts_per_row)


@dataclass(frozen=True, slots=True)
class RecordedPass:
    """A whole pass of texts, whose part after a block can be restarted at any token.

    `hidden` is the output of block `layer`, or what entered the first block (layer -1); `calls` are the arguments of the later blocks.
    """

    model: LanguageModel
    layer: int
    hidden: Float[Tensor, "n t d"]
    calls: Mapping[int, Mapping[str, Any]]
    cache: DynamicCache

    def restart(self, begin: Sequence[int], end: Sequence[int], *, texts_per_row: int = 1) -> Restart:
        """The later part for each text's tokens between two positions; `texts_per_row` consecutive texts share a row."""
        shape, device = self.hidden.shape[:2], self.hidden.device
        present, earlier = _places(begin, end, texts_per_row, device), _places([0] * len(begin), begin, texts_per_row, device)
        hidden = _gather_tokens(self.hidden, present, shape)
        name_of_cache = next((name for named in self.calls.values() for name, value in named.items() if isinstance(value, Cache)), "")
        mask = _mask(present, earlier, hidden.dtype)
        arguments = {
            later: {
                name: _map_tensors(value, lambda tensor: _gather_tokens(tensor, present, shape))
                for name, value in named.items()
                if name != name_of_cache
            }
            | {"attention_mask": mask}
            for later, named in self.calls.items()
        }
        stored: list[Any] = self.cache.layers
        earlier_keys_values = {
            later: (_gather_cached(stored[later].keys, earlier), _gather_cached(stored[later].values, earlier)) for later in self.calls
        }
        is_first = (present.place == torch.tensor(begin, device=device)[present.text]) & (present.text >= 0)
        starts = is_first.nonzero()[:, 1].view(len(hidden), texts_per_row)
        return Restart(
            self.model, self.layer, hidden, is_first[..., None].to(hidden), starts, arguments, name_of_cache, earlier_keys_values
        )


@torch.no_grad()
def record_pass(model: LanguageModel, ids: Int[Tensor, "n t"], layer: int) -> RecordedPass:
    """A whole pass of texts, padded on the right, of which the part after a block is to be restarted.

    Raises:
        ValueError: if a text is longer than the window that some of the network's blocks attend to.
    """
    if model.window is not None and ids.shape[1] > model.window:
        raise ValueError(
            f"rows of {ids.shape[1]} tokens exceed the model's attention window of {model.window}; shorten prompts or prefixes"
        )
    cache = DynamicCache()
    with trace({"edge": model.block(max(layer, 0))}) as found, _calls_after(model, layer) as calls:
        model.network.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    return RecordedPass(model, layer, (found.outputs if layer >= 0 else found.inputs)["edge"], calls, cache)


@contextmanager
def _calls_after(model: LanguageModel, layer: int) -> Iterator[dict[int, dict[str, Any]]]:
    """The arguments by name, without the hidden states, with which each later block is called while the context is active."""
    calls: dict[int, dict[str, Any]] = {}
    with ExitStack() as stack:
        for later in range(layer + 1, model.n_layers):
            handle = model.block(later).register_forward_pre_hook(partial(_record_call, calls, later), with_kwargs=True)
            stack.callback(handle.remove)
        yield calls


def _record_call(calls: dict[int, dict[str, Any]], later: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    signature = inspect.signature(block.forward)
    named = signature.bind(*args, **kwargs).arguments
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            named.update(named.pop(name, {}))
    named.pop(next(iter(signature.parameters)))
    calls[later] = dict(named)


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A tensor, or each tensor of a nested tuple, mapped; other values unchanged."""
    if isinstance(value, tuple):
        return tuple(_map_tensors(part, change) for part in value)
    return change(value) if isinstance(value, Tensor) else value


@dataclass(frozen=True, slots=True)
class _Places:
    """The tokens of each row, text after text: index of their text, and position in it. Padding has text -1."""

    text: Int[Tensor, "rows s"]
    place: Int[Tensor, "rows s"]


def _places(begin: Sequence[int], end: Sequence[int], texts_per_row: int, device: torch.device) -> _Places:
    """The tokens of texts between two positions, `texts_per_row` texts in each row, padded to the longest row."""
    rows = [
        [(text, place) for text in range(start, start + texts_per_row) for place in range(begin[text], end[text])]
        for start in range(0, len(begin), texts_per_row)
    ]
    width = max(map(len, rows))
    filled = torch.tensor([row + [(-1, 0)] * (width - len(row)) for row in rows], dtype=torch.long, device=device)
    return _Places(*filled.view(len(rows), width, 2).unbind(2))


def _gather_tokens(tensor: Tensor, places: _Places, shape: torch.Size) -> Tensor:
    """Values at places, for a tensor with one value per token (its rows may be shared); other tensors unchanged."""
    if tensor.ndim < 2 or tensor.shape[1] != shape[1]:
        return tensor
    return tensor.expand(shape[0], *tensor.shape[1:])[places.text.to(tensor.device), places.place.to(tensor.device)]


def _gather_cached(tensor: Float[Tensor, "n heads t d"], places: _Places) -> Float[Tensor, "rows heads s d"]:
    """Keys or values at places."""
    return tensor[places.text.to(tensor.device), :, places.place.to(tensor.device)].transpose(1, 2)


def _at(tensor: Float[Tensor, "n t d"], places: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """The vector at each row's position; blocks may be on different devices."""
    places = places.to(tensor.device)
    return tensor[torch.arange(len(places), device=places.device), places]


def _rows(tensor: Tensor, rows: Int[Tensor, " k"]) -> Tensor:
    """Some rows of a tensor on any device."""
    return tensor[rows.to(tensor.device)]


def _mask(present: _Places, earlier: _Places, dtype: torch.dtype) -> Float[Tensor, "rows 1 s k"]:
    """The additive attention mask of tokens from the last subject token on: they see earlier tokens of their text, and themselves."""
    text, place = (torch.cat(pair, 1) for pair in ((earlier.text, present.text), (earlier.place, present.place)))
    seen = (text[:, None] == present.text[..., None]) & (place[:, None] <= present.place[..., None])
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]

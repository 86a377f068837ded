"""Finds the adapter of an architecture without a row, by what modules do in one forward pass, not by their names.

The blocks are the longest outermost list of equal modules; the MLP is the part of a block that maps hidden states token by
token, attention the part that does not; the MLP's output projection gives the MLP's output; the final norm turns the
last block's output into the hidden states that are unembedded. What is missing or not unique is reported; nothing is
guessed.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from d4s.errors import SettingsError
from d4s.models.adapter_conformance import TRACED_CHECKS, AdapterCase, check_results
from d4s.models.adapters import ModelAdapter
from d4s.models.language_model import LAYOUTS, LanguageModel
from d4s.models.trace import Trace, trace

log = logging.getLogger(__name__)
TOKENS = 6


@dataclass(frozen=True, slots=True)
class Discovery:
    """The fields of an adapter that were found, and a sentence for each that is missing or not unique."""

    found: dict[str, str]
    missing: tuple[str, ...]

    @property
    def adapter(self) -> ModelAdapter | None:
        """The adapter, if no field is missing."""
        return None if self.missing else ModelAdapter(**self.found)  # type: ignore[arg-type]


class _Incomplete(Exception):
    """Stops the search: other fields cannot be found without the one named in the message."""


def wrap_discovered(network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    """A model of an architecture without a row, with an adapter that was found and passes the checks of one traced pass.

    Raises:
        SettingsError: if a field is missing or a check fails; names it, and where to add a row.
    """
    kind = network.config.model_type
    found = discover(network)
    adapter, failures = found.adapter, list(found.missing)
    model = LanguageModel(network, tokenizer, adapter) if adapter else None
    if model is not None:
        failures = [f"{result.check}: {why}" for result in check_results(AdapterCase(model), TRACED_CHECKS) for why in result.failures]
    if model is None or failures:
        raise SettingsError(
            f"models of type {kind!r} have no row in d4s.models.adapters, and inspection does not suffice: {'; '.join(failures)}. "
            f"Found: {_listed(found.found)}. A row for {kind!r} in d4s/models/adapters.py helps where a part is only hard to find"
        )
    log.warning("models of type %r have no row in d4s.models.adapters; found by inspection: %s", kind, _listed(found.found))
    return model


def _listed(found: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in found.items() if value) or "nothing"


def discover(network: PreTrainedModel) -> Discovery:
    """The fields of an adapter that can be found in a network in evaluation mode."""
    found: dict[str, str] = {"model_type": network.config.model_type}
    missing: list[str] = []
    try:
        found["blocks"] = _blocks(network)
        blocks = network.get_submodule(found["blocks"])
        found["mlp"], found["attention"] = _parts(blocks, network)
        found["mlp_out"], found["weight_layout"] = _mlp_out(blocks, found["mlp"], network)
        found["post_norm"] = _post_norm(blocks, found["mlp"], network)
    except _Incomplete as error:
        missing.append(str(error))
    if "blocks" in found:
        try:
            found["final_norm"] = _final_norm(network, found["blocks"])
            found["unembed"], found["logit_cap"] = _unembed(network, found["final_norm"])
        except _Incomplete as error:
            missing.append(str(error))
    if not isinstance(getattr(network.config, "max_position_embeddings", None), int):
        missing.append("the configuration does not say max_position_embeddings, the longest context")
    return Discovery(found, tuple(dict.fromkeys(missing)))


def _only(names: Sequence[str], what: str, where: str) -> str:
    """The only name of a list.

    Raises:
        _Incomplete: if there is none or more than one.
    """
    if len(names) != 1:
        raise _Incomplete(f"{what} is ambiguous in {where}: {', '.join(names)}" if names else f"{what} was not found in {where}")
    return names[0]


@torch.no_grad()
def _run_traced(network: PreTrainedModel, modules: dict[str, nn.Module]) -> tuple[Trace[str], Tensor, Tensor]:
    """Inputs and outputs of modules for a few tokens, the hidden states that are unembedded, and the logits.

    Raises:
        _Incomplete: if the network does not accept plain token ids.
    """
    ids = torch.arange(1, TOKENS + 1, device=network.device)[None] % network.config.get_text_config().vocab_size
    try:
        with trace(modules) as found:
            hidden = network.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return found, hidden, network(input_ids=ids, use_cache=False).logits
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _Incomplete(f"a plain forward pass ends with {type(error).__name__}: {error}") from error


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape and torch.equal(one, other)


def _blocks(network: PreTrainedModel) -> str:
    """Path of the longest list of equal modules that is inside no other list.

    Raises:
        _Incomplete: if there is none, two of equal length, or the configuration counts otherwise.
    """
    lists = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and len({type(block) for block in module}) == 1
    }
    outer = {name: len(module) for name, module in lists.items() if not any(name.startswith(f"{other}.") for other in lists)}
    path = _only([name for name, length in outer.items() if length == max(outer.values())], "the list of blocks", "the network")
    layers = network.config.get_text_config().num_hidden_layers
    if outer[path] != layers:
        raise _Incomplete(f"{path} holds {outer[path]} modules, but the configuration says {layers} layers")
    return path


def _parts(blocks: nn.Module, network: PreTrainedModel) -> tuple[str, str]:
    """Names of the MLP and of the attention of a block.

    Of its parts with two projections or more, the MLP maps hidden states alone to hidden states, token by token; attention is
    the other one.

    Raises:
        _Incomplete: if not exactly one part does so, or not exactly one does not.
    """
    block = next(blocks.children())
    parts = {name: part for name, part in block.named_children() if sum(type(module) in LAYOUTS for module in part.modules()) >= 2}
    mlps, where = [name for name, part in parts.items() if _is_pointwise(part, network)], f"a {type(block).__name__}"
    mlp = _only(mlps, "the MLP", where)
    return mlp, _only([name for name in parts if name != mlp], "attention", where)


@torch.no_grad()
def _is_pointwise(part: nn.Module, network: PreTrainedModel) -> bool:
    """Whether a module maps hidden states alone to hidden states of the same shape, each token independently."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(1, TOKENS, network.config.get_text_config().hidden_size, generator=generator).to(network.device, network.dtype)
    try:
        there, back = part(drawn), part(drawn.flip(1))
    except (TypeError, AttributeError, ValueError, RuntimeError):
        return False  # it needs more than hidden states, as attention does
    return isinstance(there, Tensor) and there.shape == drawn.shape and torch.allclose(there, back.flip(1), rtol=1e-3, atol=1e-4)


def _mlp_out(blocks: nn.Module, mlp: str, network: PreTrainedModel) -> tuple[str, str]:
    """Name, relative to the block, of the projection that writes the MLP's output, and its layout.

    Raises:
        _Incomplete: if no projection or several do so, or not the same one in every block.
    """
    names = {f"{at}.{name}": module for at, block in enumerate(blocks.children()) for name, module in block.named_modules()}
    inside = {path: module for path, module in names.items() if type(module) in LAYOUTS and f".{mlp}." in path}
    outputs = {path: module for path, module in names.items() if path.partition(".")[2] == mlp}
    found, _, _ = _run_traced(network, inside | outputs)
    writing = [path for path in inside if _same(found.outputs.get(path), found.outputs.get(f"{path.partition('.')[0]}.{mlp}"))]
    first = _only(
        [path[2:] for path in writing if path.startswith("0.")], "the projection that writes the MLP's output", f"{mlp} of block 0"
    )
    count = sum(1 for _ in blocks.children())
    if sorted(writing) != sorted(f"{at}.{first}" for at in range(count)):
        raise _Incomplete(f"not every block writes its MLP's output by {first}: found {', '.join(writing)}")
    return first, LAYOUTS[type(names[f"0.{first}"])]


def _post_norm(blocks: nn.Module, mlp: str, network: PreTrainedModel) -> str:
    """Name of the module that changes the MLP's output before it is added to the residual stream; empty where there is none.

    Raises:
        _Incomplete: if there are several.
    """
    block = next(blocks.children())
    leaves = {name: part for name, part in block.named_children() if not any(part.children())}
    found, _, _ = _run_traced(network, leaves | {mlp: block.get_submodule(mlp)})
    written = found.outputs.get(mlp)
    after = [name for name in leaves if _same(found.inputs.get(name), written) and not _same(found.outputs.get(name), written)]
    return _only(after, "the norm after the MLP", f"a {type(block).__name__}") if after else ""


def _final_norm(network: PreTrainedModel, blocks: str) -> str:
    """Path of the module that reads the last block's output and gives the hidden states that are unembedded.

    Raises:
        _Incomplete: if no module outside the blocks, or several, do so.
    """
    parent = blocks.rpartition(".")[0]
    beside = {
        f"{parent}.{name}".lstrip("."): module
        for name, module in network.get_submodule(parent).named_children()
        if not isinstance(module, nn.ModuleList)
    }
    last = list(network.get_submodule(blocks).children())[-1]
    found, hidden, _ = _run_traced(network, beside | {blocks: last})
    written = found.outputs.get(blocks)
    norms = [path for path in beside if _same(found.inputs.get(path), written) and _same(found.outputs.get(path), hidden)]
    return _only(norms, "the norm after the last block", parent or "the network")


@torch.no_grad()
def _unembed(network: PreTrainedModel, final_norm: str) -> tuple[str, str]:
    """Path of the output embeddings, and the setting that caps their logits; empty where there is none.

    Raises:
        _Incomplete: if there are none, or the network changes the logits in a way that this package does not know.
    """
    module = network.get_output_embeddings()
    if module is None:
        raise _Incomplete("the network names no output embeddings")
    path = next(name for name, other in network.named_modules() if other is module)
    _, hidden, logits = _run_traced(network, {})
    plain = module(hidden)
    caps = [name for name in network.config.to_dict() if name.endswith("logit_softcapping") and name.startswith("final")]
    cap = getattr(network.config, caps[0]) if caps else None
    capped = plain if cap is None else torch.tanh(plain / cap) * cap
    if not torch.allclose(capped.float(), logits.float(), rtol=1e-3, atol=1e-4):
        hints = [f"{name}={value}" for name, value in network.config.to_dict().items() if "logit" in name]
        raise _Incomplete(f"the logits are not those of {path} after {final_norm} ({', '.join(hints) or 'no setting says why'})")
    return path, caps[0] if caps else ""

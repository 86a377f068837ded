"""A causal language model for editors: network, tokenizer, and weights in one layout.

Weights of MLP output projections are (d_out, d_in) here, however the network stores them. Change them only inside
`restoring` or `patched`, which restore the original bits.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from d4s.errors import SettingsError
from d4s.facts.joining import Joiner
from d4s.models.adapters import ModelAdapter, WeightLayout

STATE_DEVICE = "D4S_STATE_DEVICE"
ACTIVATIONS = ("hidden_activation", "hidden_act", "activation_function")
"""Settings of a network's configuration that name the activation of its MLPs; the first that is there counts."""
LAYOUTS: Mapping[type[nn.Module], WeightLayout] = {nn.Linear: "out_in", Conv1D: "in_out"}


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A network with its tokenizer and the names of its parts; made by `d4s.models.loading`.

    `joiner` is what is put between prompts and targets.
    """

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    adapter: ModelAdapter
    joiner: Joiner = "auto"

    def __post_init__(self) -> None:
        for layer in range(self.n_layers):
            module, stored = self.mlp_out(layer), self.parameter(layer)
            if stored.is_meta:
                raise SettingsError(
                    f"{self.adapter.blocks}.{layer}.{self.adapter.mlp_out} was left on the disk or the host for want of memory; "
                    "editors need it beside the model: load it in half precision (dtype), or spread it over more devices (device_map)"
                )
            if LAYOUTS.get(type(module)) != self.adapter.weight_layout or not stored.is_floating_point():
                raise SettingsError(
                    f"{self.adapter.blocks}.{layer}.{self.adapter.mlp_out} is a {type(module).__name__} of {stored.dtype}, "
                    f"expected a floating-point weight stored as {self.adapter.weight_layout}; load the model unquantised"
                )

    @property
    def n_layers(self) -> int:
        """Number of transformer blocks."""
        return len(self._blocks)

    @property
    def device(self) -> torch.device:
        """Device that token ids go to."""
        return self.network.device

    def state_device(self, layer: int) -> torch.device:
        """Device of an editor's float64 tensors of a layer: that of its weight, unless `execution.state_device` names another."""
        chosen = os.environ.get(STATE_DEVICE, "auto")
        return self.weight(layer).device if chosen == "auto" else torch.device(chosen)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.network.dtype

    @property
    def activation(self) -> nn.Module:
        """The activation of the MLPs.

        Raises:
            SettingsError: if the configuration names none that is known.
        """
        config = self.network.config.get_text_config()
        named = [found for name in ACTIVATIONS if isinstance(found := getattr(config, name, None), str)]
        if not named or named[0] not in ACT2FN:
            raise SettingsError(f"the model's configuration names no known activation under {', '.join(ACTIVATIONS)}; found {named}")
        return ACT2FN[named[0]]

    @property
    def max_positions(self) -> int:
        """Longest context in tokens."""
        return int(self.network.config.get_text_config().max_position_embeddings)

    @property
    def window(self) -> int | None:
        """Attention window, in tokens, of the blocks that have one; None where all blocks see the whole context."""
        return getattr(self.network.config.get_text_config(), "sliding_window", None)

    @property
    def max_edit_tokens(self) -> int:
        """Longest prompt with its target, in tokens, that can be edited: a restarted pass must see all of it."""
        return min(self.max_positions, self.window or self.max_positions)

    @property
    def final_norm(self) -> nn.Module:
        """The norm after the last block."""
        return self.network.get_submodule(self.adapter.final_norm)

    def unembed(self, hidden: Float[Tensor, "*n d_out"]) -> Float[Tensor, "*n vocab"]:
        """The network's own logits from normed hidden states, capped where the architecture caps them."""
        logits = self.network.get_submodule(self.adapter.unembed)(hidden)
        cap = getattr(self.network.config, self.adapter.logit_cap) if self.adapter.logit_cap else None
        return logits if cap is None else torch.tanh(logits / cap) * cap

    @property
    def _blocks(self) -> nn.ModuleList:
        return self.network.get_submodule(self.adapter.blocks)  # type: ignore[return-value]

    def block(self, layer: int) -> nn.Module:
        """A transformer block.

        Raises:
            ValueError: if the model has no such layer.
        """
        if not 0 <= layer < self.n_layers:
            raise ValueError(f"layer {layer} asked for, but the model has layers 0 to {self.n_layers - 1}")
        return self._blocks[layer]

    def mlp(self, layer: int) -> nn.Module:
        """The MLP of a block."""
        return self.block(layer).get_submodule(self.adapter.mlp)

    def mlp_out(self, layer: int) -> nn.Module:
        """The output projection of a block's MLP; its input is the key."""
        return self.block(layer).get_submodule(self.adapter.mlp_out)

    def post_norm(self, layer: int) -> nn.Module | None:
        """The norm between a block's MLP and the residual stream; None where the MLP's output is added as it is."""
        return self.block(layer).get_submodule(self.adapter.post_norm) if self.adapter.post_norm else None

    def mlp_share(self, layer: int) -> nn.Module:
        """The module whose output is the MLP's share of the block's output: the norm after the MLP, or the output projection."""
        return self.post_norm(layer) or self.mlp_out(layer)

    def block_output_change(
        self, layer: int, output: Float[Tensor, "*m d_out"], change: Float[Tensor, "*n d_out"]
    ) -> Float[Tensor, "*n d_out"]:
        """What a change of an MLP's output changes in its block's output: the change itself, or after the norm in between."""
        norm = self.post_norm(layer)
        return change if norm is None else norm(output + change) - norm(output)

    def attention(self, layer: int) -> nn.Module:
        """The attention of a block."""
        return self.block(layer).get_submodule(self.adapter.attention)

    def d_out(self, layer: int = 0) -> int:
        """Width of the residual stream, which the output projection writes to."""
        return self.weight(layer).shape[0]

    def d_in(self, layer: int = 0) -> int:
        """Width of a key."""
        return self.weight(layer).shape[1]

    def parameter(self, layer: int) -> nn.Parameter:
        """The parameter behind `weight`, in the network's own layout, for optimisers."""
        return self.mlp_out(layer).get_parameter("weight")

    def weight(self, layer: int) -> Float[Tensor, "d_out d_in"]:
        """The present weight of an MLP output projection, (d_out, d_in): a view, written only through `set_weight`."""
        stored = self.parameter(layer).detach()
        return stored.mT if self.adapter.weight_layout == "in_out" else stored

    def set_weight(self, layer: int, weight: Float[Tensor, "d_out d_in"]) -> None:
        """Write a weight in place, converted to the network's layout, precision and device.

        Raises:
            ValueError: if its shape is not the layer's.
        """
        live = self.weight(layer)
        if weight.shape != live.shape:
            raise ValueError(f"weight of layer {layer} must have shape {tuple(live.shape)} (d_out, d_in), found {tuple(weight.shape)}")
        live.copy_(weight.detach())

    @contextmanager
    def restoring(self, layers: Iterable[int]) -> Iterator[None]:
        """Restore the present bits of these layers' weights when the block ends, also on error."""
        originals = {layer: self.weight(layer).clone() for layer in layers}
        try:
            yield
        finally:
            for layer, original in originals.items():
                self.set_weight(layer, original)

    @contextmanager
    def patched(self, delta: Mapping[int, Float[Tensor, "d_out d_in"]]) -> Iterator[None]:
        """Add a change of weights, summed in float32 or better and rounded once; the original bits are restored at the end."""
        with self.restoring(delta):
            for layer, change in delta.items():
                live = self.weight(layer)
                master = torch.promote_types(live.dtype, torch.float32)
                self.set_weight(layer, live.to(master) + change.to(live.device, master))
            yield

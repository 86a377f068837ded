"""Keys: what a request looks up in an MLP's output matrix, averaged over wordings; and the hidden states that edits move."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.editors.parts import KeySettings, TargetSettings
from d4s.editors.prompts import Rewriting, padded
from d4s.models.language_model import LanguageModel
from d4s.models.trace import trace


@dataclass(frozen=True, slots=True)
class Reading:
    """What one pass over all wordings of a batch shows at the lookup tokens.

    `keys` has one row per request by layer, averaged as the settings say; `bare` are the keys of the bare prompts;
    `hidden` the vectors at the bare prompts that targets stand for (averaged like keys, where keys are to be consistent),
    where they were asked for.
    """

    keys: Mapping[int, Float[Tensor, "b d_in"]]
    bare: Mapping[int, Float[Tensor, "b d_in"]]
    hidden: Float[Tensor, "b d_out"] | None


@torch.no_grad()
def read(
    model: LanguageModel, batch: Sequence[Rewriting], layers: Sequence[int], settings: KeySettings, hidden: TargetSettings | None = None
) -> Reading:
    """Keys at layers of the model as it is now, and with `hidden` the vectors at the layer and hook of the targets.

    One pass that ends at the last module read. Each text ends at its lookup token, which sees nothing behind it.
    """
    wordings = [wording for request in batch for wording in request.wordings]
    modules = {f"keys.{layer}": model.mlp_out(layer) for layer in layers}
    if hidden is not None:
        modules["hidden"] = model.block(hidden.layer) if hidden.hook == "block_output" else model.mlp_out(hidden.layer)
    last = "hidden" if hidden is not None and hidden.layer >= max(layers) else f"keys.{max(layers)}"
    with trace(modules, stop_after=last) as found:
        model.network.base_model(input_ids=padded([wording.upto_lookup for wording in wordings], model.device), use_cache=False)
    lookups, each = torch.tensor([wording.lookup for wording in wordings]), torch.arange(len(wordings))
    shape = (len(batch), -1)
    by_layer = {layer: found.inputs[f"keys.{layer}"][each, lookups].unflatten(0, shape) for layer in layers}
    present = found.outputs["hidden"][each, lookups].unflatten(0, shape) if hidden is not None else None
    return Reading(
        {layer: averaged(keys, settings) for layer, keys in by_layer.items()},
        {layer: keys[:, 0] for layer, keys in by_layer.items()},
        present if present is None else averaged(present, settings) if settings.consistent else present[:, 0],
    )


def averaged(keys: Float[Tensor, "b wordings d"], settings: KeySettings) -> Float[Tensor, "b d"]:
    """One key per request from those of its wordings, the bare one first.

    MEMIT's release averages within the group of bare prompts and the group of prefixed ones first, then over both;
    ROME's takes the plain mean.
    """
    if settings.average == "bare" or keys.shape[1] == 1:
        return keys[:, 0]
    keys = keys.to(torch.promote_types(keys.dtype, torch.float32))
    if settings.average == "plain":
        return keys.mean(1)
    return (keys[:, 0] + keys[:, 1:].mean(1)) / 2

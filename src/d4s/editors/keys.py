"""Keys: what a request looks up in an MLP's output matrix, averaged over prompts; and the hidden states that edits move.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.editors.parts.key_rule import KeySettings
from d4s.editors.parts.target_rule import TargetSettings
from d4s.editors.prompts import PromptSet, pad_ids
from d4s.models.language_model import LanguageModel
from d4s.models.trace import trace


@dataclass(frozen=True, slots=True)
class Activations:
    """What one pass over all prompts of a batch shows at the last subject tokens.

    `keys` has one row per request by layer, averaged as the settings say; `unprefixed` are the keys of the unprefixed prompts;
    `hidden` the vectors at the unprefixed prompts that targets stand for (averaged like keys, where keys.shared_key is set),
    where they were asked for. `context` are the keys of tokens that are not looked up, by layer: none where no setting asks.
    """

    keys: Mapping[int, Float[Tensor, "b d_in"]]
    unprefixed: Mapping[int, Float[Tensor, "b d_in"]]
    hidden: Float[Tensor, "b d_out"] | None
    context: Mapping[int, Float[Tensor, "c d_in"]] = field(default_factory=dict)


@torch.no_grad()
def read_activations(
    model: LanguageModel, batch: Sequence[PromptSet], layers: Sequence[int], settings: KeySettings, hidden: TargetSettings | None = None
) -> Activations:
    """Keys at layers of the model as it is now, and with `hidden` the vectors at the layer and hook of the targets.

    One pass that ends at the last module read. Each text ends at its last subject token, which sees nothing behind it. Keys of
    context take a second pass, of whole texts.
    """
    prompts = [prompt for request in batch for prompt in request.prompts]
    modules = {f"keys.{layer}": model.mlp_out(layer) for layer in layers}
    if hidden is not None:
        modules["hidden"] = model.block(hidden.layer) if hidden.hook == "block_output" else model.mlp_share(hidden.layer)
    last = "hidden" if hidden is not None and hidden.layer >= max(layers) else f"keys.{max(layers)}"
    with trace(modules, stop_after=last) as found:
        model.network.base_model(input_ids=pad_ids([prompt.through_subject for prompt in prompts], model.device), use_cache=False)
    subject_lasts, each = torch.tensor([prompt.subject_last for prompt in prompts]), torch.arange(len(prompts))
    shape = (len(batch), -1)
    by_layer = {layer: found.inputs[f"keys.{layer}"][each, subject_lasts].unflatten(0, shape) for layer in layers}
    present = found.outputs["hidden"][each, subject_lasts].unflatten(0, shape) if hidden is not None else None
    return Activations(
        {layer: average_keys(keys, settings) for layer, keys in by_layer.items()},
        {layer: keys[:, 0] for layer, keys in by_layer.items()},
        present if present is None else average_keys(present, settings) if settings.shared_key else present[:, 0],
        _context_keys(model, batch, layers) if settings.context else {},
    )


def _context_keys(model: LanguageModel, batch: Sequence[PromptSet], layers: Sequence[int]) -> dict[int, Float[Tensor, "c d_in"]]:
    """Keys at layers of all tokens of unprefixed prompts and their answers that are not looked up.

    The answer's last token is among them where the model's context has room for it.
    """
    texts = [(one.prompts[0].ids + one.prompts[0].target)[: model.max_edit_tokens] for one in batch]
    places = [(row, place) for row, one in enumerate(batch) for place in one.context if place < len(texts[row])]
    with trace({layer: model.mlp_out(layer) for layer in layers}, stop_after=max(layers)) as found:
        model.network.base_model(input_ids=pad_ids(texts, model.device), use_cache=False)
    rows, positions = torch.tensor(places, dtype=torch.long).view(-1, 2).unbind(1)
    return {layer: found.inputs[layer][rows, positions] for layer in layers}


def average_keys(keys: Float[Tensor, "b prompts d"], settings: KeySettings) -> Float[Tensor, "b d"]:
    """One key per request from those of its prompts, the unprefixed one first.

    MEMIT's release averages within the group of unprefixed prompts and the group of prefixed ones first, then over both;
    ROME's takes the plain mean.
    """
    if settings.average == "unprefixed" or keys.shape[1] == 1:
        return keys[:, 0]
    keys = keys.to(torch.promote_types(keys.dtype, torch.float32))
    if settings.average == "plain":
        return keys.mean(1)
    return (keys[:, 0] + keys[:, 1:].mean(1)) / 2

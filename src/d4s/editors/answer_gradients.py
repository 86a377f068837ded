"""What enters MLP output matrices, and the gradient of the targets' loss at what leaves them.

Both are read where tokens of targets are predicted, or at every token that the loss depends on.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from d4s.editors.gradient_settings import GRADIENT_REQUESTS
from d4s.editors.prompts import pad_ids
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import Pair
from d4s.models.trace import trace


@dataclass(frozen=True, slots=True)
class AnswerGradients:
    """By layer a row per token, request after request, in float32 or better; and each request's mean loss per token.

    Tokens are those where one of the target is predicted, or all that the loss depends on through the layer. `keys` are what enters
    the matrix there, `gradients` those of the sum of all target tokens' negative log-probabilities with respect to what leaves
    it. A sum, unlike a mean, gives a request the same rows in any batch.
    """

    keys: Mapping[int, Float[Tensor, "t d_in"]]
    gradients: Mapping[int, Float[Tensor, "t d_out"]]
    mean_nll: Float[Tensor, " n"]


def read_answer_gradients(
    model: LanguageModel, pairs: Sequence[Pair], layers: Sequence[int], *, everywhere: bool = False
) -> AnswerGradients:
    """Keys and gradients of requests, given as token ids, at ascending layers of the model as it is; teacher-forced.

    With `everywhere` prompts have rows too: of every token whose gradient is not 0.
    """
    groups = (pairs[first : first + GRADIENT_REQUESTS] for first in range(0, len(pairs), GRADIENT_REQUESTS))
    parts = [_read(model, group, layers, everywhere=everywhere) for group in groups]
    keys = {layer: torch.cat([part.keys[layer] for part in parts]) for layer in layers}
    gradients = {layer: torch.cat([part.gradients[layer] for part in parts]) for layer in layers}
    return AnswerGradients(keys, gradients, torch.cat([part.mean_nll for part in parts]))


def target_places(pairs: Sequence[Pair]) -> tuple[Int[Tensor, " t"], Int[Tensor, " t"]]:
    """Where the tokens of targets are predicted in a batch of texts: row and place of each, text after text."""
    places = torch.tensor([(row, len(prompt) - 1 + at) for row, (prompt, target) in enumerate(pairs) for at in range(len(target))])
    row, place = places.unbind(1)
    return row, place


def target_log_probs(model: LanguageModel, pairs: Sequence[Pair]) -> Float[Tensor, "t vocab"]:
    """Log-probabilities of the whole vocabulary where the tokens of targets are predicted, text after text; teacher-forced, in one pass."""
    ids = pad_ids([[*prompt, *target[:-1]] for prompt, target in pairs], model.device)
    hidden = model.network.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return model.unembed(hidden[target_places(pairs)]).to(torch.promote_types(model.dtype, torch.float32)).log_softmax(-1)


@contextmanager
def graph_from(module: nn.Module) -> Iterator[None]:
    """Let what a module gives be differentiated with respect to: no weight is, so the graph begins there."""
    handle = module.register_forward_hook(_begin_graph)
    try:
        with torch.enable_grad():
            yield
    finally:
        handle.remove()


def _begin_graph(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
    output.requires_grad_()


def _read(model: LanguageModel, pairs: Sequence[Pair], layers: Sequence[int], *, everywhere: bool) -> AnswerGradients:
    """The same for requests that run together."""
    precision = torch.promote_types(model.dtype, torch.float32)
    with graph_from(model.mlp_out(layers[0])), trace({layer: model.mlp_out(layer) for layer in layers}) as found:
        log_probs = target_log_probs(model, pairs)
        targets = torch.tensor([token for _, target in pairs for token in target], device=log_probs.device)
        nll = -log_probs.gather(1, targets[:, None])[:, 0]
        gradients = torch.autograd.grad(nll.sum(), [found.outputs[layer] for layer in layers])
    read = {
        layer: (gradient != 0).any(2).nonzero(as_tuple=True) if everywhere else target_places(pairs)
        for layer, gradient in zip(layers, gradients, strict=True)
    }
    return AnswerGradients(
        {layer: found.inputs[layer].detach()[read[layer]].to(precision) for layer in layers},
        {layer: gradient[read[layer]].to(precision) for layer, gradient in zip(layers, gradients, strict=True)},
        torch.stack([of_target.mean() for of_target in nll.detach().split([len(target) for _, target in pairs])]),
    )

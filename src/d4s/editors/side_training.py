"""Training of a memory beside one MLP output matrix: the loss of a request's wordings, and plain gradient descent.

What lies before the matrix is run once: the memory changes nothing of it.

Terms and symbols: docs/notation.md.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from d4s.editors.edit_requests import EditRequest
from d4s.editors.finetune_loss import FineTuneLoss
from d4s.editors.prompts import Prompt, build_prompts
from d4s.editors.protocol import Diverged
from d4s.editors.side_settings import PrefixedDescent
from d4s.editors.training_texts import at_own_places
from d4s.models.language_model import LanguageModel

Change = Float[Tensor, "d_out d_in"]


@dataclass(frozen=True, slots=True)
class Wordings:
    """The wordings of requests, unprefixed ones first, run through the model as it is; `read` are the tokens of prompts."""

    layer: int
    loss_of: FineTuneLoss
    read: Bool[Tensor, "n s"]

    @classmethod
    def of(cls, model: LanguageModel, request: EditRequest, prefixes: Sequence[str], layer: int) -> "Wordings":
        """A request's wordings with its target.

        Raises:
            PromptTooLong: if the unprefixed prompt with its target exceeds the model's context.
        """
        return cls.of_prompts(model, [build_prompts(model, request, prefixes).prompts], layer)

    @classmethod
    def of_prompts(cls, model: LanguageModel, requests: Sequence[Sequence[Prompt]], layer: int) -> "Wordings":
        """Those of several requests, each with its own prompts, one after another."""
        texts = [[at_own_places(prompt.ids, prompt.target) for prompt in prompts] for prompts in requests]
        loss_of = FineTuneLoss.of(model, texts, (layer,))
        lengths = torch.tensor([len(prompt.ids) for prompts in requests for prompt in prompts], device=loss_of.keys.device)
        read = torch.arange(loss_of.keys.shape[1], device=lengths.device) < lengths[:, None]
        return cls(layer, loss_of, read)

    def through(self, keys: Float[Tensor, "n s k"]) -> "Wordings":
        """The same with other keys, or parts of them, for what is added to the matrix's output."""
        return replace(self, loss_of=replace(self.loss_of, keys=keys, before=torch.zeros_like(self.loss_of.before)))

    def loss(self, change: Float[Tensor, "d_out k"]) -> Float[Tensor, ""]:
        """Mean negative log-likelihood of the target's tokens with change · key added to the matrix's output at every token."""
        return self.loss_of.losses({self.layer: change.to(self.loss_of.keys.dtype)}).target


Loss = Callable[[Tensor], Float[Tensor, ""]]
Update = Callable[[Tensor, Tensor], Tensor]


def descend(settings: PrefixedDescent, start: Tensor, loss: Loss, update: Update) -> tuple[Tensor, list[float]]:
    """What descent makes of a tensor, and the losses before each step and at the end; `update` takes the tensor and its gradient.

    Raises:
        Diverged: if a loss stops being finite.
    """
    value, losses = start, list[float]()
    for step in range(settings.steps + 1):
        leaf = value.detach().requires_grad_()
        with torch.set_grad_enabled(step < settings.steps):
            found = loss(leaf)
        losses.append(float(found.detach()))
        check_finite(losses[-1])
        if step == settings.steps or _is_done(settings, losses):
            break
        (gradient,) = torch.autograd.grad(found, leaf)
        value = update(leaf.detach(), gradient)
    return value, losses


def check_finite(loss: float) -> None:
    """Refuse to go on after a loss that is not finite.

    Raises:
        Diverged: if it is not.
    """
    if not math.isfinite(loss):
        raise Diverged(f"the loss of a side memory is not finite: {loss}")


def _is_done(settings: PrefixedDescent, losses: Sequence[float]) -> bool:
    """Whether the loss is small and hardly changes any more."""
    return len(losses) > 1 and losses[-1] <= settings.stop_loss and abs(losses[-1] - losses[-2]) <= settings.stop_change

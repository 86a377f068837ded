"""The loss of targets as a function of one weight, for any of the requests of a batch.

What lies before the weight is run once for all requests, and kept; a loss runs the blocks after it, for the requests asked for.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.editors.prompts import pad_ids
from d4s.models.language_model import LanguageModel
from d4s.models.restart import Restart, restart
from d4s.models.tokens import Pair
from d4s.models.trace import trace


@dataclass(frozen=True, slots=True)
class AnswerLoss:
    """Requests laid out for their loss.

    `keys` enter the weight at every token, `output` is what its module gave there, `before` the weight alone.
    """

    pairs: Sequence[Pair]
    later_blocks: Restart
    keys: Float[Tensor, "n s d_in"]
    output: Float[Tensor, "n s d_out"]
    before: Float[Tensor, "n s d_out"]

    @classmethod
    def of(cls, model: LanguageModel, pairs: Sequence[Pair], layer: int) -> "AnswerLoss":
        """Prompts with their targets, as token ids, run through the model as it is."""
        ids = pad_ids([[*prompt, *target[:-1]] for prompt, target in pairs], model.device)
        lengths = torch.full((len(pairs),), ids.shape[1], device=model.device)
        with trace({layer: model.mlp_out(layer)}) as found:
            later_blocks, _ = restart(model, ids, torch.zeros_like(lengths), lengths, layer)
        keys, output = found.inputs[layer], found.outputs[layer]
        with torch.no_grad():
            before = keys @ model.weight(layer).mT
        return cls(pairs, later_blocks, keys, output, before)

    def select(self, rows: Sequence[int]) -> "AnswerLoss":
        """The same for some of the requests."""
        if [*rows] == [*range(len(self.pairs))]:
            return self
        chosen = torch.tensor(rows, device=self.keys.device)
        tensors = (tensor[chosen] for tensor in (self.keys, self.output, self.before))
        return AnswerLoss([self.pairs[row] for row in rows], self.later_blocks.select(chosen), *tensors)

    def loss(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, ""]:
        """Mean over requests of the mean negative log-probability of a target's tokens, teacher-forced."""
        model, layer = self.later_blocks.model, self.later_blocks.layer
        read, token, token_weight = self._places()
        change = model.block_output_change(layer, self.output, self.keys @ weight.mT - self.before)
        hidden = self.later_blocks.run_hidden(self.later_blocks.hidden + change, read)
        log_probs = model.unembed(model.final_norm(hidden)).to(token_weight).log_softmax(-1)
        return -(log_probs.gather(1, token.to(log_probs.device)[:, None])[:, 0] * token_weight.to(log_probs.device)).sum()

    def _places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where each target token is predicted, counted through the rows; its id; and its weight in the loss."""
        width, count = self.keys.shape[1], len(self.pairs)
        places = [
            (row * width + len(prompt) - 1 + offset, token, 1.0 / len(target) / count)
            for row, (prompt, target) in enumerate(self.pairs)
            for offset, token in enumerate(target)
        ]
        read, token, weights = zip(*places, strict=True)
        device, precision = self.keys.device, torch.promote_types(self.keys.dtype, torch.float32)
        return torch.tensor(read, device=device), torch.tensor(token, device=device), torch.tensor(weights, dtype=precision, device=device)

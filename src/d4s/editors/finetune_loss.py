"""The loss of fine-tuning as a function of the tuned weights: what lies before the first of them runs once.

Forcing puts noise on the subjects of all texts; erasing minimises the mean probability of the whole target of each text.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from d4s.editors.prompts import pad_ids
from d4s.editors.training_texts import TrainingText
from d4s.models.language_model import LanguageModel
from d4s.models.restart import Restart, restart
from d4s.models.subject_noise import added_to_embeddings, spread_noise
from d4s.models.trace import trace

Weights = Mapping[int, Float[Tensor, "d_out d_in"]]


@dataclass(frozen=True, slots=True)
class Losses:
    """The loss that is minimised, and its parts: of targets alone, and of sentences alone (None where none are learned)."""

    total: Float[Tensor, ""]
    target: Float[Tensor, ""]
    sentence: Float[Tensor, ""] | None


@dataclass(frozen=True, slots=True)
class NoisedSubject:
    """The tokens of a subject in a prompt, and the noise of every copy of the prompt."""

    tokens: range
    noise: Float[Tensor, "copies s d"]


@dataclass(frozen=True, slots=True)
class FineTuneLoss:
    """A batch of requests, each with its texts, laid out for the loss as a function of the weights of some layers.

    `keys` enter the first weight at every token, `output` is what its module gave there, `before` the weight alone. `read` says where
    each supervised token is predicted, counted through the rows, and `row` the row it is in. Each row of `weighting` is one mean over
    the batch: the loss, the targets' part and, where sentences are learned, theirs.
    """

    later_blocks: Restart
    layers: tuple[int, ...]
    keys: Float[Tensor, "n s d_in"]
    output: Float[Tensor, "n s d_out"]
    before: Float[Tensor, "n s d_out"]
    read: Int[Tensor, " t"]
    token: Int[Tensor, " t"]
    row: Int[Tensor, " t"]
    weighting: Float[Tensor, "parts t"]
    erases: bool = False

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        requests: Sequence[Sequence[TrainingText]],
        layers: tuple[int, ...],
        *,
        noised: Sequence[NoisedSubject] = (),
        erases: bool = False,
    ) -> "FineTuneLoss":
        """The texts of requests, run through the model as it is; `layers` ascend. Where subjects are noised, texts are their copies."""
        texts, first = [text for some in requests for text in some], layers[0]
        ids = pad_ids([text.ids for text in texts], model.device)
        lengths = torch.full((len(texts),), ids.shape[1], device=model.device)
        with _noise(model, noised, ids.shape[1]), trace({first: model.mlp_out(first)}) as found:
            later_blocks, _ = restart(model, ids, torch.zeros_like(lengths), lengths, first)
        keys, output = found.inputs[first], found.outputs[first]
        width = ids.shape[1]
        places = [
            (number * width + place, token, number) for number, text in enumerate(texts) for place, token in (*text.target, *text.sentence)
        ]
        read, token, row = torch.tensor(places, device=keys.device).unbind(1)
        weighting = torch.tensor(_weighting(requests), dtype=torch.promote_types(model.dtype, torch.float32), device=keys.device)
        with torch.no_grad():
            before = keys @ model.weight(first).mT
        return cls(later_blocks, layers, keys, output, before, read, token, row, weighting, erases)

    def losses(self, weights: Weights) -> Losses:
        """Mean over requests of the mean negative log-likelihood of their supervised tokens, and of its parts; or what erasing lowers."""
        likely = self._log_probs(weights)
        if self.erases:
            return Losses(self._joint(likely), self._joint(likely), None)
        total, target, *sentence = (-(likely * row).sum() for row in self.weighting)
        return Losses(total, target, sentence[0] if sentence else None)

    @torch.no_grad()
    def probability(self, weights: Weights) -> float:
        """Mean over texts of the probability of all their supervised tokens."""
        return float(self._joint(self._log_probs(weights)))

    def _joint(self, likely: Float[Tensor, " t"]) -> Float[Tensor, ""]:
        return likely.new_zeros(len(self.keys)).index_add(0, self.row, likely).exp().mean()

    def _log_probs(self, weights: Weights) -> Float[Tensor, " t"]:
        """Log-probabilities of all supervised tokens."""
        model, (first, *later) = self.later_blocks.model, self.layers
        change = model.block_output_change(first, self.output, self.keys @ weights[first].mT - self.before)
        with _changed(model, {layer: weights[layer] for layer in later}):
            hidden = self.later_blocks.run_hidden(self.later_blocks.hidden + change, self.read)
        log_probs = model.unembed(model.final_norm(hidden)).to(self.weighting).log_softmax(-1)
        return log_probs.gather(1, self.token[:, None])[:, 0]


def _noise(model: LanguageModel, noised: Sequence[NoisedSubject], width: int) -> AbstractContextManager[None]:
    """Passes over copies of all prompts, padded to a width, with the noise of their subjects, if there is any."""
    if not noised:
        return nullcontext()
    return added_to_embeddings(model, spread_noise([one.noise for one in noised], [one.tokens for one in noised], width))


def _weighting(requests: Sequence[Sequence[TrainingText]]) -> list[list[float]]:
    """The weight of every supervised token, in the order of texts: requests alike, and alike the tokens of a request."""
    is_target = [[kind for text in texts for kind in [True] * len(text.target) + [False] * len(text.sentence)] for texts in requests]
    parts = [(True, False), (True,), *([(False,)] if any(False in kinds for kinds in is_target) else [])]
    return [
        [1.0 / sum(map(kinds.count, part)) / len(requests) if kind in part else 0.0 for kinds in is_target for kind in kinds]
        for part in parts
    ]


@contextmanager
def _changed(model: LanguageModel, weights: Weights) -> Iterator[None]:
    """Other weights in some layers while the block runs, through which gradients reach them."""
    with ExitStack() as stack:
        for layer, weight in weights.items():
            hook = partial(_add_change, weight - model.weight(layer))
            stack.callback(model.mlp_out(layer).register_forward_hook(hook).remove)
        yield


def _add_change(change: Float[Tensor, "d_out d_in"], _module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output + args[0] @ change.mT

"""What is done to the whole change of weights whenever the edited model is asked for.

PRUNE compresses its large singular values, 1-LI goes only part of the way; a rescaled and a scrambled change are controls,
which tell the norm of a change from its direction.

Terms and symbols: docs/notation.md.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from d4s.editors.part_settings import Interpolate, Prune, Rescale, Scramble
from d4s.editors.prompts import PromptSet, pad_ids
from d4s.editors.weights import apply_deltas
from d4s.models.language_model import LanguageModel
from d4s.models.views import LiveModel

Weight = Float64[Tensor, "d_out d_in"]


def transform_delta(delta: Weight, original: Float[Tensor, "d_out d_in"], settings: Prune | Rescale | Scramble, layer: int) -> Weight:
    """A layer's change after what is done to it; a scrambled one has an order of its own per layer."""
    if isinstance(settings, Rescale):
        return settings.factor * delta
    if isinstance(settings, Scramble):
        generator = torch.Generator().manual_seed(zlib.crc32(f"{settings.seed}.{layer}".encode()))
        order = torch.randperm(delta.numel(), generator=generator)
        return delta.flatten()[order.to(delta.device)].view_as(delta)
    return prune_delta(delta, original, settings.base)


def prune_delta(delta: Weight, original: Float[Tensor, "d_out d_in"], base: float) -> Weight:
    """PRUNE: singular values s above the original's largest, m, become log(s) − log(m) + m, to the given base."""
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    largest = torch.linalg.matrix_norm(original.to(delta), 2)
    compressed = torch.log(values / largest) / math.log(base) + largest
    return (left * torch.where(values > largest, compressed, values)) @ right


@dataclass(slots=True)
class Validation:
    """Requests kept to choose a share by: prompt, target and KL prompt of each as token ids."""

    entries: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    seen: int = 0

    def offer(self, prompt_sets: Sequence[PromptSet], every: int) -> None:
        """Keep one in `every` edited requests, beginning with the first."""
        for one in prompt_sets:
            if self.seen % every == 0:
                unprefixed = one.prompts[0]
                self.entries.append((unprefixed.ids, unprefixed.target, one.kl_prompt.ids))
            self.seen += 1

    def tensors(self) -> dict[str, Tensor]:
        """The requests as tensors of a dense state."""
        flat = [token for entry in self.entries for part in entry for token in part]
        lengths = [[len(part) for part in entry] for entry in self.entries]
        return {
            "validation.ids": torch.tensor(flat, dtype=torch.int32),
            "validation.lengths": torch.tensor(lengths, dtype=torch.int32).view(-1, 3),
            "validation.seen": torch.tensor([self.seen], dtype=torch.int64),
        }

    @classmethod
    def of(cls, dense: Mapping[str, Tensor]) -> "Validation":
        """The requests in a dense state; none where there is none."""
        if "validation.ids" not in dense:
            return cls()
        lengths = dense["validation.lengths"]
        parts = iter(dense["validation.ids"].split(lengths.flatten().tolist()))
        entries = [tuple(tuple(next(parts).tolist()) for _ in range(3)) for _ in range(len(lengths))]
        return cls(entries, int(dense["validation.seen"]))  # type: ignore[arg-type]


def choose_fraction(model: LanguageModel, deltas: Mapping[int, Weight], validation: Validation, settings: Interpolate) -> float:
    """The share of the way from the original to the edited weights that serves the kept requests best (1-LI).

    Of the shares that leave enough KL prompts their most likely continuation, the one with the most requests
    answered, the smallest among equals; 0 is always among them. 1 where no request was kept.
    """
    if not validation.entries:
        return 1.0
    before = _continuations(model, validation)
    best, most = 0.0, -1.0
    for point in range(settings.points):
        fraction = point / (settings.points - 1)
        with apply_deltas(model, {layer: fraction * delta for layer, delta in deltas.items()}) as view:
            answered = float(
                view.score_ids([(list(prompt), list(target)) for prompt, target, _ in validation.entries]).exact().double().mean()
            )
            stays = float((_continuations(model, validation) == before).double().mean())
        if stays >= settings.floor and answered > most:
            best, most = fraction, answered
    return best


@torch.no_grad()
def _continuations(model: LanguageModel, validation: Validation) -> Tensor:
    """The most likely token after each KL prompt."""
    texts = [kl_prompt for _, _, kl_prompt in validation.entries]
    hidden = model.network.base_model(input_ids=pad_ids(texts, model.device), use_cache=False).last_hidden_state
    last = torch.tensor([len(text) - 1 for text in texts], device=hidden.device)
    return model.unembed(hidden[torch.arange(len(texts), device=hidden.device), last]).argmax(-1)


def view_of(
    model: LanguageModel, deltas: Mapping[int, Weight], settings: Prune | Interpolate | Rescale | Scramble | None, validation: Validation
) -> AbstractContextManager[LiveModel]:
    """The model with a finished change of weights, as a context."""
    if isinstance(settings, Interpolate):
        fraction = choose_fraction(model, deltas, validation, settings)
        deltas = {layer: fraction * delta for layer, delta in deltas.items()}
    elif settings is not None:
        deltas = {layer: transform_delta(delta, model.weight(layer), settings, layer) for layer, delta in deltas.items()}
    return apply_deltas(model, deltas)

"""Terms that methods add to the loss of a target: hidden states alike behind all prefixes (CORE), shifts at the angles of keys (EAMET).

Terms and symbols: docs/notation.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from d4s.editors.parts.target_rule import AlignSettings, ConsistencySettings
from d4s.models.language_model import LanguageModel


def compared_blocks(model: LanguageModel, layer: int, settings: ConsistencySettings | None) -> range:
    """Blocks above a target's whose outputs are to be alike behind all prefixes; none where nothing asks.

    Raises:
        ValueError: if the target's block is the last one.
    """
    if settings is None or settings.weight == 0:
        return range(0)
    if layer + 1 == model.n_layers:
        raise ValueError(f"target.consistency compares blocks above the target's, and block {layer} is the last one; edit lower layers")
    return range(layer + 1, min(layer + 1 + settings.blocks, model.n_layers))


def inconsistency(hidden: Sequence[Float[Tensor, "b prompts d"]]) -> Float[Tensor, " b"]:
    """Mean over blocks of Σ ‖h_i − h_j‖² / d over pairs of prompts i < j, per request (Park et al. 2025, as released).

    It is computed as N Σ ‖h_i − mean‖² of N prompts, and so grows with the square of their number.
    """
    spread = [(one - one.mean(1, keepdim=True)).square().sum((1, 2)) * one.shape[1] / one.shape[2] for one in hidden]
    return torch.stack(spread).mean(0)


def directions(vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Vectors of length 1, of a vector of zero zero: there its gradient is zero too, and not the inverse of a tiny length."""
    norm = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return torch.where(norm > 0, vectors / torch.where(norm > 0, norm, 1.0), 0.0)


@dataclass(frozen=True, slots=True)
class Alignment:
    """What one request's shift is aligned with: the shifts of earlier requests of its batch, at the cosines that keys have."""

    settings: AlignSettings
    earlier: Float[Tensor, "i d"]
    key_cosines: Float[Tensor, " i"]
    key_norm: Float[Tensor, ""]

    @classmethod
    def of(cls, settings: AlignSettings, keys: Float[Tensor, "b d_in"], shifts: Sequence[Float[Tensor, "1 d"]]) -> "Alignment":
        """The alignment of the next request of a batch, of which the earlier ones have their shifts."""
        number = len(shifts)
        unit = directions(keys)
        earlier = torch.cat([*shifts]) if number else keys.new_zeros(0, 1)
        return cls(settings, earlier, unit[:number] @ unit[number], keys[number].norm())

    def loss(self, shift: Float[Tensor, "1 d"]) -> Float[Tensor, " 1"]:
        """What a shift misses of the angles that keys have; zero for the first request of a batch.

        It is kl · KL(softmax(c/τ) ‖ softmax(c′/τ)) + mse · Σ w (c − c′)², with cosines c of keys and c′ of shifts (Dai et al. 2026). The
        sum is over the nearest keys, w the softmax of c/τ over them.
        """
        if not len(self.earlier):
            return shift.new_zeros(1)
        cosines = directions(self.earlier) @ directions(shift)[0]
        wanted, found = ((one / self.settings.tau).log_softmax(0) for one in (self.key_cosines, cosines))
        divergence = (wanted.exp() * (wanted - found)).sum()
        near = self._nearest()
        weight = (self.key_cosines[near] / self.settings.tau).softmax(0)
        squares = (weight * (self.key_cosines[near] - cosines[near]).square()).sum()
        return (self.settings.kl * divergence + self.settings.mse * squares)[None]

    def start(self, hidden: Float[Tensor, "1 1 d"]) -> Float[Tensor, "1 1 d"]:
        """Where the shift begins: along the hidden state, as long as the key, or at zero."""
        norm = hidden.norm()
        if self.settings.start == "zero" or norm >= self.settings.start_below:
            return torch.zeros_like(hidden)
        return hidden / norm * self.key_norm.to(hidden)

    def limit_norm(self, hidden_norm: Float[Tensor, "1 1"]) -> Float[Tensor, "1 1"]:
        """What the clamp of the shift is relative to."""
        return hidden_norm if self.settings.clamp_to == "hidden" else self.key_norm.to(hidden_norm).expand_as(hidden_norm)

    def _nearest(self) -> Int[Tensor, " k"]:
        return self.key_cosines.topk(min(self.settings.top, len(self.key_cosines))).indices

"""Running mean and spread of keys and gradients, over all turns so far, and what is normalised by them.

Of z = [x; g] of all tokens so far, whichever layer of one shape they are of, with n of them:

    ẑ = (z − mean) / std,    std² = Σ (z − mean)² / (n − 1)

so that neither the scale of the loss nor a vector added to all gradients has an effect. With `products` gradients are whitened
by their whole covariance once n > d_out + 1 (StableEdit), eigenvalues below FLOOR times the largest taken as that:

    ĝ = (g − mean) S^(−1/2),    S = Σ (g − mean)(g − mean)ᵀ / (n − d_out − 1)

Entries that are the same for all tokens are 0. Sums are updated exactly (Chan et al. 1979), in float64.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from d4s.editors.answer_gradients import AnswerGradients, read_answer_gradients
from d4s.editors.edit_requests import EditRequest
from d4s.editors.parts.input_settings import WarmUpSettings
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import Pair, encode_pairs

CONSTANT = 1e-12  # spread of an entry, relative to its mean, below which it is rounding
FLOOR = 1e-6
REQUESTS_PER_TURN = 100  # of a warm-up
Shape = tuple[int, int]  # (d_out, d_in)


@dataclass(slots=True)
class RunningStatistics:
    """Number of tokens, mean of [x; g], and sums of squared deviations: of each entry, and where there are any of gradients' pairs."""

    count: int
    mean: Float64[Tensor, " d"]
    squares: Float64[Tensor, " d"]
    products: Float64[Tensor, "d_out d_out"] | None

    @classmethod
    def empty(cls, shape: Shape, device: torch.device, *, whiten: bool) -> "RunningStatistics":
        """Of no tokens, for matrices of a shape."""
        zeros = torch.zeros(sum(shape), dtype=torch.float64, device=device)
        return cls(0, zeros, zeros.clone(), zeros.new_zeros(shape[0], shape[0]) if whiten else None)

    def add(self, keys: Float64[Tensor, "t d_in"], gradients: Float64[Tensor, "t d_out"]) -> None:
        """Take in more tokens."""
        rows = torch.cat([keys, gradients], 1)
        mean, count = rows.mean(0), self.count + len(rows)
        deviations, apart = rows - mean, mean - self.mean
        shared = self.count * len(rows) / count
        self.squares = self.squares + deviations.square().sum(0) + shared * apart.square()
        if self.products is not None:
            of_gradients, moved = deviations[:, keys.shape[1] :], apart[keys.shape[1] :]
            self.products = self.products + of_gradients.mT @ of_gradients + shared * moved.outer(moved)
        self.mean, self.count = self.mean + len(rows) / count * apart, count

    def normalise(
        self, keys: Float64[Tensor, "t d_in"], gradients: Float64[Tensor, "t d_out"]
    ) -> tuple[Float64[Tensor, "t d_in"], Float64[Tensor, "t d_out"]]:
        """Keys and gradients by the tokens so far, which these are among; all 0 where they are only one."""
        std = (self.squares / max(1, self.count - 1)).sqrt()
        inverse = torch.where(std > CONSTANT * self.mean.abs(), 1 / std, 0.0)
        d_in = keys.shape[1]
        centred = gradients - self.mean[d_in:]
        return (keys - self.mean[:d_in]) * inverse[:d_in], self._whiten(centred) if self.is_whitening else centred * inverse[d_in:]

    @property
    def is_whitening(self) -> bool:
        """Whether there are products, and more tokens than a covariance of gradients needs."""
        return self.products is not None and self.count > len(self.products) + 1

    def _whiten(self, centred: Float64[Tensor, "t d_out"]) -> Float64[Tensor, "t d_out"]:
        if self.products is None:
            return centred
        values, vectors = torch.linalg.eigh(self.products / (self.count - len(self.products) - 1))
        floor = FLOOR * values[-1]
        inverse = torch.where(values[-1] > 0, values.clamp(min=floor).rsqrt(), 0.0)
        return (centred @ vectors * inverse) @ vectors.mT


def shapes_of(model: LanguageModel, layers: Sequence[int]) -> dict[int, Shape]:
    """The shape of each layer's matrix."""
    return {layer: (model.d_out(layer), model.d_in(layer)) for layer in layers}


class LifelongStatistics:
    """Running statistics of the edited layers, shared by those whose matrices have one shape."""

    def __init__(self, model: LanguageModel, layers: Sequence[int], *, whiten: bool, saved: Mapping[str, Tensor]) -> None:
        self._shapes = shapes_of(model, layers)
        devices = {shape: model.state_device(layer) for layer, shape in self._shapes.items()}
        self._of = {shape: RunningStatistics.empty(shape, device, whiten=whiten) for shape, device in devices.items()}
        for shape, running in self._of.items() if saved else ():
            name, device = _name(shape), running.mean.device
            running.count = int(saved[f"{name}.count"])
            running.mean, running.squares = (saved[f"{name}.{part}"].to(device, copy=True) for part in ("mean", "squares"))
            running.products = saved[f"{name}.products"].to(device, copy=True) if whiten else None

    def __getitem__(self, layer: int) -> RunningStatistics:
        """Those of a layer."""
        return self._of[self._shapes[layer]]

    def add(self, keys: Mapping[int, Tensor], gradients: Mapping[int, Tensor]) -> None:
        """Take in the tokens of a turn, at all layers."""
        for shape, running in self._of.items():
            layers, device = [layer for layer, found in self._shapes.items() if found == shape], running.mean.device
            running.add(*(torch.cat([part[layer].to(device).double() for layer in layers]) for part in (keys, gradients)))

    def tensors(self) -> dict[str, Tensor]:
        """All of them by name, on the CPU, as files hold them."""
        found: dict[str, Tensor] = {}
        for shape, running in self._of.items():
            parts = {"count": torch.tensor(running.count), "mean": running.mean, "squares": running.squares}
            parts |= {} if running.products is None else {"products": running.products}
            found |= {f"{_name(shape)}.{part}": tensor.cpu() for part, tensor in parts.items()}
        return found


def _name(shape: Shape) -> str:
    return f"statistics.{shape[0]}x{shape[1]}"


def warm_up(settings: WarmUpSettings, model: LanguageModel, requests: Sequence[EditRequest]) -> dict[str, Tensor]:
    """Statistics by name of the first requests, at most as many as settings say, at the model's own weights, which stay as they are."""
    chosen = requests[: settings.requests]
    pairs = encode_pairs(model, [request.prompt for request in chosen], [request.target for request in chosen])
    return take_statistics(model, pairs, settings.layers, whiten=settings.whiten)


def take_statistics(
    model: LanguageModel, pairs: Sequence[Pair], layers: Sequence[int], *, whiten: bool = False, everywhere: bool = False
) -> dict[str, Tensor]:
    """Statistics by name of requests given as token ids, at their targets' tokens or `everywhere`, at the model's own weights."""
    statistics = LifelongStatistics(model, layers, whiten=whiten, saved={})
    for first in range(0, len(pairs), REQUESTS_PER_TURN):
        found: AnswerGradients = read_answer_gradients(model, pairs[first : first + REQUESTS_PER_TURN], layers, everywhere=everywhere)
        statistics.add(found.keys, found.gradients)
    return statistics.tensors()

"""A network that rewrites keys and gradients before they change weights (MEND, MALMEN, RLEdit): low-rank residual blocks.

Of z = [x̂; ĝ] at a token, normalised by statistics of the facts that the network is trained on, each of some blocks makes

    z + s ∘ (z A B + b)₊ + t   (`scaled: after`, MALMEN)   or   z + (s ∘ (z A B + b) + t)₊   (`scaled: before`, MEND)

with A, B and b shared by layers whose matrices have one shape, s and t of a layer's own; A is drawn, b and t are 0, s is 1, and B
is 0 as training begins, so that the network is the identity then. Cutting off below 0 has the derivative 1 at 0 itself: with ReLU's,
which is 0 there, nothing would ever be learnt. Each layer has a step size η of its own too, and of regressions a ridge e^λ.

From z̃ = [x̃; g̃] a layer changes by −η Σ g̃ x̃ᵀ (MEND) or by the regression of x on −η (x·x̃) g̃ (MALMEN, RLEdit; with x̃·x̃ in
the coefficient the identity is UltraEdit).

Terms and symbols: docs/notation.md.
"""

from collections.abc import Mapping, Sequence
from math import log

import torch
from jaxtyping import Float64
from torch import Tensor

from d4s.editors.gradient_changes import Weight, regress, shifts, sum_of_products
from d4s.editors.lifelong_statistics import LifelongStatistics, Shape, shapes_of
from d4s.editors.parts.hypernetwork_settings import HypernetworkSettings
from d4s.editors.protocol import StepRecord
from d4s.models.language_model import LanguageModel

PREFIX = "network."
RATES, RIDGES = f"{PREFIX}rates", f"{PREFIX}log_ridges"


class Hypernetwork:
    """Networks by shape of matrix with what each layer has of its own, on the devices that layers keep their state on.

    `tensors` are the statistics of training, and what is trained (`begin` makes it as it is before).
    """

    def __init__(self, settings: HypernetworkSettings, model: LanguageModel, tensors: Mapping[str, Tensor]) -> None:
        self._settings = settings
        self._shapes = shapes_of(model, settings.layers)
        self._devices = {layer: model.state_device(layer) for layer in settings.layers}
        self._statistics = LifelongStatistics(model, settings.layers, whiten=False, saved=tensors)
        devices = {_name(shape): self.device(layer) for layer, shape in self._shapes.items()}
        self.trained = {
            name: tensor.to(devices.get(name.rsplit(".", 2)[0], self.device(settings.layers[0])), copy=True)
            for name, tensor in tensors.items()
            if name.startswith(PREFIX)
        }

    def device(self, layer: int) -> torch.device:
        """Where a layer keeps its state."""
        return self._devices[layer]

    def factors(
        self, layer: int, keys: Float64[Tensor, "t d_in"], gradients: Float64[Tensor, "t d_out"]
    ) -> tuple[Float64[Tensor, "t d_in"], Float64[Tensor, "t d_out"]]:
        """The rows of X and V that a layer's change is made of."""
        hats = torch.cat(self._statistics[layer].normalise(keys, gradients), 1)
        keys_tilde, gradients_tilde = self._rewrite(layer, hats).split([keys.shape[1], gradients.shape[1]], 1)
        rate = self.trained[RATES][self._settings.layers.index(layer)].to(keys.device)
        if self._settings.change == "outer_product":
            return keys_tilde, -rate * gradients_tilde
        return keys, shifts(keys, keys_tilde, gradients_tilde, rate, self._settings.coefficient)

    def change(self, layer: int, keys: Float64[Tensor, "t d_in"], values: Float64[Tensor, "t d_out"]) -> Weight:
        """A layer's change from rows of X and V."""
        if self._settings.change == "outer_product":
            return sum_of_products(keys, values)
        return regress(keys, values, self.trained[RIDGES][self._settings.layers.index(layer)].exp().to(keys.device))

    def _rewrite(self, layer: int, rows: Float64[Tensor, "t d"]) -> Float64[Tensor, "t d"]:
        """All blocks in turn; sums in float64, so that the identity changes no bit."""
        name, place = _name(self._shapes[layer]), self._peers(layer).index(layer)
        for block in range(self._settings.network.blocks):
            left, right, bias, scale, shift = (self.trained[f"{name}.{block}.{part}"] for part in ("a", "b", "bias", "scale", "shift"))
            low = rows.to(left) @ left @ right + bias
            if self._settings.network.scaled == "before":
                added = (low * scale[place] + shift[place]).clamp(min=0)
            else:
                added = low.clamp(min=0) * scale[place] + shift[place]
            rows = rows + added.to(rows)
        return rows

    def _peers(self, layer: int) -> list[int]:
        """Layers whose matrices have the shape of a layer's."""
        return [other for other, shape in self._shapes.items() if shape == self._shapes[layer]]


class TrainedRule:
    """What a trained network makes of a turn: a record holds X and V of each layer, and counts for no later turn."""

    def __init__(self, settings: HypernetworkSettings, model: LanguageModel, prepared: Mapping[str, Tensor]) -> None:
        self._network = Hypernetwork(settings, model, prepared)
        self.layers, self.everywhere = settings.layers, settings.reads_prompts

    def record(self, keys: Mapping[int, Tensor], gradients: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """X and V by layer, in the precision of the keys, on the CPU."""
        found: dict[str, Tensor] = {}
        for layer in self.layers:
            device = self._network.device(layer)
            rows = self._network.factors(layer, *(part[layer].to(device).double() for part in (keys, gradients)))
            found |= {f"{layer}.{name}": tensor.to(keys[layer].dtype).cpu() for name, tensor in zip(("x", "v"), rows, strict=True)}
        return found

    def change(self, record: StepRecord, layer: int) -> Weight:
        """A record's change of a layer."""
        device = self._network.device(layer)
        return self._network.change(layer, *(record[f"{layer}.{name}"].to(device).double() for name in ("x", "v")))


def begin(settings: HypernetworkSettings, shapes: Sequence[Shape]) -> dict[str, Tensor]:
    """What is trained, by name, as it is before: the identity, with the step size and the ridge of the settings; `shapes` by layer."""
    network, generator = settings.network, torch.Generator().manual_seed(settings.network.seed)
    found: dict[str, Tensor] = {}
    for shape in dict.fromkeys(shapes):
        width, count = sum(shape), [*shapes].count(shape)
        for block in range(network.blocks):
            found |= {
                f"{_name(shape)}.{block}.a": torch.randn(width, network.rank, generator=generator),
                f"{_name(shape)}.{block}.b": torch.zeros(network.rank, width),
                f"{_name(shape)}.{block}.bias": torch.zeros(width),
                f"{_name(shape)}.{block}.scale": torch.ones(count, width),
                f"{_name(shape)}.{block}.shift": torch.zeros(count, width),
            }
    found[RATES] = torch.full((len(shapes),), settings.lr, dtype=torch.float64)
    if settings.change == "regression":
        found[RIDGES] = torch.full((len(shapes),), log(settings.ridge), dtype=torch.float64)
    return found


def _name(shape: Shape) -> str:
    return f"{PREFIX}{shape[0]}x{shape[1]}"

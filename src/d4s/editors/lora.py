"""LoRA on each request: low-rank factors beside MLP output matrices (Hu et al. 2022), tuned on the target and added to the weights.

At every tuned layer

    W = W₀ + (α / r) · B A,    A (r, d_in) uniform between ±1/√d_in, B (d_out, r) zero at first.

AdamW minimises the mean over requests of the mean negative log-probability of the target's tokens, each at its own place, with the
gradient of all factors together clipped. Every step of a sequence begins with factors of its own at the weights so far. A state holds
those of all steps side by side, so that their product is the whole change.

Terms and symbols: docs/notation.md.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from d4s.editors.edit_requests import EditRequest
from d4s.editors.fine_tune_settings import FineTune, LowRank
from d4s.editors.prompts import check_length, pad_ids
from d4s.editors.protocol import Diverged, State, StepLog, Targets
from d4s.editors.states import DenseState
from d4s.editors.weights import write_weight
from d4s.metrics.weight_norms import l1_per_element
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import Pair, encode_pairs
from d4s.models.views import LiveModel

Factors = tuple[Float[Tensor, "r d_in"], Float[Tensor, "d_out r"]]
"""A and B of one layer."""


def lora_layers(settings: LowRank, model: LanguageModel) -> tuple[int, ...]:
    """The layers whose matrices have factors."""
    return tuple(range(model.n_layers)) if settings.layers == "all" else settings.layers


def low_rank_deltas(settings: LowRank, dense: Mapping[str, Tensor]) -> dict[int, Float64[Tensor, "d_out d_in"]]:
    """The change of each layer's weight from the tensors of a state."""
    layers = sorted({int(name.split(".")[0]) for name in dense})
    return {layer: _product(settings, (dense[f"{layer}.A"], dense[f"{layer}.B"])) for layer in layers}


def _product(settings: LowRank, factors: Factors) -> Float64[Tensor, "d_out d_in"]:
    down, up = factors
    return settings.alpha / settings.rank * (up.double() @ down.double())


class LoraSession:
    """LoRA in progress. Weights are the original ones plus the product of all factors, added in float64 and rounded once."""

    def __init__(self, settings: FineTune, factors: LowRank, model: LanguageModel, state: State) -> None:
        self._settings, self._lora, self._model = settings, factors, model
        self._originals = {layer: model.weight(layer).clone() for layer in lora_layers(factors, model)}
        self._precision = torch.promote_types(model.dtype, torch.float32)
        self._factors = {layer: self._saved(layer, weight, state.dense) for layer, weight in self._originals.items()}
        self._write()

    def _saved(self, layer: int, weight: Float[Tensor, "d_out d_in"], dense: Mapping[str, Tensor]) -> Factors:
        empty = {"A": weight.new_zeros(0, weight.shape[1]), "B": weight.new_zeros(weight.shape[0], 0)}
        down, up = (dense.get(f"{layer}.{name}", found).to(weight.device, self._precision) for name, found in empty.items())
        return down, up

    def _write(self) -> dict[int, Float64[Tensor, "d_out d_in"]]:
        """Write the weights; returns their changes."""
        changes = {layer: _product(self._lora, factors) for layer, factors in self._factors.items()}
        for layer, change in changes.items():
            write_weight(self._model, layer, self._originals[layer], change)
        return changes

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Tune new factors on a batch of requests.

        Raises:
            PromptTooLong: if a prompt with its target exceeds the model's context.
            Diverged: if the loss stops being finite.
        """
        pairs = encode_pairs(self._model, [request.prompt for request in batch], [request.target for request in batch])
        for request, (prompt, target) in zip(batch, pairs, strict=True):
            check_length(self._model, request, len(prompt) + len(target) - 1)
        new = self._start(batch)
        losses = self._tune(new, pairs)
        if not all(math.isfinite(value) for value in losses):
            raise Diverged(f"the loss of fine-tuning is not finite: {losses[-1]}")
        for layer, (down, up) in new.items():
            before = self._factors[layer]
            self._factors[layer] = torch.cat([before[0], down.detach()]), torch.cat([before[1], up.detach()], 1)
        return StepLog(tuple(self._numbers(losses, self._write())))

    def state(self) -> State:
        """The factors of all steps."""
        named = {f"{layer}.{name}": one for layer, pair in self._factors.items() for name, one in zip("AB", pair, strict=True)}
        return DenseState({name: tensor.cpu().clone() for name, tensor in named.items()})

    def live(self) -> LiveModel:
        """The model as edited so far."""
        return LiveModel(self._model, dict(self._originals))

    # --- one step -----------------------------------------------------------------------------------------------------

    def _start(self, batch: Sequence[EditRequest]) -> dict[int, Factors]:
        """Factors whose product is zero; the facts of the requests alone determine them."""
        digest = hashlib.sha256("\n".join(request.fact_id for request in batch).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        found: dict[int, Factors] = {}
        for layer, weight in self._originals.items():
            rank, (d_out, d_in) = self._lora.rank, weight.shape
            down = (2 * torch.rand(rank, d_in, generator=generator, dtype=self._precision) - 1) / math.sqrt(d_in)
            up = torch.zeros(d_out, rank, dtype=self._precision, device=weight.device)
            found[layer] = down.to(weight.device).requires_grad_(), up.requires_grad_()
        return found

    def _tune(self, new: Mapping[int, Factors], pairs: Sequence[Pair]) -> list[float]:
        """Tune factors in place; returns the loss before each step and after the last one."""
        parameters = [tensor for pair in new.values() for tensor in pair]
        adam = torch.optim.AdamW(parameters, lr=self._settings.lr, weight_decay=self._lora.weight_decay)
        losses: list[float] = []
        with _adapting(self._model, new, self._lora.alpha / self._lora.rank):
            for left in reversed(range(self._settings.steps + 1)):
                loss = target_loss(self._model, pairs)
                losses.append(float(loss.detach()))
                if not left or losses[-1] < self._settings.stop_loss:
                    break
                for tensor, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    tensor.grad = gradient
                nn.utils.clip_grad_norm_(parameters, self._lora.clip)
                adam.step()
        return losses

    def _numbers(
        self, losses: Sequence[float], changes: Mapping[int, Float64[Tensor, "d_out d_in"]]
    ) -> Iterator[tuple[str, int | None, float]]:
        yield "target_probability_before", None, math.exp(-losses[0])
        yield "target_probability_after", None, math.exp(-losses[-1])
        yield "target_steps", None, float(len(losses) - 1)
        for layer, change in changes.items():
            yield "delta_norm", layer, float(change.norm())
            yield "l1", layer, l1_per_element(self._model.weight(layer))


@contextmanager
def _adapting(model: LanguageModel, factors: Mapping[int, Factors], scale: float) -> Iterator[None]:
    """Add the product of factors with what enters the matrices to what leaves them."""

    def hook_of(down: Float[Tensor, "r d_in"], up: Float[Tensor, "d_out r"]) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + (scale * (args[0].to(down) @ down.mT @ up.mT)).to(output)

        return hook

    with ExitStack() as stack:
        for layer, pair in factors.items():
            stack.callback(model.mlp_out(layer).register_forward_hook(hook_of(*pair)).remove)
        yield


def target_loss(model: LanguageModel, pairs: Sequence[Pair]) -> Float[Tensor, ""]:
    """Mean over prompts with their targets of the mean negative log-probability of the target's tokens, teacher-forced."""
    ids = pad_ids([[*prompt, *target[:-1]] for prompt, target in pairs], model.device)
    places = [(row, len(prompt) - 1 + at, token) for row, (prompt, target) in enumerate(pairs) for at, token in enumerate(target)]
    row, place, token = torch.tensor(places, device=model.device).unbind(1)
    hidden = model.network.base_model(input_ids=ids, use_cache=False).last_hidden_state
    log_probs = model.unembed(hidden[row.to(hidden.device), place.to(hidden.device)])
    log_probs = log_probs.to(torch.promote_types(model.dtype, torch.float32)).log_softmax(-1)
    return _mean_by_row(-log_probs.gather(1, token.to(log_probs.device)[:, None])[:, 0], row)


def _mean_by_row(nll: Float[Tensor, " t"], row: Int[Tensor, " t"]) -> Float[Tensor, ""]:
    """The mean over rows of the mean over their tokens."""
    counts = row.bincount().to(nll)
    return (nll / counts[row.to(nll.device)]).sum() / len(counts)

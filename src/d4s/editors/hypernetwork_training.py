"""How the networks of MEND, MALMEN and RLEdit are trained, before any edit, on facts that nothing is measured of.

A sequence of turns is edited as it will be later. After a turn t the loss is, over the last turns i = t, t − 1, … (`back` of them),

    Σ discountᵗ⁻ⁱ (edit_weight · NLL of the requests in other wordings + locality_weight · KL(unedited ‖ edited) at unrelated facts)
    + norm_weight · ‖Δ‖²

each a mean over requests of means over tokens. With one turn that is MEND's and MALMEN's loss, with many RLEdit's, where the model is
not reset in between. Its gradient G with respect to the edited weights is that with respect to the turn's own change; from there
on autograd goes back through Δ alone, so no pass of the model is kept for it. What turns left in the weights before is a constant.

Ours: statistics are those of all facts to learn from, taken at the original weights and kept (releases update them while they train);
unrelated facts are of the pool as well (releases: Natural Questions); the network with the lowest loss on held-out subjects is kept.
A step's draws depend on the seed and the step alone, and checkpoints hold all that is trained, so an interrupted training ends with the
same bits.

Terms and symbols: docs/notation.md.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.editors.answer_gradients import read_answer_gradients, target_log_probs
from d4s.editors.fact_pool import FactsToLearn
from d4s.editors.gradient_settings import GRADIENT_REQUESTS
from d4s.editors.hypernetwork import RATES, Hypernetwork, begin
from d4s.editors.hypernetwork_episodes import Episodes, Turn
from d4s.editors.lifelong_statistics import shapes_of, take_statistics
from d4s.editors.parts.hypernetwork_settings import HypernetworkSettings
from d4s.editors.training_checkpoints import Checkpoint
from d4s.editors.weights import write_weight
from d4s.errors import D4SError
from d4s.facts.record import Fact
from d4s.log import progress
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import Pair

log = logging.getLogger(__name__)
BEST, BEST_LOSS, WAITED = "best.", "best_loss", "waited"


class PreparedNetwork(NamedTuple):
    """Prepared tensors, and the loss on held-out facts before training and at its end, with the steps that led there."""

    tensors: dict[str, Tensor]
    notes: dict[str, float]


@dataclass(frozen=True, slots=True)
class Judged:
    """A text, its weight in the loss, and the unedited model's log-probabilities at the target's tokens where it must stay like that."""

    pair: Pair
    weight: float
    reference: Float[Tensor, "t vocab"] | None = None


def train_hypernetwork(
    model: LanguageModel,
    settings: HypernetworkSettings,
    pool: Sequence[Fact],
    measured: Sequence[Fact],
    checkpoint: Checkpoint | None = None,
) -> PreparedNetwork:
    """Train a network on facts of a pool that nothing measured names, for a change of the model's weights, which stay as they are.

    Raises:
        SettingsError: if too few facts are left.
        D4SError: if the loss stops being finite.
    """
    network = settings.network
    episodes = Episodes(model, network, FactsToLearn.of(pool, measured, network.facts, "a hypernetwork"))
    statistics = take_statistics(model, episodes.statistics(), settings.layers, everywhere=settings.reads_prompts)
    shapes = shapes_of(model, settings.layers)
    training = NetworkTraining(model, settings, statistics | begin(settings, [shapes[layer] for layer in settings.layers]))
    held_out = episodes.held_out()
    first = training.loss(held_out)
    best = _Best(first, 0, training.copy())
    done, kept = (0, {}) if checkpoint is None else checkpoint.restore(training.trained, training.adam)
    best = _Best.of(kept) if kept else best
    for step in progress(range(done, network.steps), "hypernetwork", network.steps, done=done):
        if best.waited == network.patience:
            break
        training.learn(episodes.of_step(step))
        if (step + 1) % network.check_every == 0 or step + 1 == network.steps:
            best = best.after(training.loss(held_out), training.copy())
            log.debug("hypernetwork, step %d: loss %.4f on held-out facts at best, %.4f untrained", step + 1, best.loss, first)
            if checkpoint is not None and step + 1 < network.steps:
                checkpoint.save(step + 1, training.trained, training.adam, best.tensors())
        done = step + 1
    tensors = statistics | {name: tensor.cpu() for name, tensor in best.trained.items()}
    return PreparedNetwork(tensors, {"untrained": first, "trained": best.loss, "steps": float(done)})


class _Best(NamedTuple):
    """The lowest loss on held-out facts, looks at it since, and the network that had it."""

    loss: float
    waited: int
    trained: Mapping[str, Tensor]

    def after(self, loss: float, trained: Mapping[str, Tensor]) -> "_Best":
        return _Best(loss, 0, trained) if loss < self.loss else self._replace(waited=self.waited + 1)

    def tensors(self) -> dict[str, Tensor]:
        """The same by name, as a checkpoint holds it."""
        numbers = {BEST_LOSS: torch.tensor(self.loss, dtype=torch.float64), WAITED: torch.tensor(self.waited)}
        return numbers | {f"{BEST}{name}": tensor for name, tensor in self.trained.items()}

    @classmethod
    def of(cls, kept: Mapping[str, Tensor]) -> "_Best":
        trained = {name.removeprefix(BEST): tensor for name, tensor in kept.items() if name.startswith(BEST)}
        return cls(float(kept[BEST_LOSS]), int(kept[WAITED]), trained)


class NetworkTraining:
    """A network with its optimiser, and the model that it learns to edit."""

    def __init__(self, model: LanguageModel, settings: HypernetworkSettings, tensors: Mapping[str, Tensor]) -> None:
        self._model, self._settings = model, settings
        self._network = Hypernetwork(settings, model, tensors)
        self.trained = {name: tensor.requires_grad_() for name, tensor in self._network.trained.items()}
        rates = [self.trained[RATES]]
        others = [tensor for name, tensor in self.trained.items() if name != RATES]
        groups = [{"params": others, "lr": settings.network.lr}, {"params": rates, "lr": settings.network.rate_lr}]
        self.adam = torch.optim.Adam(groups)

    def copy(self) -> dict[str, Tensor]:
        """What is trained, as it is now."""
        return {name: tensor.detach().clone() for name, tensor in self.trained.items()}

    def loss(self, episodes: Sequence[Sequence[Turn]]) -> float:
        """Mean loss of sequences."""
        return sum(self._run(turns, None) for turns in episodes) / len(episodes)

    def learn(self, episodes: Sequence[Sequence[Turn]]) -> None:
        """One step of Adam on the mean loss of sequences.

        Raises:
            D4SError: if it is not finite.
        """
        for tensor in self.trained.values():
            tensor.grad = torch.zeros_like(tensor)
        loss = sum(self._run(turns, 1.0 / len(episodes)) for turns in episodes) / len(episodes)
        if not abs(loss) < float("inf"):
            raise D4SError(f"training of the hypernetwork diverged: the loss is {loss}; lower `network.lr`, `network.rate_lr` or `lr`")
        torch.nn.utils.clip_grad_norm_(self.trained.values(), self._settings.network.clip)
        self.adam.step()

    def _run(self, turns: Sequence[Turn], share: float | None) -> float:
        """Mean loss over the turns of a sequence; with a share the gradients of their sum are added up, times that."""
        model, layers, network = self._model, self._settings.layers, self._settings.network
        originals = {layer: model.weight(layer).clone() for layer in layers}
        references = [_log_probs(model, turn.unrelated) for turn in turns]
        total, losses = {layer: torch.zeros_like(originals[layer], dtype=torch.float64) for layer in layers}, list[float]()
        with model.restoring(layers):
            for number, turn in enumerate(turns):
                changes = self._changes(turn, learns=share is not None)
                for layer, change in changes.items():
                    total[layer] = total[layer] + change.detach().to(total[layer].device)
                    write_weight(model, layer, originals[layer], total[layer])
                judged = [
                    one
                    for back in range(min(network.back, number + 1))
                    for one in self._judged(turns[number - back], references[number - back], network.discount**back)
                ]
                loss, gradients = outer_loss(model, judged, layers if share is not None else ())
                norm = network.norm_weight * sum(float(change.detach().square().sum()) for change in changes.values())
                losses.append(loss + norm)
                if share is not None:
                    self._back([*changes.values()], [*gradients.values()], share)
        return sum(losses) / len(losses)

    def _changes(self, turn: Turn, *, learns: bool) -> dict[int, Tensor]:
        """The change of each layer for a turn, at the weights as they are."""
        settings = self._settings
        found = read_answer_gradients(self._model, turn.requests, settings.layers, everywhere=settings.reads_prompts)
        changes: dict[int, Tensor] = {}
        with torch.set_grad_enabled(learns):
            for layer in settings.layers:
                device = self._network.device(layer)
                keys, gradients = (part[layer].to(device).double() for part in (found.keys, found.gradients))
                changes[layer] = self._network.change(layer, *self._network.factors(layer, keys, gradients))
        return changes

    def _judged(self, turn: Turn, references: Sequence[Tensor], weight: float) -> list[Judged]:
        """What a turn is judged by, with a weight."""
        network, count = self._settings.network, len(turn.requests)
        reworded = [Judged(pair, weight * network.edit_weight / count) for pair in turn.reworded]
        unrelated = zip(turn.unrelated, references, strict=True)
        return [*reworded, *(Judged(pair, weight * network.locality_weight / count, reference) for pair, reference in unrelated)]

    def _back(self, changes: Sequence[Tensor], gradients: Sequence[Tensor], share: float) -> None:
        """Add the gradient of what is trained, from that of the loss with respect to the weights."""
        weight = self._settings.network.norm_weight
        outer = [share * (gradient.to(change) + 2 * weight * change.detach()) for change, gradient in zip(changes, gradients, strict=True)]
        trained = [*self.trained.values()]
        for tensor, found in zip(trained, torch.autograd.grad(changes, trained, outer, allow_unused=True), strict=True):
            if found is not None and tensor.grad is not None:
                tensor.grad += found


def outer_loss(
    model: LanguageModel, judged: Sequence[Judged], layers: Sequence[int]
) -> tuple[float, dict[int, Float[Tensor, "d_out d_in"]]]:
    """The weighted sum over texts of their losses at the model's present weights, and its gradient with respect to those of layers.

    Of a text the mean over the target's tokens of their negative log-probability, or of the divergence from its reference.
    """
    total, gradients = 0.0, {layer: torch.zeros_like(model.weight(layer), dtype=torch.float64) for layer in layers}
    for first in range(0, len(judged), GRADIENT_REQUESTS):
        group = judged[first : first + GRADIENT_REQUESTS]
        parameters = [model.parameter(layer) for layer in layers]
        with _tracked(parameters):
            log_probs = _passed(model, [one.pair for one in group])
            loss = torch.stack([one.weight * _loss_of(one, found) for one, found in zip(group, log_probs, strict=True)]).sum()
            found = torch.autograd.grad(loss, parameters) if layers else ()
        total += loss.item()
        for layer, gradient in zip(layers, found, strict=True):
            gradients[layer] += gradient.mT if model.adapter.weight_layout == "in_out" else gradient
    return total, gradients


def _loss_of(judged: Judged, log_probs: Float[Tensor, "t vocab"]) -> Float[Tensor, ""]:
    if judged.reference is None:
        tokens = torch.tensor(judged.pair[1], device=log_probs.device)
        return -log_probs.gather(1, tokens[:, None]).mean()
    return (judged.reference.exp() * (judged.reference - log_probs)).sum(1).mean()


def _log_probs(model: LanguageModel, pairs: Sequence[Pair]) -> list[Float[Tensor, "t vocab"]]:
    """Log-probabilities of the whole vocabulary where targets' tokens are predicted, by text, at the present weights."""
    with torch.no_grad():
        groups = (pairs[first : first + GRADIENT_REQUESTS] for first in range(0, len(pairs), GRADIENT_REQUESTS))
        return [found for group in groups for found in _passed(model, group)]


def _passed(model: LanguageModel, pairs: Sequence[Pair]) -> Sequence[Float[Tensor, "t vocab"]]:
    """The same of texts that run together."""
    return target_log_probs(model, pairs).split([len(target) for _, target in pairs])


@contextmanager
def _tracked(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Follow what is computed from tensors, for their gradients; nothing where there are none."""
    with torch.set_grad_enabled(bool(tensors)):
        for tensor in tensors:
            tensor.requires_grad_()
        try:
            yield
        finally:
            for tensor in tensors:
                tensor.requires_grad_(False)

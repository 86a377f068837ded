"""LocFT: fine-tuning of one MLP output matrix on many requests at once, breadth first (Yang et al. 2026).

Epochs over all requests in minibatches B, in place of one request after another until each is learned:

    L(B) = mean over requests of B of the mean over t in target + EOS of −log p(t | prompt, earlier target tokens)

Adam on W, one optimiser for all epochs; a minibatch of small loss is passed over, an epoch of small mean loss is the last. The
EOS is part of the loss alone, so what is scored stays comparable.

`locft_bf` is one batch: steps record the token ids of requests, and W is tuned from the original weights when the edited
model is asked for. So any request can be removed as if it had never been there. `locft_seq` tunes on each step's batch, with
an optimiser of its own. Orders of requests depend on the epoch and on the requests' token ids, never on where they stand.

CrispEdit (Ikram et al. 2026) is the same with steps that stay out of the directions along which the loss of text bends most
(`curvature.py`), without EOS.

As released, but for this: orders are seeded, the EOS is the tokenizer's own with no token added to the model, the matrix is the MLP's
output (Mistral's whole block is left out), and masters are float32 where the model is not.

Terms and symbols: docs/notation.md.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.editors.answer_loss import AnswerLoss
from d4s.editors.curvature import FreeDirections
from d4s.editors.edit_requests import EditRequest
from d4s.editors.gradient_settings import LocFT
from d4s.editors.prompts import check_length
from d4s.editors.protocol import Diverged, Prepared, State, StepLog, StepRecord, Targets
from d4s.editors.states import DenseState, RecordOrDenseEditor, RecordState
from d4s.errors import ArtifactError
from d4s.metrics.weight_norms import l1_per_element
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import Pair, encode_pairs
from d4s.models.views import LiveModel

Weight = Float[Tensor, "d_out d_in"]


def tune(settings: LocFT, model: LanguageModel, pairs: Sequence[Pair], master: Weight, free: FreeDirections | None = None) -> list[float]:
    """Tune a master of the weight in place on requests, whose order means nothing; the mean loss of each epoch.

    The model must have the weight that the master begins with, and keeps it. Steps use `free` directions alone, where some are given.

    Raises:
        Diverged: if a loss is not finite.
        ArtifactError: if an EOS is asked for and the tokenizer has none.
    """
    end = [_end_of_text(model)] if settings.eos else []
    pairs = sorted((prompt, [*target, *end]) for prompt, target in pairs)
    losses: list[float] = []
    with torch.enable_grad():
        loss_of = AnswerLoss.of(model, pairs, settings.layer)
        optimiser = _Optimiser.of(settings, master, free)
        for epoch in range(settings.epochs):
            parts = [(len(rows), _update(settings, loss_of.select(rows), optimiser)) for rows in _minibatches(settings, pairs, epoch)]
            losses.append(sum(size * loss for size, loss in parts) / len(pairs))
            if not math.isfinite(losses[-1]):
                raise Diverged(f"the loss of fine-tuning is not finite: {losses[-1]}")
            if losses[-1] < settings.stop_loss:
                break
    return losses


def _minibatches(settings: LocFT, pairs: Sequence[Pair], epoch: int) -> list[list[int]]:
    """The requests of each minibatch of an epoch, by number; a single one in their own order, as that means nothing."""
    order = [*range(len(pairs))]
    if len(pairs) > settings.minibatch:
        order.sort(key=lambda row: hashlib.sha256(f"{epoch}/{pairs[row]}".encode()).digest())
    return [order[first : first + settings.minibatch] for first in range(0, len(order), settings.minibatch)]


@dataclass(frozen=True, slots=True)
class _Optimiser:
    """Adam on a master of the weight, in free directions where some are given: of its steps, or of the gradients that it sees."""

    master: Weight
    adam: torch.optim.Adam
    of_gradient: FreeDirections | None
    of_step: FreeDirections | None

    @classmethod
    def of(cls, settings: LocFT, master: Weight, free: FreeDirections | None) -> "_Optimiser":
        projects_steps = settings.protect is not None and settings.protect.order == "adam_then_project"
        adam = torch.optim.Adam([master], lr=settings.lr, fused=True)
        return cls(master, adam, None if projects_steps else free, free if projects_steps else None)

    def step(self, gradient: Weight) -> None:
        """One step against a gradient."""
        gradient = gradient.to(self.master.dtype)
        self.master.grad = (gradient if self.of_gradient is None else self.of_gradient.project(gradient)).contiguous()
        if self.of_step is None:
            self.adam.step()
            return
        before = self.master.detach().clone()
        self.adam.step()
        with torch.no_grad():
            self.master.copy_(before + self.of_step.project(self.master - before))


def _update(settings: LocFT, loss_of: AnswerLoss, optimiser: _Optimiser) -> float:
    """One step of the optimiser, unless the loss is small or not finite; the loss before it."""
    weight = optimiser.master.detach().to(loss_of.keys.dtype).requires_grad_()
    loss = loss_of.loss(weight)
    value = float(loss.detach())
    if settings.stop_loss <= value < math.inf:
        (gradient,) = torch.autograd.grad(loss, weight)
        optimiser.step(gradient)
    return value


def _end_of_text(model: LanguageModel) -> int:
    """The tokenizer's EOS.

    Raises:
        ArtifactError: if it has none.
    """
    end = model.tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ArtifactError("targets are tuned on with the EOS after them, and the tokenizer has none; name it, or set eos: false")
    return end


def _encode(settings: LocFT, model: LanguageModel, batch: Sequence[EditRequest]) -> list[Pair]:
    """Token ids of prompts and targets.

    Raises:
        PromptTooLong: if a prompt with its target, and its EOS, exceeds the model's context.
    """
    pairs = encode_pairs(model, [request.prompt for request in batch], [request.target for request in batch])
    for request, (prompt, target) in zip(batch, pairs, strict=True):
        check_length(model, request, len(prompt) + len(target) - (0 if settings.eos else 1))
    return pairs


def _to_record(pairs: Sequence[Pair]) -> StepRecord:
    """Requests as tensors: the ids of prompts and targets in a row, and their lengths."""
    flat = [token for pair in pairs for part in pair for token in part]
    lengths = [[len(prompt), len(target)] for prompt, target in pairs]
    return {"ids": torch.tensor(flat, dtype=torch.int32), "lengths": torch.tensor(lengths, dtype=torch.int32)}


def _from_record(record: StepRecord) -> list[Pair]:
    parts = iter(record["ids"].split(record["lengths"].flatten().tolist()))
    return [(next(parts).tolist(), next(parts).tolist()) for _ in record["lengths"]]


class RecordingSession:
    """Records requests."""

    def __init__(self, settings: LocFT, model: LanguageModel, state: State) -> None:
        self._settings, self._model = settings, model
        self._records = list(state.records)

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Record requests.

        Raises:
            PromptTooLong: if a prompt with its target exceeds the model's context.
        """
        self._records.append(_to_record(_encode(self._settings, self._model, batch)))
        return StepLog(())

    def state(self) -> State:
        """The requests so far."""
        return RecordState("refit", tuple(self._records))

    def live(self) -> None:
        """Nothing is edited before the end."""


class TuningSession:
    """Tuning in progress, on a float32 master (or better) of the weight."""

    def __init__(self, settings: LocFT, model: LanguageModel, prepared: Prepared, state: State) -> None:
        self._settings, self._model = settings, model
        self._original = model.weight(settings.layer).clone()
        self._master = master_of(settings, model, state)
        self._free = _free_directions(settings, prepared, self._master)
        model.set_weight(settings.layer, self._master)

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Tune on a batch of requests.

        Raises:
            PromptTooLong: if a prompt with its target exceeds the model's context.
            Diverged: if a loss stops being finite.
        """
        settings, model = self._settings, self._model
        pairs = _encode(settings, model, batch)
        before = self._probability(pairs)
        losses = tune(settings, model, pairs, self._master, self._free)
        model.set_weight(settings.layer, self._master)
        norm = float((self._master.double() - self._original.double()).norm())
        numbers = {"target_probability_before": before, "target_probability_after": self._probability(pairs), "epochs": float(len(losses))}
        by_layer = {"delta_norm": norm, "l1": l1_per_element(model.weight(settings.layer))}
        return StepLog(
            (
                *((quantity, None, value) for quantity, value in numbers.items()),
                *((quantity, settings.layer, value) for quantity, value in by_layer.items()),
            )
        )

    def state(self) -> State:
        """The weight as it is."""
        return DenseState({_name(self._settings): self._master.detach().cpu().clone()})

    def live(self) -> LiveModel:
        """The model as edited so far."""
        return LiveModel(self._model, {self._settings.layer: self._original})

    def _probability(self, pairs: Sequence[Pair]) -> float:
        """Mean over requests of exp(mean token log-probability) of the target, without the EOS."""
        return float((-LiveModel(self._model).score_ids(pairs).mean_nll()).exp().mean())


def _name(settings: LocFT) -> str:
    return f"{settings.layer}.weight"


def master_of(settings: LocFT, model: LanguageModel, state: State) -> Weight:
    """A copy of the weight of a dense state, the model's own where there is none, in float32 or better."""
    present = model.weight(settings.layer)
    saved = state.dense.get(_name(settings), present)
    return saved.to(present.device, torch.promote_types(model.dtype, torch.float32), copy=True).contiguous()


def _free_directions(settings: LocFT, prepared: Prepared, master: Weight) -> FreeDirections | None:
    """The directions that steps may use, where the others are protected."""
    return None if settings.protect is None else FreeDirections.of(prepared.extras, settings.protect.energy, master)


class LocFTEditor(RecordOrDenseEditor[LocFT]):
    """LocFT as an editor: records of requests where all are tuned on together, else the tuned weight, which every step replaces."""

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[RecordingSession | TuningSession]:
        """A session that continues from a state."""
        with model.restoring((self.settings.layer,)):
            dense = self.kind == "dense"
            yield TuningSession(self.settings, model, prepared, state) if dense else RecordingSession(self.settings, model, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[LiveModel]:
        """The model with the tuned weight, which a refit tunes now.

        Raises:
            Diverged: if a loss stops being finite.
        """
        settings = self.settings
        with model.restoring((settings.layer,)):
            original, master = model.weight(settings.layer).clone(), master_of(settings, model, state)
            if state.records:
                pairs = [pair for record in state.records for pair in _from_record(record)]
                tune(settings, model, pairs, master, _free_directions(settings, prepared, master))
            model.set_weight(settings.layer, master)
            yield LiveModel(model, {settings.layer: original})

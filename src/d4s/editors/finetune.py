"""Fine-tuning of MLP output matrices on each request, or on a batch of requests, one matrix by default.

FT-L (`prompt_last`) scores all target tokens at the last prompt token, as if they were a bag; FT-M (`target`) scores
each at its own place. With `regularize` true sentences are learned beside the targets, drawn again in every step (SAUL). Minimised
by Adam until the targets' loss is small; where there is a `bound`, after every update each weight is clamped to that distance
from its value at the start of this edit, so a sequence may drift without bound. Biases stay as they are. Erasure (`erase`)
minimises the probability of the target instead, and forcing (`noise_subject`) tunes on copies of the prompt whose subject is noised
(Hase et al. 2023, section 5).

A batch is minimised as a whole (`per_step`), or in epochs of minibatches. What is done to the change in the end
(`delta_transform`) is done to W − W₀ of the state.

With `parameters` of kind `lora` factors beside the matrices are tuned instead (`lora.py`).

Terms and symbols: docs/notation.md.
"""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from d4s.editors.edit_requests import EditRequest
from d4s.editors.fact_pool import FactPool
from d4s.editors.fine_tune_settings import Epochs, FineTune, LowRank
from d4s.editors.finetune_loss import FineTuneLoss, Losses, NoisedSubject, Weights
from d4s.editors.lora import LoraSession, lora_layers, low_rank_deltas
from d4s.editors.prompts import build_prompts, check_length
from d4s.editors.protocol import Diverged, EditSelection, Prepared, Session, State, StateKind, StepLog, StepRecord, Targets
from d4s.editors.states import DenseState, check_dense
from d4s.editors.training_texts import TrainingText, at_last_prompt_token, at_own_places
from d4s.editors.weights import apply_deltas
from d4s.metrics.weight_norms import l1_per_element
from d4s.models.language_model import LanguageModel
from d4s.models.subject_noise import subject_noise
from d4s.models.tokens import Pair, encode_pairs, start_of_text, subject_tokens
from d4s.models.views import LiveModel

WEIGHT = ".weight"
TokenizedBatch = Sequence[tuple[EditRequest, Pair]]


class LossValues(NamedTuple):
    """Losses of a step as numbers: of targets, and of sentences where some are learned."""

    target: float
    sentence: float | None

    @classmethod
    def of(cls, losses: Losses) -> "LossValues":
        """The numbers of a loss."""
        return cls(float(losses.target.detach()), None if losses.sentence is None else float(losses.sentence.detach()))


class TextMaker:
    """The texts of requests by step, from their prompts and targets as token ids, and from the pool where there is one."""

    def __init__(self, settings: FineTune, model: LanguageModel, pool: FactPool | None) -> None:
        self._settings, self._model, self._pool = settings, model, pool

    @property
    def repeats(self) -> bool:
        """Whether every step has the same texts."""
        return self._pool is None

    def texts(self, request: EditRequest, pair: Pair, step: int) -> list[TrainingText]:
        """What a request learns from in a step.

        Raises:
            PromptTooLong: if a text exceeds the model's context.
        """
        regularize = self._settings.regularize
        if regularize is None or self._pool is None:
            plain = (at_last_prompt_token if self._settings.objective == "prompt_last" else at_own_places)(*pair)
            found = [plain] * (self._settings.noise_subject.copies if self._settings.noise_subject else 1)
        else:
            sentences = self._pool.draw(regularize.facts, request.request_id, step)
            found = [*regularize.texts(*pair, sentences, start_of_text(self._model))]
        check_length(self._model, request, max(len(text.ids) for text in found))
        return found

    def noised(self, request: EditRequest, pair: Pair) -> list[NoisedSubject]:
        """The subject of a request with its noise; none where prompts are tuned on as they are."""
        noise = self._settings.noise_subject
        if noise is None:
            return []
        subject = subject_tokens(self._model, request.prompt, request.subject, request.template)
        return [NoisedSubject(subject, subject_noise(self._model, pair[0], subject, noise))]


class FineTuneSession:
    """Fine-tuning in progress, on float32 masters (or better) of the weights."""

    def __init__(self, settings: FineTune, model: LanguageModel, prepared: Prepared, state: State) -> None:
        self._settings, self._model = settings, model
        self._originals = {layer: model.weight(layer).clone() for layer in settings.layers}
        self._masters = {layer: self._master(layer, state) for layer in settings.layers}
        self._text_maker = TextMaker(settings, model, FactPool.of(prepared.extras) if settings.regularize else None)
        self._validation = None if settings.delta_transform is None else settings.delta_transform.validation(state.dense)
        self._write()

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Tune on a batch of requests.

        Raises:
            PromptTooLong: if a prompt with its target, or a text with a sentence, exceeds the model's context.
            Diverged: if the loss stops being finite.
        """
        pairs = encode_pairs(self._model, [request.prompt for request in batch], [request.target for request in batch])
        start = {layer: master.clone() for layer, master in self._masters.items()}
        adam = torch.optim.Adam([*self._masters.values()], lr=self._settings.lr, fused=True)
        schedule, tokenized = self._settings.schedule, [*zip(batch, pairs, strict=True)]
        losses, updates = (
            self._in_steps(tokenized, adam, start) if schedule == "per_step" else self._in_epochs(schedule, tokenized, adam, start)
        )
        self._write()
        if not all(abs(value) < float("inf") for value, _ in losses):
            raise Diverged(f"the loss of fine-tuning is not finite: {losses[-1].target}")
        if self._validation is not None:
            self._validation.offer([build_prompts(self._model, request, ()) for request in batch])
        return StepLog((*self._numbers(losses, updates), *self._noised_numbers(tokenized, start)))

    def state(self) -> State:
        """The weights as they are, with the requests that are kept for the end."""
        weights = {f"{layer}{WEIGHT}": master.detach().cpu().clone() for layer, master in self._masters.items()}
        return DenseState(weights | ({} if self._validation is None else self._validation.tensors()))

    def live(self) -> LiveModel | None:
        """The model as edited so far; None where the change as a whole is transformed in the end."""
        return LiveModel(self._model, self._originals) if self._settings.delta_transform is None else None

    # --- descent ------------------------------------------------------------------------------------------------------

    def _in_steps(self, batch: TokenizedBatch, adam: torch.optim.Adam, start: Weights) -> tuple[list[LossValues], int]:
        """Steps of Adam on the whole batch; the losses before each and at the end, and the number of steps."""
        found: list[LossValues] = []
        loss_of = self._loss(batch, 0)
        for number in range(self._settings.steps):
            loss_of = loss_of if number == 0 or self._text_maker.repeats else self._loss(batch, number)
            weights = self._leaves()
            losses = loss_of.losses(weights)
            found.append(LossValues.of(losses))
            if self._is_done(found[-1]):
                return found, number
            self._update(adam, torch.autograd.grad(losses.total, [*weights.values()]), start)
        found.append(LossValues.of(loss_of.losses(self._leaves())))
        return found, self._settings.steps

    def _in_epochs(self, schedule: Epochs, batch: TokenizedBatch, adam: torch.optim.Adam, start: Weights) -> tuple[list[LossValues], int]:
        """Passes over the batch; the mean losses of each, and the number of steps of Adam."""
        found, updates = list[LossValues](), 0
        for epoch in range(schedule.epochs):
            order = _order([request.request_id for request, _ in batch], epoch)
            values: list[tuple[int, LossValues]] = []
            for first in range(0, len(order), schedule.minibatch):
                some = [batch[place] for place in order[first : first + schedule.minibatch]]
                weights = self._leaves()
                losses = self._loss(some, epoch).losses(weights)
                values.append((len(some), LossValues.of(losses)))
                self._update(adam, torch.autograd.grad(losses.total, [*weights.values()]), start)
            updates += len(values)
            found.append(_means(values))
            if self._is_done(found[-1]):
                break
        return found, updates

    def _loss(self, batch: TokenizedBatch, step: int) -> FineTuneLoss:
        """The loss of some requests in a step; the model itself keeps the weights that the batch began with."""
        texts = [self._text_maker.texts(request, pair, step) for request, pair in batch]
        noised = [one for request, pair in batch for one in self._text_maker.noised(request, pair)]
        return FineTuneLoss.of(self._model, texts, self._settings.layers, noised=noised, erases=self._erases)

    @property
    def _erases(self) -> bool:
        return self._settings.objective == "erase"

    def _is_done(self, losses: LossValues) -> bool:
        return losses.target < self._settings.stop_loss and not self._erases

    def _leaves(self) -> dict[int, Tensor]:
        """The weights as the model would have them, ready for gradients."""
        return {layer: master.detach().to(self._model.dtype).requires_grad_() for layer, master in self._masters.items()}

    def _update(self, adam: torch.optim.Adam, gradients: Sequence[Tensor], start: Weights) -> None:
        """One step of Adam on the masters, and their clamp."""
        for master, gradient in zip(self._masters.values(), gradients, strict=True):
            master.grad = gradient.to(master.dtype).contiguous()
        adam.step()
        if (bound := self._settings.bound) is not None:
            for layer, master in self._masters.items():
                master.clamp_(start[layer] - bound, start[layer] + bound)

    # --- weights and numbers --------------------------------------------------------------------------------------------

    def _master(self, layer: int, state: State) -> Tensor:
        live = self._model.weight(layer)
        saved = state.dense.get(f"{layer}{WEIGHT}", live)
        return saved.to(live.device, torch.promote_types(self._model.dtype, torch.float32), copy=True).contiguous()

    def _write(self) -> None:
        for layer, master in self._masters.items():
            self._model.set_weight(layer, master)

    def _numbers(self, losses: Sequence[LossValues], updates: int) -> Iterator[tuple[str, int | None, float]]:
        (first, first_sentence), (last, last_sentence) = losses[0], losses[-1]
        yield "target_probability_before", None, first if self._erases else math.exp(-first)
        yield "target_probability_after", None, last if self._erases else math.exp(-last)
        yield "target_steps", None, float(updates)
        if first_sentence is not None and last_sentence is not None:
            yield "sentence_nll_before", None, first_sentence
            yield "sentence_nll_after", None, last_sentence
        for layer, master in self._masters.items():
            yield "delta_norm", layer, float((master.double() - self._originals[layer].double()).norm())
            yield "l1", layer, l1_per_element(self._model.weight(layer))

    def _noised_numbers(self, batch: TokenizedBatch, start: Weights) -> Iterator[tuple[str, int | None, float]]:
        """The probability of the whole target at the noised prompts before and after, where these are tuned on."""
        if self._settings.noise_subject is not None:
            loss_of = self._loss(batch, 0)
            for name, weights in (("before", start), ("after", self._masters)):
                as_stored = {layer: weight.to(self._model.dtype) for layer, weight in weights.items()}
                yield f"noised_probability_{name}", None, loss_of.probability(as_stored)


def _means(values: Sequence[tuple[int, LossValues]]) -> LossValues:
    """Means of the losses of minibatches of some sizes."""
    total = sum(count for count, _ in values)
    target = sum(count * found.target for count, found in values) / total
    sentences = [(count, found.sentence) for count, found in values if found.sentence is not None]
    return LossValues(target, sum(count * found for count, found in sentences) / total if sentences else None)


def _order(request_ids: Sequence[str], epoch: int) -> list[int]:
    """The order of a batch's requests in an epoch, the same whatever came before."""
    generator = torch.Generator().manual_seed(zlib.crc32("/".join((*request_ids, str(epoch))).encode()))
    return torch.randperm(len(request_ids), generator=generator).tolist()


class FineTuneEditor:
    """Fine-tuning as an editor; its state is the tuned weights, or the factors beside weights, which every step replaces."""

    kind: StateKind = "dense"

    def __init__(self, settings: FineTune) -> None:
        self.settings = settings

    def restore(self, records: Sequence[StepRecord], dense: Mapping[str, Tensor]) -> State:
        """The state that consists of saved weights."""
        return DenseState(dict(dense))

    def check_removable(self, selection: EditSelection, preceding: EditSelection | None = None) -> None:
        """Refuse to take out or bring back any edit.

        Raises:
            NotRemovable: if there is such an edit.
        """
        check_dense(selection)

    def start(self, model: LanguageModel, prepared: Prepared) -> State:
        """Nothing tuned yet."""
        return DenseState()

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[Session]:
        """A session that continues from a state."""
        lora = self.settings.parameters
        if isinstance(lora, LowRank):
            with model.restoring(lora_layers(lora, model)):
                yield LoraSession(self.settings, lora, model, state)
        else:
            with model.restoring(self.settings.layers):
                yield FineTuneSession(self.settings, model, prepared, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[LiveModel]:
        """The model with the tuned weights, their change transformed where the settings say so."""
        transform, deltas = self.settings.delta_transform, self._changes(model, state)
        if transform is not None:
            deltas = transform.finish(model, deltas, transform.validation(state.dense))
        with apply_deltas(model, deltas) as view:
            yield view

    def _changes(self, model: LanguageModel, state: State) -> Mapping[int, Tensor]:
        """W − W₀ of every tuned layer, in float64."""
        if isinstance(self.settings.parameters, LowRank):
            return low_rank_deltas(self.settings.parameters, state.dense)
        tuned = {int(name.removesuffix(WEIGHT)): tensor for name, tensor in state.dense.items() if name.endswith(WEIGHT)}
        return {layer: tensor.to(model.weight(layer).device).double() - model.weight(layer).double() for layer, tensor in tuned.items()}

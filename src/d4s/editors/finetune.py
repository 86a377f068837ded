"""Fine-tuning of one MLP output matrix on each request, with every weight kept near where the edit began.

FT-L (`prompt_last`) scores all target tokens at the last prompt token, as if they were a bag; FT-M (`target`) scores
each at its own place. Minimised by Adam until the loss is small; after every update each weight is clamped to a distance
from its value at the start of this edit, so a sequence may drift without bound. The bias stays as it is. Erasure (`erase`) minimises
the probability of the target instead, and forcing (`noise_subject`) tunes on copies of the prompt whose subject is noised (Hase et
al. 2023, section 5).

With `parameters` of kind `lora` factors beside the matrices are tuned instead (`lora.py`).

Terms and symbols: docs/notation.md.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from d4s.editors.edit_requests import EditRequest
from d4s.editors.editor_settings import FineTune, LowRank
from d4s.editors.lora import LoraSession, lora_layers, low_rank_deltas
from d4s.editors.prompts import check_length, pad_ids
from d4s.editors.protocol import Diverged, EditSelection, Prepared, Session, State, StateKind, StepLog, StepRecord, Targets
from d4s.editors.states import DenseState, check_dense
from d4s.editors.weights import apply_deltas
from d4s.metrics.weight_norms import l1_per_element
from d4s.models.language_model import LanguageModel
from d4s.models.restart import Restart, restart
from d4s.models.subject_noise import added_to_embeddings, spread_noise, subject_noise
from d4s.models.tokens import encode_pairs, subject_tokens
from d4s.models.trace import trace
from d4s.models.views import LiveModel


@dataclass(frozen=True, slots=True)
class _TunedPrompt:
    """The ids of a prompt and of its target; where the subject is noised, its tokens and the noise of every copy."""

    prompt: list[int]
    target: list[int]
    subject: range = range(0)
    noise: Float[Tensor, "copies s d"] | None = None

    @property
    def copies(self) -> int:
        """Rows of the prompt in a pass."""
        return 1 if self.noise is None else len(self.noise)


def _noised(model: LanguageModel, batch: Sequence[_TunedPrompt], width: int) -> AbstractContextManager[None]:
    """Passes over copies of all prompts, padded to a width, with the noise of their subjects, if there is any."""
    noise = [one.noise for one in batch if one.noise is not None]
    return added_to_embeddings(model, spread_noise(noise, [one.subject for one in batch], width)) if noise else nullcontext()


@dataclass(frozen=True, slots=True)
class _FineTuneLoss:
    """A batch of requests laid out for the loss as a function of one weight: what lies before it has run once.

    `keys` enter the weight at every token, `output` is what its module gave there, `before` the weight alone. `read` says where
    each target token is predicted, counted through the rows, `token_weight` is its weight in the loss and `row` the row it is in.
    """

    later_blocks: Restart
    keys: Float[Tensor, "n s d_in"]
    output: Float[Tensor, "n s d_out"]
    before: Float[Tensor, "n s d_out"]
    read: Int[Tensor, " t"]
    token: Int[Tensor, " t"]
    token_weight: Float[Tensor, " t"]
    row: Int[Tensor, " t"]
    erases: bool

    @classmethod
    def of(cls, model: LanguageModel, batch: Sequence[_TunedPrompt], settings: FineTune) -> "_FineTuneLoss":
        """Prompts with their target ids, or noised copies of them, run through the model as it is."""
        per_token, (layer,) = settings.objective != "prompt_last", settings.layers
        pairs = [(one.prompt, one.target) for one in batch for _ in range(one.copies)]
        texts = [[*prompt, *target[:-1]] if per_token else prompt for prompt, target in pairs]
        ids = pad_ids(texts, model.device)
        lengths = torch.full((len(texts),), ids.shape[1], device=model.device)
        with _noised(model, batch, ids.shape[1]), trace({layer: model.mlp_out(layer)}) as found:
            later_blocks, _ = restart(model, ids, torch.zeros_like(lengths), lengths, layer)
        keys, output = found.inputs[layer], found.outputs[layer]
        places = [
            (row * ids.shape[1] + len(prompt) - 1 + (offset if per_token else 0), token, row)
            for row, (prompt, target) in enumerate(pairs)
            for offset, token in enumerate(target)
        ]
        read, token, row = torch.tensor(places, device=keys.device).unbind(1)
        precision = torch.promote_types(model.dtype, torch.float32)
        token_weight = torch.tensor(
            [1.0 / len(target) / len(pairs) for _, target in pairs for _ in target], dtype=precision, device=keys.device
        )
        with torch.no_grad():
            before = keys @ model.weight(layer).mT
        return cls(later_blocks, keys, output, before, read, token, token_weight, row, settings.objective == "erase")

    def loss(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, ""]:
        """Mean over rows of the mean negative log-probability of the target's tokens; of the target's probability, to erase it."""
        log_probs = self._log_probs(weight)
        return self._joint(log_probs) if self.erases else -(log_probs * self.token_weight).sum()

    @torch.no_grad()
    def probability(self, weight: Float[Tensor, "d_out d_in"]) -> float:
        """Mean over rows of the probability of the whole target."""
        return float(self._joint(self._log_probs(weight)))

    def _joint(self, log_probs: Float[Tensor, " t"]) -> Float[Tensor, ""]:
        return log_probs.new_zeros(len(self.keys)).index_add(0, self.row, log_probs).exp().mean()

    def _log_probs(self, weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, " t"]:
        """Log-probabilities of all target tokens."""
        model, layer = self.later_blocks.model, self.later_blocks.layer
        change = model.block_output_change(layer, self.output, self.keys @ weight.mT - self.before)
        log_probs = (
            model.unembed(model.final_norm(self.later_blocks.run_hidden(self.later_blocks.hidden + change, self.read)))
            .to(self.token_weight)
            .log_softmax(-1)
        )
        return log_probs.gather(1, self.token[:, None])[:, 0]


class FineTuneSession:
    """Fine-tuning in progress, on a float32 master (or better) of the weight."""

    def __init__(self, settings: FineTune, model: LanguageModel, state: State) -> None:
        (self._layer,) = settings.layers
        self._settings, self._model, self._name = settings, model, f"{self._layer}.weight"
        self._original = model.weight(self._layer).clone()
        precision = torch.promote_types(model.dtype, torch.float32)
        saved = state.dense.get(self._name, self._original)
        self._master = saved.to(model.weight(self._layer).device, precision, copy=True).contiguous()
        model.set_weight(self._layer, self._master)

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Tune on a batch of requests.

        Raises:
            PromptTooLong: if a prompt with its target exceeds the model's context.
            Diverged: if the loss stops being finite.
        """
        start, loss_of = self._master.clone(), _FineTuneLoss.of(self._model, self._prompts(batch), self._settings)
        adam = torch.optim.Adam([self._master], lr=self._settings.lr, fused=True)
        losses: list[float] = []
        for _ in range(self._settings.steps):
            weight = self._master.detach().to(self._model.dtype).requires_grad_()
            loss = loss_of.loss(weight)
            losses.append(float(loss.detach()))
            if losses[-1] < self._settings.stop_loss and not loss_of.erases:
                break
            (gradient,) = torch.autograd.grad(loss, weight)
            self._update(adam, gradient, start)
        else:
            losses.append(float(loss_of.loss(self._master.to(self._model.dtype))))
        self._model.set_weight(self._layer, self._master)
        if not all(abs(value) < float("inf") for value in losses):
            raise Diverged(f"the loss of fine-tuning is not finite: {losses[-1]}")
        return StepLog((*self._numbers(losses), *self._noised_numbers(loss_of, start)))

    def state(self) -> State:
        """The weight as it is."""
        return DenseState({self._name: self._master.detach().cpu().clone()})

    def live(self) -> LiveModel:
        """The model as edited so far."""
        return LiveModel(self._model, {self._layer: self._original})

    def _prompts(self, batch: Sequence[EditRequest]) -> list[_TunedPrompt]:
        """The prompts of requests as they are tuned on.

        Raises:
            PromptTooLong: if one with its target exceeds the model's context.
        """
        pairs, noise = encode_pairs(self._model, [one.prompt for one in batch], [one.target for one in batch]), self._settings.noise_subject
        for request, (prompt, target) in zip(batch, pairs, strict=True):
            check_length(self._model, request, len(prompt) + len(target) - 1)
        if noise is None:
            return [_TunedPrompt(*pair) for pair in pairs]
        subjects = [subject_tokens(self._model, one.prompt, one.subject, one.template) for one in batch]
        return [
            _TunedPrompt(prompt, target, subject, subject_noise(self._model, prompt, subject, noise))
            for (prompt, target), subject in zip(pairs, subjects, strict=True)
        ]

    def _update(self, adam: torch.optim.Adam, gradient: Float[Tensor, "d_out d_in"], start: Float[Tensor, "d_out d_in"]) -> None:
        """One step of Adam on the master, and its clamp."""
        self._master.grad = gradient.to(self._master.dtype).contiguous()
        adam.step()
        bound = self._settings.bound
        if bound is not None:
            self._master.clamp_(start - bound, start + bound)

    def _numbers(self, losses: Sequence[float]) -> Iterator[tuple[str, int | None, float]]:
        layer, erases = self._layer, self._settings.objective == "erase"
        yield "target_probability_before", None, losses[0] if erases else math.exp(-losses[0])
        yield "target_probability_after", None, losses[-1] if erases else math.exp(-losses[-1])
        yield "target_steps", None, float(len(losses) - 1)
        yield "delta_norm", layer, float((self._master.double() - self._original.double()).norm())
        yield "l1", layer, l1_per_element(self._model.weight(layer))

    def _noised_numbers(self, loss_of: _FineTuneLoss, start: Float[Tensor, "d_out d_in"]) -> Iterator[tuple[str, int | None, float]]:
        """The probability of the whole target at the noised prompts before and after, where these are tuned on."""
        if self._settings.noise_subject is not None:
            for name, weight in (("before", start), ("after", self._master)):
                yield f"noised_probability_{name}", None, loss_of.probability(weight.to(self._model.dtype))


class FineTuneEditor:
    """Fine-tuning as an editor; its state is the tuned weight, or the factors beside weights, which every step replaces."""

    kind: StateKind = "dense"

    def __init__(self, settings: FineTune) -> None:
        self.settings = settings

    def restore(self, records: Sequence[StepRecord], dense: Mapping[str, Tensor]) -> State:
        """The state that consists of a saved weight."""
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
                yield FineTuneSession(self.settings, model, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[LiveModel]:
        """The model with the tuned weights."""
        lora = self.settings.parameters
        if isinstance(lora, LowRank):
            deltas = low_rank_deltas(lora, state.dense)
        else:
            places = {int(name.split(".")[0]): tensor for name, tensor in state.dense.items()}
            deltas = {layer: new.to(model.weight(layer).device).double() - model.weight(layer).double() for layer, new in places.items()}
        with apply_deltas(model, deltas) as view:
            yield view

"""T-Patcher: one more neuron beside an MLP for each token of a target that is wrong (Transformer-Patcher, Huang et al. 2023).

With the query q_t, which enters the MLP of one layer at a token, the MLP's activation σ, and neurons of key k_j, bias b_j and value v_j

    o_t ← o_t + Σ_j σ(k_j · q_t + b_j) v_j

at every token of every text, as more columns of the MLP would. A request's target is scored first, teacher-forced, with the neurons
so far. Each token that is not the likeliest one has a new neuron, which begins at k = q / ‖q‖², b = 0, where q is the query that
predicts the token, so that it is reached by 1 there. Adam takes its steps on all new neurons of the request at once, for

    L = L_e + a L_a + m L_m,    L_a = mean_j exp(−r_j),    r_j = k_j · q_j + b_j
    L_m = mean exp(s − ceiling) + mean exp(s − r_j + gap),    s = k_j · M_i + b_j

with the mean negative log-likelihood L_e of the target's tokens, and means over the pairs of a neuron and a kept state M_i where the
exponent is largest, as many as `hardest`. Kept are the queries at all tokens of sentences of the unedited model, and
those that earlier neurons answer.

As released, but for this:

| the release | here |
|---|---|
| edits BERT and BART | a decoder; a gated MLP has neurons without a gate, of its own activation |
| keeps states of training data, and all of an edited text | of sentences that the unedited model writes, and at mistakes |
| a value begins at random numbers | at 0, so that every edit begins at the model as it is, and no seed is needed |
| trains ten factors of a value and what they multiply | what they multiply; `amplify` stands for the factors |
| its editor of sequences leaves `gap` and `ceiling` at 0, whatever its arguments say | takes them |
| stops by held-out data, clips gradients | stops by the loss of the target |

Earlier neurons stay as they are, so a record is one request's own `key`, `bias` and `value`, a row for each neuron, with the `query`
that each answers. Undo takes them out; later neurons were trained in their presence and stay. A request that is answered already
has a record without rows.

Terms and symbols: docs/notation.md.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from d4s.editors.edit_requests import EditRequest
from d4s.editors.protocol import Prepared, State, StateKind, StepLog, StepRecord, Targets
from d4s.editors.side_editor import encode_request
from d4s.editors.side_inputs import LocalitySentences
from d4s.editors.side_settings import TransformerPatcher
from d4s.editors.side_training import Wordings, check_finite
from d4s.editors.states import RecordEditor, RecordState
from d4s.models.language_model import LanguageModel
from d4s.models.trace import trace
from d4s.models.views import LiveModel

KEY, BIAS, VALUE, QUERY = "key", "bias", "value", "query"


@dataclass(frozen=True, slots=True)
class Neurons:
    """Neurons beside the MLP of a layer."""

    activation: nn.Module
    key: Float[Tensor, "m d_out"]
    bias: Float[Tensor, " m"]
    value: Float[Tensor, "m d_out"]

    @classmethod
    def of(cls, settings: TransformerPatcher, model: LanguageModel, records: Sequence[StepRecord]) -> "Neurons":
        """Those of records, in order."""
        like = torch.zeros(0, model.d_out(), dtype=torch.promote_types(model.dtype, torch.float32))
        rows = {name: [record[name] for record in records] for name in (KEY, BIAS, VALUE)}
        device = model.state_device(settings.layer)
        key, bias, value = (torch.cat([empty, *rows[name]]).to(device) for name, empty in ((KEY, like), (BIAS, like.sum(1)), (VALUE, like)))
        return cls(model.activation, key, bias, value)

    def reach(self, queries: Float[Tensor, "*n d_out"]) -> Float[Tensor, "*n m"]:
        """How far they are reached, k · q + b, before the activation."""
        return queries.to(self.key) @ self.key.mT + self.bias

    def activations(self, queries: Float[Tensor, "*n d_out"]) -> Float[Tensor, "*n m"]:
        """σ(k · q + b)."""
        return self.activation(self.reach(queries))


class NeuronModel(LiveModel):
    """An `EditedModel` with neurons beside the MLP of one layer, which answer at every token. They change no weights."""

    def __init__(self, model: LanguageModel, layer: int, neurons: Neurons) -> None:
        super().__init__(model)
        self.layer, self.neurons = layer, neurons

    def _hidden(
        self, ids: Int[Tensor, "n t"], cache: DynamicCache | None = None, last: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n t d_out"]:
        if not len(self.neurons.key):
            return super()._hidden(ids, cache, last)
        with _beside(self.model.mlp(self.layer), self.neurons):
            return super()._hidden(ids, cache, last)


@contextmanager
def _beside(mlp: nn.Module, neurons: Neurons) -> Iterator[None]:
    """Add what neurons put out to what an MLP does."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        (queries,) = (*args, *kwargs.values())
        return output + (neurons.activations(queries) @ neurons.value).to(output.dtype)

    handle = mlp.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def read_queries(model: LanguageModel, layer: int, texts: Sequence[Sequence[int]]) -> Float[Tensor, "n d_out"]:
    """What enters the MLP of a layer at every token of texts, one text after another, in single precision or better."""
    found = list[Tensor]()
    for ids in texts:
        with trace({layer: model.mlp(layer)}, stop_after=layer) as seen:
            model.network.base_model(input_ids=torch.tensor([[*ids]], device=model.device), use_cache=False)
        found.append(seen.inputs[layer][0])
    return torch.cat(found).to(torch.promote_types(model.dtype, torch.float32))


@dataclass(frozen=True, slots=True)
class Mistakes:
    """A request run through the unedited model: what enters the MLP at its tokens, and the places that predict its wrong tokens."""

    wordings: Wordings
    queries: Float[Tensor, "s d_out"]
    places: Sequence[int]

    @property
    def own(self) -> Float[Tensor, "m d_out"]:
        """The queries that predict wrong tokens."""
        return self.queries[list(self.places)]

    def loss(self, earlier: Neurons, new: Neurons) -> Float[Tensor, ""]:
        """L_e: mean negative log-likelihood of the target's tokens with both kinds of neurons."""
        active = torch.cat([earlier.activations(self.queries), new.activations(self.queries)], -1)
        through = self.wordings.through(active.to(self.wordings.loss_of.keys.dtype)[None])
        return through.loss(torch.cat([earlier.value, new.value]).mT)


def activation_loss(neurons: Neurons, own: Float[Tensor, "m d_out"]) -> Float[Tensor, ""]:
    """L_a: how little neurons are reached at the tokens that each was made for."""
    return (-neurons.reach(own).diagonal()).exp().mean()


def memory_loss(
    settings: TransformerPatcher, neurons: Neurons, own: Float[Tensor, "m d_out"], kept: Float[Tensor, "n d_out"]
) -> Float[Tensor, ""]:
    """L_m: how far neurons are reached at kept states, as such and beside the tokens that each was made for."""
    reached = neurons.reach(kept)
    beside = reached - neurons.reach(own).diagonal() + settings.gap
    return sum((_hardest(settings, one).exp().mean() for one in (reached - settings.ceiling, beside)), reached.new_zeros(()))


def _hardest(settings: TransformerPatcher, exponents: Float[Tensor, "n m"]) -> Float[Tensor, " k"]:
    """The largest ones of all."""
    return exponents.flatten().topk(min(settings.hardest, exponents.numel())).values


class TransformerPatcherSession:
    """Editing in progress; the model itself is never changed."""

    def __init__(self, settings: TransformerPatcher, model: LanguageModel, prepared: Prepared, state: State) -> None:
        self._settings, self._model, self._records = settings, model, list(state.records)
        self._neurons = Neurons.of(settings, model, self._records)
        self._kept = read_queries(model, settings.layer, LocalitySentences.of(prepared.extras).sentences)

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Add and train the neurons of a request.

        Raises:
            PromptTooLong: if its prompt with its target exceeds the model's context.
            Diverged: if the loss stops being finite.
        """
        (request,) = batch
        settings, model, pair = self._settings, self._model, encode_request(self._model, request)
        before = self.live().score_ids([pair])
        wrong = [place for place, is_right in enumerate(before.correct[0, : len(pair[1])].tolist()) if not is_right][: settings.neurons]
        with trace({QUERY: model.mlp(settings.layer)}) as found:
            wordings = Wordings.of(model, request, (), settings.layer)
        queries = found.inputs[QUERY][0].to(self._kept)
        mistakes = Mistakes(wordings, queries, [len(pair[0]) - 1 + place for place in wrong])
        new, losses = self._train(mistakes) if wrong else (Neurons.of(settings, model, ()), list[float]())
        rows = {KEY: new.key, BIAS: new.bias, VALUE: new.value, QUERY: mistakes.own}
        self._records.append({name: tensor.cpu().clone() for name, tensor in rows.items()})
        self._neurons = Neurons.of(settings, model, self._records)
        numbers = {
            "target_probability_before": math.exp(-float(before.mean_nll()[0])),
            "target_probability_after": math.exp(-float(self.live().score_ids([pair]).mean_nll()[0])),
            "target_steps": float(max(len(losses) - 1, 0)),
            "neurons": float(len(wrong)),
        }
        of_layer = ("side_norm", settings.layer, float(self._neurons.value.double().norm()))
        return StepLog((*((quantity, None, value) for quantity, value in numbers.items()), of_layer))

    def state(self) -> RecordState:
        """The records so far."""
        return RecordState("additive", tuple(self._records))

    def live(self) -> NeuronModel:
        """The model with the neurons so far."""
        return NeuronModel(self._model, self._settings.layer, self._neurons)

    def _train(self, mistakes: Mistakes) -> tuple[Neurons, list[float]]:
        """The neurons of a request's mistakes, and the losses of its target on the way."""
        settings, own = self._settings, mistakes.own
        kept = torch.cat([self._kept, *(record[QUERY].to(self._kept) for record in self._records)])
        key, bias, value = (
            tensor.requires_grad_()
            for tensor in (own / own.square().sum(1, keepdim=True), torch.zeros_like(own[:, 0]), torch.zeros_like(own))
        )
        adam = torch.optim.Adam([key, bias, value], lr=settings.lr, fused=True)
        losses = list[float]()
        for step in range(settings.steps + 1):
            neurons = Neurons(self._neurons.activation, key, bias, settings.amplify * value)
            with torch.set_grad_enabled(step < settings.steps):
                loss = mistakes.loss(self._neurons, neurons)
            losses.append(float(loss.detach()))
            check_finite(losses[-1])
            if step == settings.steps or losses[-1] < settings.stop_loss:
                break
            total = loss + settings.activation_weight * activation_loss(neurons, own)
            total = total + settings.memory_weight * memory_loss(settings, neurons, own, kept)
            check_finite(float(total.detach()))
            key.grad, bias.grad, value.grad = torch.autograd.grad(total, [key, bias, value])
            adam.step()
        return Neurons(self._neurons.activation, key.detach(), bias.detach(), settings.amplify * value.detach()), losses


class TransformerPatcherEditor(RecordEditor):
    """Neurons as an editor."""

    kind: StateKind = "additive"

    def __init__(self, settings: TransformerPatcher) -> None:
        self.settings = settings

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[TransformerPatcherSession]:
        """A session that continues from a state."""
        yield TransformerPatcherSession(self.settings, model, prepared, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[NeuronModel]:
        """The model with the neurons of a state beside it."""
        yield NeuronModel(model, self.settings.layer, Neurons.of(self.settings, model, state.records))

"""Knowledge neurons: find the neurons that the original answer hangs on, and write the new answer into their value columns.

Attribution (Dai et al. 2022, eq. 3 and 4): with the activations a of a layer at the last prompt token scaled together,

    attribution_i = a_i / m · sum over k of dP(answer | alpha_k a) / da_i,    alpha_k from 0 to 1 in m equal steps, ends included,

P being the joint, teacher-forced probability of the whole original answer (the release averages over its tokens, each
after the model's own beginning; for one token they are the same). An activation is what enters the MLP's output projection.
Neurons above a share of the largest attribution, over all layers, are kept; none if no attribution is positive.

Edit: to the value column of each, c · (sum of word embeddings of the target − of the model's own greedy completion, as
many tokens) is added, with c = 2 for one token and 1 for several, as in the common release. A record is that one vector and
the neurons that it is added to, so the change of every layer is the sum over records.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float64
from torch import Tensor

from d4s.editors.additive_session import AdditiveSession
from d4s.editors.constants import ATTRIBUTED_TOKENS
from d4s.editors.edit_requests import EditRequest
from d4s.editors.editor_settings import KnowledgeNeurons
from d4s.editors.protocol import Diverged, Prepared, State, StateKind, StepLog, StepRecord, Targets
from d4s.editors.states import RecordEditor
from d4s.editors.weights import apply_deltas
from d4s.errors import D4SError
from d4s.metrics.weight_norms import l1_per_element
from d4s.models.edited_model import Scores
from d4s.models.language_model import LanguageModel
from d4s.models.restart import Restart, restart
from d4s.models.tokens import encode_pair
from d4s.models.trace import Trace, trace
from d4s.models.views import LiveModel

Deltas = dict[int, Float64[Tensor, "d_out d_in"]]


class NoOriginalAnswer(D4SError):
    """A request without the answer that neurons are searched for."""


def attributions(model: LanguageModel, prompt: Sequence[int], answer: Sequence[int], steps: int) -> Float64[Tensor, "n_layers d_in"]:
    """Integrated gradients of an answer's probability with respect to every activation at the last prompt token.

    One pass says what every block puts out. From there the steps of many layers run together, over the tokens that a change can
    reach: those of a layer join behind its block. Probabilities are scaled by the largest of a layer before they are
    differentiated, and back afterwards in float64, so that those of long answers do not vanish.
    """
    ids = torch.tensor([[*prompt, *answer[:-1]]], device=model.device)
    place, length = (torch.tensor([at], device=model.device) for at in (len(prompt) - 1, ids.shape[1]))
    layers, size = range(model.n_layers), max(1, ATTRIBUTED_TOKENS // (steps * len(answer)))
    outputs = {("out", layer): model.mlp_out(layer) for layer in layers}
    with trace(outputs | {("block", layer): model.block(layer) for layer in layers}) as found:
        later_blocks, _ = restart(model, ids, place, length, 0)
    return torch.cat([_attribute_layers(later_blocks, found, layers[first : first + size], answer, steps) for first in layers[::size]])


def _attribute_layers(
    later_blocks: Restart, found: Trace[tuple[str, int]], layers: Sequence[int], answer: Sequence[int], steps: int
) -> Float64[Tensor, "some_layers d_in"]:
    """Attributions of neighbouring layers, differentiated in one pass back; the activations' dependence on each other left out."""
    model, at = later_blocks.model, -len(answer)
    precision = torch.promote_types(model.dtype, torch.float32)
    activations: list[Tensor] = []
    scaled: list[Tensor] = []
    hidden = found.outputs["block", layers[0]][:0, at:]
    for layer in range(layers[0], model.n_layers):
        hidden = later_blocks.run_block(layer, hidden) if len(hidden) else hidden
        if layer in layers:
            activations.append(found.inputs["out", layer][0, at].to(precision))
            scales = torch.linspace(0, 1, steps, dtype=precision, device=activations[-1].device)[:, None]
            scaled.append((scales * activations[-1]).requires_grad_())
            change = (scaled[-1] - activations[-1]) @ model.weight(layer).to(precision).mT
            change = model.block_output_change(layer, found.outputs["out", layer][0, at].to(precision), change)
            block = found.outputs["block", layer][:, at:].expand(steps, -1, -1)
            begun = torch.cat([block[:, :1] + change[:, None].to(block.dtype), block[:, 1:]], dim=1)
            hidden = torch.cat([hidden.to(begun.device), begun])
    log_probs = model.unembed(model.final_norm(hidden)).to(precision).log_softmax(-1)
    log_probs = (
        log_probs.gather(2, torch.tensor(answer, device=log_probs.device).expand(len(log_probs), -1)[..., None]).sum((1, 2)).view(-1, steps)
    )
    largest = log_probs.detach().amax(1)
    gradients = torch.autograd.grad((log_probs - largest[:, None]).exp().sum(), scaled)
    return torch.stack(
        [
            ((activation * gradient.mean(0)).double() * scale.to(gradient.device)).to(model.device)
            for activation, gradient, scale in zip(activations, gradients, largest.double().exp(), strict=True)
        ]
    )


def deltas_of(model: LanguageModel, records: Sequence[StepRecord]) -> Deltas:
    """The change of each layer's weight, summed over records in their order; only layers that change."""
    deltas: Deltas = {}
    for record in records:
        _add(model, deltas, record)
    return deltas


def _add(model: LanguageModel, deltas: Deltas, record: StepRecord) -> list[int]:
    """Add a record's vector to its columns; returns the layers that they are in."""
    neurons, value = record["neurons"].long(), record["value"]
    layers = neurons[:, 0].unique().tolist()
    for layer in layers:
        if layer not in deltas:
            deltas[layer] = torch.zeros(model.weight(layer).shape, dtype=torch.float64, device=model.weight(layer).device)
        deltas[layer][:, neurons[neurons[:, 0] == layer, 1]] += value[:, None].to(deltas[layer].device)
    return layers


class KnowledgeNeuronsSession(AdditiveSession):
    """Editing in progress."""

    def __init__(self, settings: KnowledgeNeurons, model: LanguageModel, state: State) -> None:
        super().__init__(model, state.records, deltas_of(model, state.records))
        self._settings = settings
        self._l1 = {layer: l1_per_element(model.weight(layer)) for layer in range(model.n_layers)}

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Write a request's target into the neurons that its original answer hangs on.

        Raises:
            NoOriginalAnswer: if the request has no true target.
            Diverged: if attributions stop being finite.
        """
        (request,), model = batch, self._model
        if not request.target_true.strip():
            raise NoOriginalAnswer(f"request {request.request_id} has no true target, which neurons are searched for; leave the fact out")
        prompt, target = encode_pair(model, request.prompt, request.target)
        of_prompt, answer = encode_pair(model, request.prompt, request.target_true)
        before = LiveModel(model).score_ids([(prompt, target)])
        found = attributions(model, of_prompt, answer, self._settings.steps)
        if not bool(found.isfinite().all()):
            raise Diverged("the attributions of neurons are not finite")
        neurons = (found > self._settings.threshold * found.max().clamp(min=0)).nonzero()
        self._records.append({"neurons": neurons.int().cpu().contiguous(), "value": self._value(prompt, target, before).cpu()})
        for layer in _add(model, self._deltas, self._records[-1]):
            self._originals.setdefault(layer, model.weight(layer).clone())
            self._write(layer)
            self._l1[layer] = l1_per_element(model.weight(layer))
        looks = {"before": before, "after": LiveModel(model).score_ids([(prompt, target)])}
        numbers = {f"target_probability_{name}": float((-scores.mean_nll()[0]).exp()) for name, scores in looks.items()}
        log = [(quantity, None, value) for quantity, value in {**numbers, "neurons": float(len(neurons))}.items()]
        norms = {layer: float(delta.norm()) for layer, delta in self._deltas.items()}
        by_layer = {"delta_norm": dict.fromkeys(self._l1, 0.0) | norms, "l1": self._l1}
        return StepLog((*log, *((quantity, layer, value) for quantity, values in by_layer.items() for layer, value in values.items())))

    @torch.no_grad()
    def _value(self, prompt: list[int], target: list[int], scores: Scores) -> Float64[Tensor, " d_out"]:
        """What is added to the value column of each neuron; the scores say how far the model's own completion is the target."""
        own = [int(token) for token in scores.predicted[0]]
        agreed = next((place for place, pair in enumerate(zip(own, target, strict=True)) if pair[0] != pair[1]), len(target) - 1)
        ids = prompt + own[: agreed + 1]
        for _ in target[agreed + 1 :]:
            hidden = self._model.network.base_model(input_ids=torch.tensor([ids], device=self._model.device), use_cache=False)
            ids.append(int(self._model.unembed(hidden.last_hidden_state[0, -1]).argmax()))
        embedding = self._model.network.get_input_embeddings().get_parameter("weight").detach()
        new, old = (embedding[torch.tensor(tokens, device=embedding.device)].double().sum(0) for tokens in (target, ids[len(prompt) :]))
        return (2.0 if len(target) == 1 else 1.0) * (new - old)


class KnowledgeNeuronsEditor(RecordEditor):
    """Knowledge neurons as an editor; a step's own change can be taken out again."""

    kind: StateKind = "additive"

    def __init__(self, settings: KnowledgeNeurons) -> None:
        self.settings = settings

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[KnowledgeNeuronsSession]:
        """A session that continues from a state."""
        with model.restoring(range(model.n_layers)):
            yield KnowledgeNeuronsSession(self.settings, model, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[LiveModel]:
        """The model with the sum of a state's records in its weights."""
        with apply_deltas(model, deltas_of(model, state.records)) as view:
            yield view

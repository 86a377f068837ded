"""UltraEdit and StableEdit: a change of weights in closed form from keys and gradients, normalised over all turns so far.

A turn of requests has t target tokens. At each edited matrix, with a row of X per token for what enters it where the token is
predicted, and a row of the gradient for what leaves it:

    v = −η ‖x̂‖² ĝ,    Δᵀ = (XᵀX + α I)⁻¹ XᵀV = Xᵀ (XXᵀ + α I)⁻¹ V

with x̂ and ĝ normalised by `lifelong_statistics.py`, which takes the turn in before it is used (Gu et al. 2026; Ma et al. 2026).
No training, no subject: one pass back, and a system as large as the tokens of the turn. This is a hypernetwork of MALMEN before any
training, but for x̂ twice in the coefficient.

As released, but for this: gradients are those of the sum over tokens, as means over sub-batches weigh a token by how requests are
grouped; the variance is exact in both methods; the covariance's smallest eigenvalues are bounded relative to the largest, so that
the scale of the loss has no effect; and a warm-up takes statistics without writing any weight. A first turn of one token has no
spread and changes nothing; its statistics count.

A record holds of each layer `x`, `g` and `v`. Taking one out takes its own change out. Statistics are those of the records that
are left, so later turns no longer know of it; changes that were computed in its presence stay as they are.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float64
from torch import Tensor

from d4s.editors.answer_gradients import read_answer_gradients
from d4s.editors.edit_requests import EditRequest
from d4s.editors.gradient_settings import GradientRegression
from d4s.editors.lifelong_statistics import LifelongStatistics
from d4s.editors.prompts import check_length
from d4s.editors.protocol import Diverged, Prepared, State, StateKind, StepLog, StepRecord, Targets
from d4s.editors.states import RecordEditor, RecordState
from d4s.editors.weights import apply_deltas, write_weight
from d4s.metrics.weight_norms import l1_per_element
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode_pairs
from d4s.models.views import LiveModel

Weight = Float64[Tensor, "d_out d_in"]


def regress(keys: Float64[Tensor, "t d_in"], values: Float64[Tensor, "t d_out"], ridge: float) -> Weight:
    """Δ = Vᵀ (XXᵀ + α I)⁻¹ X, which minimises ‖X Δᵀ − V‖² + α ‖Δ‖²."""
    gram = keys @ keys.mT + ridge * torch.eye(len(keys), dtype=keys.dtype, device=keys.device)
    return values.mT @ torch.cholesky_solve(keys, torch.linalg.cholesky(gram))


def deltas_of(settings: GradientRegression, model: LanguageModel, records: Sequence[StepRecord]) -> dict[int, Weight]:
    """The change of each layer's weight, summed over records in their order."""
    deltas: dict[int, Weight] = {}
    for layer in settings.layers if records else ():
        device = model.state_device(layer)
        deltas[layer] = torch.zeros(model.d_out(layer), model.d_in(layer), dtype=torch.float64, device=device)
        for record in records:
            _add(settings, deltas[layer], record, layer)
    return deltas


def _add(settings: GradientRegression, delta: Weight, record: StepRecord, layer: int) -> None:
    """Add a record's change of a layer."""
    keys, values = (record[f"{layer}.{name}"].to(delta.device).double() for name in ("x", "v"))
    delta += regress(keys, values, settings.ridge)


class GradientRegressionSession:
    """Editing in progress. Weights are the original ones plus the records' sum, added in float64 and rounded once."""

    def __init__(self, settings: GradientRegression, model: LanguageModel, prepared: Prepared, state: State) -> None:
        self._settings, self._model = settings, model
        self._records = list(state.records)
        self._statistics = LifelongStatistics(model, settings.layers, whiten=settings.whiten, saved=prepared.extras)
        self._originals = {layer: model.weight(layer).clone() for layer in settings.layers}
        self._deltas = {
            layer: torch.zeros(original.shape, dtype=torch.float64, device=model.state_device(layer))
            for layer, original in self._originals.items()
        } | deltas_of(settings, model, self._records)
        for record in self._records:
            self._count(record)
        for layer in settings.layers if self._records else ():
            self._write(layer)

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Edit a turn of requests.

        Raises:
            PromptTooLong: if a prompt with its target exceeds the model's context.
            Diverged: if keys or gradients are not finite.
        """
        settings, model = self._settings, self._model
        pairs = encode_pairs(model, [request.prompt for request in batch], [request.target for request in batch])
        for request, (prompt, target) in zip(batch, pairs, strict=True):
            check_length(model, request, len(prompt) + len(target) - 1)
        found = read_answer_gradients(model, pairs, settings.layers)
        if not all(bool(part.isfinite().all()) for parts in (found.keys, found.gradients) for part in parts.values()):
            raise Diverged("keys or gradients of the targets are not finite")
        record = {f"{layer}.x": found.keys[layer].cpu() for layer in settings.layers}
        record |= {f"{layer}.g": found.gradients[layer].cpu() for layer in settings.layers}
        self._count(record)
        for layer in settings.layers:
            record[f"{layer}.v"] = self._values(record, layer)
            _add(settings, self._deltas[layer], record, layer)
            self._write(layer)
        self._records.append(record)
        before, after = found.mean_nll.cpu(), LiveModel(model).score_ids(pairs).mean_nll()
        numbers = {"target_probability_before": before, "target_probability_after": after}
        log = [(quantity, None, float((-nll).exp().mean())) for quantity, nll in numbers.items()]
        return StepLog((*log, *self._norms()))

    def state(self) -> State:
        """The records so far."""
        return RecordState("additive", tuple(self._records))

    def live(self) -> LiveModel:
        """The model as edited so far."""
        return LiveModel(self._model, dict(self._originals))

    def _count(self, record: StepRecord) -> None:
        """Take a turn into the statistics."""
        layers = self._settings.layers
        keys, gradients = ({layer: record[f"{layer}.{name}"] for layer in layers} for name in ("x", "g"))
        self._statistics.add(keys, gradients)

    def _values(self, record: StepRecord, layer: int) -> Tensor:
        """What the outputs of a layer should change by: a row per token, in the precision of the keys."""
        keys, gradients = (record[f"{layer}.{name}"].to(self._deltas[layer].device).double() for name in ("x", "g"))
        keys_hat, gradients_hat = self._statistics[layer].normalise(keys, gradients)
        values = -self._settings.lr * keys_hat.square().sum(1, keepdim=True) * gradients_hat
        return values.to(record[f"{layer}.x"].dtype).cpu()

    def _write(self, layer: int) -> None:
        write_weight(self._model, layer, self._originals[layer], self._deltas[layer])

    def _norms(self) -> Iterator[tuple[str, int | None, float]]:
        for layer, delta in self._deltas.items():
            yield "delta_norm", layer, float(delta.norm())
            yield "l1", layer, l1_per_element(self._model.weight(layer))


class GradientRegressionEditor(RecordEditor):
    """The regression as an editor; a turn's own change can be taken out again."""

    kind: StateKind = "additive"

    def __init__(self, settings: GradientRegression) -> None:
        self.settings = settings

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[GradientRegressionSession]:
        """A session that continues from a state."""
        with model.restoring(self.settings.layers):
            yield GradientRegressionSession(self.settings, model, prepared, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[LiveModel]:
        """The model with the sum of a state's records in its weights."""
        with apply_deltas(model, deltas_of(self.settings, model, state.records)) as view:
            yield view

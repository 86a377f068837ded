"""UltraEdit, StableEdit, MALMEN and RLEdit: a change of weights in closed form from keys and gradients.

A turn of requests has t target tokens. At each edited matrix, with a row of X per token for what enters it where the token is
predicted, and a row of the gradient for what leaves it:

    v = −η c ĝ,    Δᵀ = (XᵀX + α I)⁻¹ XᵀV = Xᵀ (XXᵀ + α I)⁻¹ V

with x̂ and ĝ normalised by `lifelong_statistics.py`, which takes the turn in before it is used, and c = ‖x̂‖² (UltraEdit, Gu et al.
2026; StableEdit, Ma et al. 2026). No training, no subject: one pass back, and a system as large as the tokens of the turn. With
`network: {kind: trained}` a hypernetwork (`hypernetwork.py`) rewrites x̂ and ĝ, c = x·x̃, η and α are learnt too, and statistics are those
of the facts that it was trained on (MALMEN, Tan et al. 2024; RLEdit, Li et al. 2025). UltraEdit is that before any training, but
for x̂ twice in the coefficient.

As released, but for this: gradients are those of the sum over tokens, as means over sub-batches weigh a token by how requests are
grouped; the variance is exact in all methods; the covariance's smallest eigenvalues are bounded relative to the largest, so that
the scale of the loss has no effect; and a warm-up takes statistics without writing any weight. A first turn of one token has no
spread and changes nothing; its statistics count. How networks are trained, and what of that is ours: `hypernetwork_training.py`.

A record holds of each layer `x`, `g` and `v`; with a network `x` and `v`. Taking one out takes its own change out. Without a network
statistics are those of the records that are left, so later turns no longer know of it; changes that were computed in its presence
stay as they are.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from d4s.editors.gradient_changes import Weight, regress, shifts
from d4s.editors.gradient_session import GradientEditor, TurnRule
from d4s.editors.gradient_settings import GradientRegression
from d4s.editors.hypernetwork import TrainedRule
from d4s.editors.lifelong_statistics import LifelongStatistics
from d4s.editors.protocol import Prepared, StepRecord
from d4s.models.language_model import LanguageModel


class LifelongRule:
    """A turn normalised by all turns so far, those of records and of a warm-up included."""

    everywhere = False

    def __init__(
        self, settings: GradientRegression, model: LanguageModel, saved: Mapping[str, Tensor], records: Sequence[StepRecord]
    ) -> None:
        self._settings, self._devices = settings, {layer: model.state_device(layer) for layer in settings.layers}
        self._statistics = LifelongStatistics(model, settings.layers, whiten=settings.whiten, saved=saved)
        self.layers = settings.layers
        for record in records:
            self._count(record)

    def record(self, keys: Mapping[int, Tensor], gradients: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Keys, gradients and what outputs should change by, a row per token, all in the precision of the keys."""
        record = {f"{layer}.x": keys[layer].cpu() for layer in self.layers}
        record |= {f"{layer}.g": gradients[layer].cpu() for layer in self.layers}
        self._count(record)
        return record | {f"{layer}.v": self._values(record, layer) for layer in self.layers}

    def change(self, record: StepRecord, layer: int) -> Weight:
        """The regression of a record's keys on what outputs should change by."""
        keys, values = (record[f"{layer}.{name}"].to(self._devices[layer]).double() for name in ("x", "v"))
        return regress(keys, values, self._settings.ridge)

    def _count(self, record: StepRecord) -> None:
        """Take a turn into the statistics."""
        keys, gradients = ({layer: record[f"{layer}.{name}"] for layer in self.layers} for name in ("x", "g"))
        self._statistics.add(keys, gradients)

    def _values(self, record: StepRecord, layer: int) -> Tensor:
        keys, gradients = (record[f"{layer}.{name}"].to(self._devices[layer]).double() for name in ("x", "g"))
        hats = self._statistics[layer].normalise(keys, gradients)
        values = shifts(keys, *hats, self._settings.lr, self._settings.coefficient)
        return values.to(record[f"{layer}.x"].dtype).cpu()


class GradientRegressionEditor(GradientEditor):
    """The regression as an editor."""

    def __init__(self, settings: GradientRegression) -> None:
        self.settings = settings

    def rule(self, model: LanguageModel, prepared: Prepared, records: Sequence[StepRecord]) -> TurnRule:
        """That of a trained network, or of all turns so far."""
        trained = self.settings.hypernetwork()
        if trained is not None:
            return TrainedRule(trained, model, prepared.extras)
        return LifelongRule(self.settings, model, prepared.extras, records)

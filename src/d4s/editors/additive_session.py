"""What sessions have in common whose records add up: weights are the original ones plus the records' sum, in float64, rounded once.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Mapping, Sequence

from jaxtyping import Float64
from torch import Tensor

from d4s.editors.protocol import State, StepRecord
from d4s.editors.states import RecordState
from d4s.editors.weights import write_weight
from d4s.models.language_model import LanguageModel
from d4s.models.views import LiveModel


class AdditiveSession:
    """Editing in progress, with the records so far and their sum by layer."""

    def __init__(self, model: LanguageModel, records: Sequence[StepRecord], deltas: Mapping[int, Float64[Tensor, "d_out d_in"]]) -> None:
        self._model, self._records, self._deltas = model, list(records), dict(deltas)
        self._originals = {layer: model.weight(layer).clone() for layer in self._deltas}
        for layer in self._deltas if self._records else ():
            self._write(layer)

    def state(self) -> State:
        """The records so far."""
        return RecordState("additive", tuple(self._records))

    def live(self) -> LiveModel:
        """The model as edited so far."""
        return LiveModel(self._model, dict(self._originals))

    def _write(self, layer: int) -> None:
        write_weight(self._model, layer, self._originals[layer], self._deltas[layer])

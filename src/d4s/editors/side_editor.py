"""What editors with a trained side memory have in common: the model is never changed, and its view has the memory beside it.

Terms and symbols: docs/notation.md.
"""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from d4s.editors.edit_requests import EditRequest
from d4s.editors.protocol import EditSelection, Prepared, StateKind, StepRecord
from d4s.editors.side_views import SideModel
from d4s.editors.states import DenseState, check_dense
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import Pair, encode_pair


class DenseSideEditor:
    """An editor whose memory every step trains further, so that no edit can be told from the others."""

    kind: StateKind = "dense"

    def restore(self, records: Sequence[StepRecord], dense: Mapping[str, Tensor]) -> DenseState:
        """The state that consists of a saved memory."""
        return DenseState(dict(dense))

    def check_removable(self, selection: EditSelection, preceding: EditSelection | None = None) -> None:
        """Refuse to take out or bring back any edit.

        Raises:
            NotRemovable: if there is such an edit.
        """
        check_dense(selection)

    def start(self, model: LanguageModel, prepared: Prepared) -> DenseState:
        """An empty memory."""
        return DenseState()


def encode_request(model: LanguageModel, request: EditRequest) -> Pair:
    """Token ids of a request's prompt and target."""
    return encode_pair(model, request.prompt, request.target)


def probability(view: SideModel, pair: Pair) -> float:
    """exp(mean token log-probability) of a target after its prompt, by what the gate chooses."""
    return math.exp(-float(view.score_ids([pair]).mean_nll()[0]))

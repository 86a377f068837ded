"""MEND: an edit's gradient, rewritten by a trained network, as a change of weights (Mitchell et al. 2022).

The gradient of an edit's loss with respect to a matrix is a sum of outer products over the tokens of prompt and target, of what enters
the matrix and the loss's gradient at what leaves it. The network (`hypernetwork.py`) rewrites both factors of every token:

    Δ = −η Σ g̃ x̃ᵀ

so that before any training it is a step of gradient descent on factors that are normalised. Tokens whose gradient is 0 are left out: at the
last block's matrix all but those where the target is predicted.

As released, but for this: MLP output matrices alone are edited; the step is downhill (the release adds η times the product, and learns the
sign); statistics are taken before the training (`hypernetwork_training.py`).

A record holds of each layer the rows `x` = x̃ and `v` = −η g̃. Taking one out takes its own change out. The network is trained at the
original weights, so edits after many others are those of a network that never saw such weights.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Sequence

from d4s.editors.gradient_session import GradientEditor, TurnRule
from d4s.editors.gradient_settings import Mend
from d4s.editors.hypernetwork import TrainedRule
from d4s.editors.protocol import Prepared, StepRecord
from d4s.models.language_model import LanguageModel


class MendEditor(GradientEditor):
    """MEND as an editor."""

    def __init__(self, settings: Mend) -> None:
        self.settings = settings

    def rule(self, model: LanguageModel, prepared: Prepared, records: Sequence[StepRecord]) -> TurnRule:
        """That of the trained network."""
        return TrainedRule(self.settings.hypernetwork(), model, prepared.extras)

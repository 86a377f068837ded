"""Targets of the windows of long answers, one window of each answer after another (AnyEdit).

The shift δ_w of window w, at the token before it, has the least loss of `target_optimisation` with the window as its target, given prompt
and earlier windows, and with δ_1 … δ_{w−1} in place at theirs (Jiang et al. 2025). Answers are independent: all their first windows are
optimised at once, then all their second ones, and so on.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from d4s.editors.held_shifts import HeldShifts
from d4s.editors.parts.target_rule import TargetSettings
from d4s.editors.prompts import PromptSet
from d4s.editors.protocol import Targets
from d4s.editors.target_optimisation import optimise
from d4s.models.language_model import LanguageModel


def optimise_windows(model: LanguageModel, batch: Sequence[PromptSet], settings: TargetSettings) -> Targets:
    """Targets of windows on the model as it is now, one row each; all windows of an answer follow each other in the batch."""
    found: dict[int, Targets] = {}
    for window in range(1 + max(one.window for one in batch)):
        rows = [row for row, one in enumerate(batch) if one.window == window]
        held: list[HeldShifts] = [[_shift_of(batch[one], found[one]) for one in range(row - window, row)] for row in rows]
        targets = optimise(model, [batch[row] for row in rows], settings, held)
        found |= {row: targets[number : number + 1] for number, row in enumerate(rows)}
    return Targets.concatenate([found[row] for row in range(len(batch))])


def _shift_of(one: PromptSet, targets: Targets) -> tuple[int, Float[Tensor, " d_out"]]:
    """Where a window is looked up, and its shift."""
    return one.prompts[0].subject_last, targets.hidden_shift[0]

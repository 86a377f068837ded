"""A tiny model in float64 on which formulas are compared, and how."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from d4s.editors.editor_settings import resolve
from d4s.editors.families import build
from d4s.editors.moments import SecondMoment, collect_moments
from d4s.editors.prompts import PromptSet
from d4s.editors.protocol import Prepared
from d4s.editors.target_optimisation import optimise, optimise_in_turn
from d4s.models.language_model import LanguageModel
from tests.cases import SMALL
from tests.oracle import plain
from tests.tiny import tiny_model

EDITS = 20


def settings_for(preset: str, small: dict[str, Any] = SMALL, **changes: Any):
    return resolve("tested", {"preset": preset, **small, **changes}, "mini")


class Bench:
    """A tiny model in float64 with moments of its own and a list of requests."""

    def __init__(self, settings: Any, edits: int, family: str = "gpt2") -> None:
        self.settings, self.model = settings, tiny_model(family, dtype=torch.float64)
        rows = torch.randint(2, 60, (60, 16), generator=torch.Generator().manual_seed(1))
        self.moments: dict[int, SecondMoment] = collect_moments(self.model, rows, settings.layers, 16, "text")
        self.texts = plain.rewritings_of(self.model, plain.requests_of(edits))
        prepare = settings.prepare_settings()
        self.extras = {f"{layer}.basis": self._free(layer) for layer in prepare.basis.layers} if prepare and prepare.basis else {}

    def _free(self, layer: int) -> Tensor:
        values, vectors = torch.linalg.eigh(self.moments[layer].mean())
        return vectors[:, values < self.settings.preservation.threshold]

    @property
    def prepared(self) -> Prepared:
        return Prepared(plain.PREFIXES, self.moments, self.extras)

    def run(self, texts: Sequence[PromptSet], batch: int = 1) -> list[dict[int, Tensor]]:
        """Changes of weights after each batch."""
        editor, history = build(self.settings), []
        original = {layer: self.model.weight(layer).clone() for layer in self.settings.layers}
        first = self.settings.layers[0 if self.settings.residual_schedule.has_own_targets else -1]
        target = self.settings.target.model_copy(update={"layer": first})
        with editor.editing(self.model, self.prepared, editor.start(self.model, self.prepared)) as session:
            for start in range(0, len(texts), batch):
                part = texts[start : start + batch]
                at = self.unedited if self.settings.shared_targets() else self.model
                targets = optimise(at, part, target) if target.align is None else optimise_in_turn(at, part, target, self.settings.keys)
                session.apply(part, targets)
                history.append({layer: self.model.weight(layer) - original[layer] for layer in original})
        return history

    @property
    def unedited(self) -> LanguageModel:
        return tiny_model(self.model.adapter.model_type, dtype=torch.float64)


def agree(found: list[dict[int, Tensor]], expected: list[dict[int, Tensor]], tolerance: float = 1e-10) -> None:
    assert len(found) == len(expected)
    for step, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for layer, delta in theirs.items():
            gap = float((ours[layer] - delta).norm() / delta.norm())
            assert gap < tolerance, f"step {step}, layer {layer}: relative distance {gap:.1e}"

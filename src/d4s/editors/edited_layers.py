"""One edited layer of a session: its original weight, its change so far, and the parts that add a step to it.

The loop gives keys K and weighted residuals R; the history (`parts/histories.py`) turns them into a step Rᵀ G with the gain G
of the keys, the step transform changes it, and the layer adds it to its change and says what a record holds of it.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from d4s.editors.least_squares import LeastSquaresSolver, PreservedMatrix
from d4s.editors.least_squares_settings import LocateThenEdit
from d4s.editors.parts.part_families import LayerTransform
from d4s.editors.protocol import Diverged, Prepared, StepRecord
from d4s.models.language_model import LanguageModel

Weight = Float64[Tensor, "d_out d_in"]
Keys = Float64[Tensor, "b d_in"]
Context = Float64[Tensor, "c d_in"]
Residuals = Float64[Tensor, "b d_out"]
Square = Float64[Tensor, "r r"]
Basis = Float64[Tensor, "d_in r"]
RECORDS_PER_CHUNK = 256  # of the keys with which a solver is recomputed


class EditedLayer:
    """A layer of a session: number, share of the residual, original weight, its change so far, what is preserved, and its parts."""

    def __init__(self, settings: LocateThenEdit, index: int, model: LanguageModel, prepared: Prepared) -> None:
        self.settings, self.number = settings, settings.layers[index]
        self.residual_weight = settings.residual_schedule.weight(index, len(settings.layers))
        self.original: Float[Tensor, "d_out d_in"] = model.weight(self.number).clone()
        self.delta: Weight = torch.zeros(self.original.shape, dtype=torch.float64, device=model.state_device(self.number))
        self._cache: MutableMapping[int, tuple[Any, Any]] | None = prepared.solvers
        cached = None if self._cache is None else self._cache.get(self.number)
        self.preserved: PreservedMatrix = cached[0] if cached else settings.preservation.matrix(self.number, prepared, model)
        self.history = settings.history.at(self)
        self.transform = LayerTransform() if settings.step_transform is None else settings.step_transform.at(self)

    # --- what the loop asks ---------------------------------------------------------------------------------------

    def fit(
        self, keys: Keys, unprefixed: Keys, weighted_residuals: Residuals, *, preserve_keys: bool = True, context: Context | None = None
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Change the weight for keys and what they should add to the output; the record's tensors, and numbers to be logged.

        `context` are keys at which this step adds nothing, none where no setting asks.

        Raises:
            Diverged: if keys or residuals are not finite.
        """
        context_is_finite = context is None or bool(context.isfinite().all())
        if not (keys.isfinite().all() and weighted_residuals.isfinite().all() and context_is_finite):
            raise Diverged(f"keys or residuals at layer {self.number} are not finite")
        record, numbers = self.history.fit(self, keys, unprefixed, weighted_residuals, preserve_keys=preserve_keys, context=context)
        return record, numbers | ({"preserved_ridge": self.preserved.ridge} if self.preserved.ridge else {})

    @property
    def records_keys(self) -> bool:
        """Whether a record must say which keys a step had, as `LAYER.keys`, since later steps ask for them."""
        return not self._is_dense and (self.settings.history.remembers or self.transform.needs_keys)

    def replay(self, record: StepRecord) -> None:
        """Take a recorded step over, with the very operations that made it."""
        self.history.replay(self, record)

    def preserve_keys(self, keys: Keys) -> None:
        """Hold keys fast from now on, where the history remembers keys."""
        self.history.preserve_keys(keys)

    def refactor(self, records: Sequence[StepRecord]) -> float | None:
        """Recompute the inverses of recursive solvers from these records; the largest drift, None where no solver is recursive."""
        recursive = (*self.history.recursive(self), *self.transform.recursive())
        return max((solver.refactor(self._sum(empty, basis, records)) for solver, empty, basis in recursive), default=None)

    def dense(self) -> dict[str, Tensor]:
        """The layer's part of a dense state."""
        return {f"{self.number}.{name}": tensor.cpu().clone() for name, tensor in self._tensors().items()}

    def load(self, dense: Mapping[str, Tensor]) -> None:
        """Continue from the layer's part of a dense state."""
        for name, tensor in self._tensors().items():
            tensor.copy_(dense[f"{self.number}.{name}"])

    # --- what parts ask -------------------------------------------------------------------------------------------

    def make_solver(self) -> LeastSquaresSolver:
        """The solver of what is preserved before any keys; a copy of the cached one, where sessions share it."""
        if self._cache is None:
            return self._new_solver()
        if self.number not in self._cache:
            self._cache[self.number] = self.preserved, self._new_solver()
        return deepcopy(self._cache[self.number][1])

    def keys_of(self, record: StepRecord) -> Keys | None:
        """The keys that a recorded step had; None where the record does not say."""
        name = f"{self.number}.keys"
        return record[name].to(self.delta.device).double() if name in record else None

    def add_factors(self, left: Residuals, right: Keys) -> tuple[dict[str, Tensor], float]:
        """Add leftᵀ · right to the change; what a record holds of it, and its norm."""
        record = {} if self._is_dense else {f"{self.number}.left": left.cpu(), f"{self.number}.right": right.cpu()}
        return record, self.write(left, right)

    def write(self, left: Residuals, right: Keys) -> float:
        """Add leftᵀ · right to the change, and return its norm.

        Factors of rounds are added one by one, since a record joins all rounds and has to give the same bits again.
        """
        size = len(left) if self.settings.rounds is None else 1
        for some, others in zip(left.split(size), right.split(size), strict=True):
            self.delta.addmm_(some.mT, others)
        return float(((left @ left.mT) * (right @ right.mT)).sum().clamp(min=0).sqrt())

    # --- inside ---------------------------------------------------------------------------------------------------

    @property
    def _is_dense(self) -> bool:
        return self.settings.state_kind == "dense"

    def _new_solver(self) -> LeastSquaresSolver:
        settings = self.settings
        return self.preserved.make_solver(
            batch=settings.batch, grows=settings.history.remembers, neurons=settings.neurons, is_dense=self._is_dense
        )

    def _tensors(self) -> dict[str, Tensor]:
        """What a dense state says of the layer, by name, as the tensors that the layer itself works with."""
        return {"delta": self.delta, **self.history.tensors(), **self.transform.tensors()}

    def _sum(self, empty: Square, basis: Basis | None, records: Sequence[StepRecord]) -> Square:
        """A matrix with the products of all recorded keys added."""
        for start in range(0, len(records), RECORDS_PER_CHUNK):
            chunk = [record[f"{self.number}.keys"] for record in records[start : start + RECORDS_PER_CHUNK]]
            keys = torch.cat(chunk).to(empty.device).double()
            keys = keys if basis is None else keys @ basis
            empty.addmm_(keys.mT, keys)
        return empty


def layers_of(settings: LocateThenEdit, model: LanguageModel, prepared: Prepared) -> dict[int, EditedLayer]:
    """The edited layers by number."""
    return {layer: EditedLayer(settings, index, model, prepared) for index, layer in enumerate(settings.layers)}

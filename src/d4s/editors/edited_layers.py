"""One edited layer of a session: what it preserves, what earlier edits left, and the change of weights that a step adds.

With keys K, wanted outputs R (rows) and the gain G of the keys (`solve.py`) a step changes the weight by

    RᵀG                     where earlier edits stay as they are (MEMIT, ROME, AlphaEdit)
    (R − K Δᵀ)ᵀ G           where all edits are fitted together from the original weights (D4S)
    (R + K Dᵀ)ᵀ G − D       where D of the step before was solved for and not written (OTE-SE)

and `AdaptiveRefitLayer` refits all edits at each step, with a weight of the preserved matrix that follows a queue (LyapLock).

Terms and symbols: docs/notation.md.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from d4s.editors.editor_settings import LocateThenEdit
from d4s.editors.least_squares import (
    DirectSolver,
    LeastSquaresSolver,
    ProjectedSolver,
    RecursiveSolver,
    SubsetSolver,
    choose_solver,
    exact_gain,
    factor,
    factorable,
    preserved_matrix,
    solve_delta,
)
from d4s.editors.part_settings import IdentityPreservation, MomentPreservation, Preservation, Rect, SimIE
from d4s.editors.protocol import Diverged, Prepared, StepRecord
from d4s.editors.residual_schedule import residual_weight
from d4s.editors.step_transforms import RectTransform, SphereTransform, build_step_transform
from d4s.models.language_model import LanguageModel

log = logging.getLogger(__name__)
Weight = Float64[Tensor, "d_out d_in"]
Keys = Float64[Tensor, "b d_in"]
Residuals = Float64[Tensor, "b d_out"]
Square = Float64[Tensor, "r r"]
Basis = Float64[Tensor, "d_in r"]
RECORDS_PER_CHUNK = 256  # of the keys with which a solver is recomputed
LOSS_ROUNDING = 1e-12  # of what the original weight puts out: below lies rounding, where an edit found nothing to do


@dataclass(frozen=True, slots=True)
class PreservedMatrix:
    """What a layer preserves: A₀, within a basis where the method is confined to one, and the ridge without which it has no factor."""

    matrix: Square
    basis: Basis | None
    ridge: float = 0.0

    @classmethod
    def of(cls, settings: Preservation, layer: int, prepared: Prepared, model: LanguageModel) -> "PreservedMatrix":
        """The base that settings describe; a second moment that has no factor gets a ridge, and the log says so.

        Raises:
            SolveError: if it has no factor even so.
        """
        device = model.state_device(layer)
        if isinstance(settings, MomentPreservation):
            requested = preserved_matrix(prepared.moments[layer].mean().to(device), settings.weight, settings.ridge)
            matrix, ridge = factorable(requested, f"the preserved matrix of layer {layer}")
            if ridge:
                log.warning("layer %s: the preserved matrix has no Cholesky factor; %.1e was added to its diagonal", layer, ridge)
            return cls(matrix, None, ridge)
        basis = None if isinstance(settings, IdentityPreservation) else prepared.extras[f"{layer}.basis"].to(device)
        size = model.d_in(layer) if basis is None else basis.shape[1]
        return cls(settings.weight * torch.eye(size, dtype=torch.float64, device=device), basis)

    def make_solver(self, settings: LocateThenEdit) -> LeastSquaresSolver:
        """Its precision, to which rows may be added."""
        grows = settings.history != "none"
        if settings.neurons < 1:
            return SubsetSolver(self.matrix, settings.neurons)
        if grows and settings.state_kind == "dense":
            solver: LeastSquaresSolver = DirectSolver(self.matrix)
        else:
            solver = choose_solver(self.matrix, batch=settings.batch, grows=grows)
        return solver if self.basis is None else ProjectedSolver(solver, self.basis)

    def solve(self, residuals: Float64[Tensor, "n d_out"], keys: Float64[Tensor, "n d_in"]) -> Weight:
        """The change that fits all rows at once."""
        if self.basis is None:
            return solve_delta(residuals, keys, self.matrix)
        return solve_delta(residuals, keys @ self.basis, self.matrix) @ self.basis.mT


class EditedLayer(ABC):
    """What layers of all histories share: number, share of the residual, original weight, its change so far, what is preserved."""

    def __init__(self, settings: LocateThenEdit, index: int, model: LanguageModel, prepared: Prepared) -> None:
        self.settings, self.number = settings, settings.layers[index]
        self.residual_weight = residual_weight(settings.residual_schedule, index, len(settings.layers))
        self.original: Float[Tensor, "d_out d_in"] = model.weight(self.number).clone()
        self.delta: Weight = torch.zeros(self.original.shape, dtype=torch.float64, device=model.state_device(self.number))
        self.preserved = self._preserved(model, prepared)

    def _preserved(self, model: LanguageModel, prepared: Prepared) -> PreservedMatrix:
        """What the layer preserves."""
        return PreservedMatrix.of(self.settings.preservation, self.number, prepared, model)

    @property
    def records_keys(self) -> bool:
        """Whether a row must say which keys a step had, as `LAYER.keys`, since later steps ask for them."""
        return True

    @abstractmethod
    def fit(
        self, keys: Keys, unprefixed: Keys, weighted_residuals: Residuals, *, preserve_keys: bool = True
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Change the weight for keys and what they should add to the output; the row's tensors, and numbers to be logged.

        Raises:
            Diverged: if keys or wanted outputs are not finite.
        """

    @abstractmethod
    def replay(self, record: StepRecord) -> None:
        """Take a recorded step over, with the very operations that made it."""

    @abstractmethod
    def preserve_keys(self, keys: Keys) -> None:
        """Hold keys fast from now on, where the settings ask for it."""

    @abstractmethod
    def refactor(self, records: Sequence[StepRecord]) -> float | None:
        """Recompute the recursive solvers from these records; returns the largest drift, None where no solver is recursive."""

    def dense(self) -> dict[str, Tensor]:
        """The layer's part of a dense state."""
        return {f"{self.number}.{name}": tensor.cpu().clone() for name, tensor in self._tensors().items()}

    def load(self, dense: Mapping[str, Tensor]) -> None:
        """Continue from the layer's part of a dense state."""
        for name, tensor in self._tensors().items():
            tensor.copy_(dense[f"{self.number}.{name}"])

    def _tensors(self) -> dict[str, Tensor]:
        """What a dense state says of the layer, by name, as the tensors that the layer itself works with."""
        return {"delta": self.delta}

    def _check(self, keys: Keys, weighted_residuals: Residuals) -> None:
        if not (keys.isfinite().all() and weighted_residuals.isfinite().all()):
            raise Diverged(f"keys or residuals at layer {self.number} are not finite")

    def _numbers(self, **found: float) -> dict[str, float]:
        """Numbers of a step to be logged, with the ridge where what is preserved needed one."""
        return found | ({"preserved_ridge": self.preserved.ridge} if self.preserved.ridge else {})


class StepLayer(EditedLayer):
    """A layer whose steps are factors, `left` and `right` with change leftᵀ · right, or rows to be solved."""

    def __init__(self, settings: LocateThenEdit, index: int, model: LanguageModel, prepared: Prepared) -> None:
        self.solver: LeastSquaresSolver
        super().__init__(settings, index, model, prepared)
        self.step_transform = build_step_transform(settings.step_transform, self.original.to(self.delta.device))
        feedback = isinstance(settings.step_transform, Rect) and settings.step_transform.feedback
        self.defect: Weight | None = torch.zeros_like(self.delta) if feedback else None
        self._simie_solver = (
            RecursiveSolver(self._simie_matrix(settings.step_transform)) if isinstance(settings.step_transform, SimIE) else None
        )

    def _preserved(self, model: LanguageModel, prepared: Prepared) -> PreservedMatrix:
        """What the layer preserves, with its solver; both from the cache of `prepared`, where it has one and they are in it."""
        cache = prepared.solvers
        if cache is None or self.number not in cache:
            preserved = super()._preserved(model, prepared)
            self.solver = preserved.make_solver(self.settings)
            if cache is not None:
                cache[self.number] = preserved, deepcopy(self.solver)
            return preserved
        preserved, solver = cache[self.number]
        self.solver = deepcopy(solver)
        return preserved

    @property
    def _is_dense(self) -> bool:
        return self.settings.state_kind == "dense"

    @property
    def records_keys(self) -> bool:
        """Whether a row must say which keys a step had, as `LAYER.keys`, since later steps ask for them."""
        return not self._is_dense and (self.settings.history != "none" or self._simie_solver is not None)

    def fit(
        self, keys: Keys, unprefixed: Keys, weighted_residuals: Residuals, *, preserve_keys: bool = True
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Change the weight for keys and what they should add to the output; the row's tensors, and numbers to be logged.

        Raises:
            Diverged: if keys or wanted outputs are not finite.
        """
        self._check(keys, weighted_residuals)
        gain = self._gain(keys, unprefixed, preserve_keys=preserve_keys).contiguous()
        record: dict[str, Tensor] = {}
        if self.settings.history == "refit":
            update = self._add_factors(weighted_residuals - keys @ self.delta.mT, gain)
        elif isinstance(self.step_transform, RectTransform):
            update = self._add_entries(self.step_transform, keys, weighted_residuals, gain)
        else:
            right = self._right_factor(keys, gain)
            record = {} if self._is_dense else {f"{self.number}.left": weighted_residuals.cpu(), f"{self.number}.right": right.cpu()}
            update = self._add_factors(weighted_residuals, right)
        return record, self._numbers(key_gain=float((unprefixed * gain).sum(1).mean()), gain_norm=float(gain.norm()), update_norm=update)

    def preserve_keys(self, keys: Keys) -> None:
        """Hold keys fast from now on, where the settings ask for it."""
        if self.settings.history != "none":
            self.solver.add(keys)

    def refactor(self, records: Sequence[StepRecord]) -> float | None:
        """Recompute the recursive solvers from these records; returns the largest drift, None where no solver is recursive."""
        return max((solver.refactor(self._sum(empty, basis, records)) for solver, empty, basis in self._recursive()), default=None)

    def replay(self, record: StepRecord) -> None:
        """Take a recorded step over, with the very operations that made it."""
        device, name = self.delta.device, self.number
        keys = record[f"{name}.keys"].to(device).double() if f"{name}.keys" in record else None
        gain = self.solver.add(keys).contiguous() if keys is not None and self.settings.history != "none" else None
        if self.settings.history == "refit" and keys is not None and gain is not None:
            self._add_factors(self.residual_weight * residuals_of(record, name).to(device).double() - keys @ self.delta.mT, gain)
        elif f"{name}.left" in record:
            if keys is not None and self._simie_solver is not None:
                self._simie_solver.add(keys)
            self._add_factors(record[f"{name}.left"].to(device), record[f"{name}.right"].to(device))

    def _tensors(self) -> dict[str, Tensor]:
        """The change, the Gram matrix of earlier keys with what is preserved, and what was solved for and not written."""
        found = super()._tensors()
        if self.settings.history == "keys" and isinstance(self._inner, DirectSolver):
            found["gram"] = self._inner.matrix
        return found if self.defect is None else found | {"defect": self.defect}

    # --- parts of a step ------------------------------------------------------------------------------------------

    @property
    def _inner(self) -> LeastSquaresSolver:
        """The solver itself, where the method is confined to a basis the one within it."""
        return self.solver.inner if isinstance(self.solver, ProjectedSolver) else self.solver

    def _recursive(self) -> Iterator[tuple[RecursiveSolver, Square, Basis | None]]:
        """The recursive solvers of the layer, each with what it holds before any keys, and the basis that keys are seen in."""
        if isinstance(self._inner, RecursiveSolver):
            yield self._inner, self.preserved.matrix.clone(), self.preserved.basis
        if self._simie_solver is not None and isinstance(self.settings.step_transform, SimIE):
            yield self._simie_solver, self._simie_matrix(self.settings.step_transform), None

    def _simie_matrix(self, settings: SimIE) -> Square:
        """What SimIE's solver holds before any keys."""
        return settings.weight * torch.eye(self.delta.shape[1], dtype=torch.float64, device=self.delta.device)

    def _sum(self, empty: Square, basis: Basis | None, records: Sequence[StepRecord]) -> Square:
        """A matrix with the products of all recorded keys added."""
        for start in range(0, len(records), RECORDS_PER_CHUNK):
            keys = (
                torch.cat([record[f"{self.number}.keys"] for record in records[start : start + RECORDS_PER_CHUNK]])
                .to(empty.device)
                .double()
            )
            keys = keys if basis is None else keys @ basis
            empty.addmm_(keys.mT, keys)
        return empty

    def _gain(self, keys: Keys, unprefixed: Keys, *, preserve_keys: bool) -> Keys:
        if self.settings.solver == "hard_constraint":
            return exact_gain(self.solver, keys, keys if self.settings.keys.shared_key else unprefixed)
        grows = preserve_keys and self.settings.history != "none"
        return self.solver.add(keys) if grows else self.solver.gain(keys)

    def _right_factor(self, keys: Keys, gain: Keys) -> Keys:
        """The right factor, after what is done to a step of factors."""
        if self._simie_solver is not None:
            return (gain @ keys.mT) @ self._simie_solver.add(keys)
        return self.step_transform.of(gain) if isinstance(self.step_transform, SphereTransform) else gain

    def _add_factors(self, left: Residuals, right: Keys) -> float:
        """Add a step's factors; those of rounds one by one, since a row joins all rounds and has to give the same bits again."""
        size = len(left) if self.settings.rounds is None else 1
        for some, others in zip(left.split(size), right.split(size), strict=True):
            self.delta.addmm_(some.mT, others)
        return float(((left @ left.mT) * (right @ right.mT)).sum().clamp(min=0).sqrt())

    def _add_entries(self, step_transform: RectTransform, keys: Keys, left: Residuals, gain: Keys) -> float:
        """Solve for a step, with what the one before did not write, and add those of its entries that are written."""
        if self.defect is None:
            written = step_transform.of(left.mT @ gain, self.original.to(self.delta) + self.delta)
        else:
            step = (left + keys @ self.defect.mT).mT @ gain - self.defect
            written = step_transform.of(step, self.original.to(self.delta) + self.delta)
            self.defect = written - step
        self.delta += written
        return float(written.norm())


class AdaptiveRefitLayer(EditedLayer):
    """A layer refitted at each step, over all edits: Δ = G (q A₀ + M)⁻¹ with G = Σ r kᵀ and M = Σ k kᵀ.

    Residuals r count from the original weight: r = wanted + Δ k. After each step the loss of what is preserved,
    tr(Δ A₀ Δᵀ), moves the queue: q ← max(1, q + loss / (slack · first loss) − 1). The first loss is that of the first step
    that changes anything; until then the queue stays.
    """

    def __init__(self, settings: LocateThenEdit, index: int, model: LanguageModel, prepared: Prepared) -> None:
        super().__init__(settings, index, model, prepared)
        self._gram, self._cross = torch.zeros_like(self.preserved.matrix), torch.zeros_like(self.delta)
        self._queue, self._first_loss = 1.0, 0.0
        self._loss_floor = LOSS_ROUNDING * self._loss(self.original.to(self.delta))

    def fit(
        self, keys: Keys, unprefixed: Keys, weighted_residuals: Residuals, *, preserve_keys: bool = True
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Change the weight for keys and what they should add to the output; the row's tensors, and numbers to be logged.

        Raises:
            Diverged: if keys or wanted outputs are not finite.
        """
        self._check(keys, weighted_residuals)
        before, queue = self.delta, self._queue
        residuals = weighted_residuals + keys @ before.mT
        self._add_and_solve(keys, residuals)
        return {f"{self.number}.residuals": residuals.cpu()}, self._numbers(queue=queue, update_norm=float((self.delta - before).norm()))

    def replay(self, record: StepRecord) -> None:
        """Take a recorded step over, with the very operations that made it."""
        keys, residuals = (record[f"{self.number}.{name}"].to(self.delta.device).double() for name in ("keys", "residuals"))
        self._add_and_solve(keys, residuals)

    def preserve_keys(self, keys: Keys) -> None:
        """Nothing: whatever is fitted stays in every later solve."""

    def refactor(self, records: Sequence[StepRecord]) -> None:
        """Nothing: every step solves from the sums."""

    def _add_and_solve(self, keys: Keys, residuals: Residuals) -> None:
        """Add rows, solve, and move the queue."""
        self._gram.addmm_(keys.mT, keys)
        self._cross.addmm_(residuals.mT, keys)
        lower = factor(torch.add(self._gram, self.preserved.matrix, alpha=self._queue), "the preserved matrix plus the keys")
        self.delta = torch.cholesky_solve(self._cross.mT, lower).mT
        loss = self._loss(self.delta)
        self._first_loss = self._first_loss or (loss if loss > self._loss_floor else 0.0)
        if self._first_loss:
            self._queue = max(1.0, self._queue + loss / (self.settings.slack * self._first_loss) - 1.0)

    def _loss(self, change: Weight) -> float:
        """What a change does to what is preserved."""
        return float(((change @ self.preserved.matrix) * change).sum())


def layers_of(settings: LocateThenEdit, model: LanguageModel, prepared: Prepared) -> dict[int, EditedLayer]:
    """The edited layers by number, as the settings' history asks for them."""
    kind = AdaptiveRefitLayer if settings.history == "adaptive_refit" else StepLayer
    return {layer: kind(settings, index, model, prepared) for index, layer in enumerate(settings.layers)}


def residuals_of(record: StepRecord, layer: int) -> Tensor:
    """Residuals of a layer in a row; those that all layers share stand there once, as `residuals`."""
    own = f"{layer}.residuals"
    return record[own if own in record else "residuals"]

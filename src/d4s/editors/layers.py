"""One edited layer of a session: what it preserves, what earlier edits left, and the change of weights that a step adds.

With keys K, wanted outputs R (rows) and the gain G of the keys (`solve.py`) a step changes the weight by

    RᵀG                     where earlier edits stay as they are (MEMIT, ROME, AlphaEdit)
    (R − K Δᵀ)ᵀ G           where all edits are fitted together from the original weights (D4S)
    (R + K Dᵀ)ᵀ G − D       where D of the step before was solved for and not written (OTE-SE)

and `QueueLayer` solves anew each time, over all edits, with a weight of what is preserved that follows a queue (LyapLock).
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from d4s.editors.after import Largest, Projection, after_step
from d4s.editors.parts import IdentityPreservation, MomentPreservation, Preservation, Rect, SimIE
from d4s.editors.protocol import Diverged, Prepared, Row
from d4s.editors.settings import LocateThenEdit
from d4s.editors.solve import (
    Confined,
    Direct,
    Precision,
    Recursive,
    Subset,
    exact_gain,
    factor,
    factorable,
    precision,
    preserved,
    solve_delta,
)
from d4s.editors.spread import share
from d4s.models.language_model import LanguageModel

log = logging.getLogger(__name__)
Weight = Float64[Tensor, "d_out d_in"]
Keys = Float64[Tensor, "b d_in"]
Wanted = Float64[Tensor, "b d_out"]
Square = Float64[Tensor, "r r"]
Basis = Float64[Tensor, "d_in r"]
ROWS_AT_ONCE = 256  # of the keys that a solver is solved afresh for
NO_LOSS = 1e-12  # of what the original weight puts out: below lies rounding, where an edit found nothing to do


@dataclass(frozen=True, slots=True)
class Base:
    """What a layer preserves: A₀, within a basis where the method is confined to one, and the ridge without which it has no factor."""

    matrix: Square
    basis: Basis | None
    ridge: float = 0.0

    @classmethod
    def of(cls, settings: Preservation, layer: int, prepared: Prepared, model: LanguageModel) -> "Base":
        """The base that settings describe; a second moment that has no factor gets a ridge, and the log says so.

        Raises:
            SolveError: if it has no factor even so.
        """
        device = model.state_device(layer)
        if isinstance(settings, MomentPreservation):
            asked = preserved(prepared.moments[layer].mean().to(device), settings.weight, settings.ridge)
            matrix, ridge = factorable(asked, f"the preserved matrix of layer {layer}")
            if ridge:
                log.warning("layer %s: the preserved matrix has no Cholesky factor; %.1e was added to its diagonal", layer, ridge)
            return cls(matrix, None, ridge)
        basis = None if isinstance(settings, IdentityPreservation) else prepared.extras[f"{layer}.basis"].to(device)
        size = model.d_in(layer) if basis is None else basis.shape[1]
        return cls(settings.weight * torch.eye(size, dtype=torch.float64, device=device), basis)

    def hold(self, settings: LocateThenEdit) -> Precision:
        """Its precision, to which rows may be added."""
        grows = settings.history != "none"
        if settings.neurons < 1:
            return Subset(self.matrix, settings.neurons)
        if grows and settings.state_kind == "dense":
            held: Precision = Direct(self.matrix)
        else:
            held = precision(self.matrix, batch=settings.batch, grows=grows)
        return held if self.basis is None else Confined(held, self.basis)

    def solve(self, residuals: Float64[Tensor, "n d_out"], keys: Float64[Tensor, "n d_in"]) -> Weight:
        """The change that fits all rows at once."""
        if self.basis is None:
            return solve_delta(residuals, keys, self.matrix)
        return solve_delta(residuals, keys @ self.basis, self.matrix) @ self.basis.mT


class Layer(ABC):
    """What layers of all histories share: number, share of the residual, original weight, its change so far, what is preserved."""

    def __init__(self, settings: LocateThenEdit, index: int, model: LanguageModel, prepared: Prepared) -> None:
        self.settings, self.number = settings, settings.layers[index]
        self.share = share(settings.spread, index, len(settings.layers))
        self.original: Float[Tensor, "d_out d_in"] = model.weight(self.number).clone()
        self.delta: Weight = torch.zeros(self.original.shape, dtype=torch.float64, device=model.state_device(self.number))
        self.base = self._preserved(model, prepared)

    def _preserved(self, model: LanguageModel, prepared: Prepared) -> Base:
        """What the layer preserves."""
        return Base.of(self.settings.preserve, self.number, prepared, model)

    @property
    def keeps_keys(self) -> bool:
        """Whether a row must say which keys a step had, as `LAYER.keys`, since later steps ask for them."""
        return True

    @abstractmethod
    def fit(self, keys: Keys, bare: Keys, wanted: Wanted, *, remember: bool = True) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Change the weight for keys and what they should add to the output; the row's tensors, and numbers to be logged.

        Raises:
            Diverged: if keys or wanted outputs are not finite.
        """

    @abstractmethod
    def replay(self, row: Row) -> None:
        """Take a recorded step over, with the very operations that made it."""

    @abstractmethod
    def remember(self, keys: Keys) -> None:
        """Hold keys fast from now on, where the settings ask for it."""

    @abstractmethod
    def refactor(self, rows: Sequence[Row]) -> float | None:
        """Solve afresh for what recursive solvers hold after these rows; the largest drift, None where no solver is recursive."""

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

    def _check(self, keys: Keys, wanted: Wanted) -> None:
        if not (keys.isfinite().all() and wanted.isfinite().all()):
            raise Diverged(f"keys or residuals at layer {self.number} are not finite")

    def _numbers(self, **found: float) -> dict[str, float]:
        """Numbers of a step to be logged, with the ridge where what is preserved needed one."""
        return found | ({"preserved_ridge": self.base.ridge} if self.base.ridge else {})


class StepLayer(Layer):
    """A layer whose steps are factors, `left` and `right` with change leftᵀ · right, or rows to be solved."""

    def __init__(self, settings: LocateThenEdit, index: int, model: LanguageModel, prepared: Prepared) -> None:
        self.held: Precision
        super().__init__(settings, index, model, prepared)
        self.after = after_step(settings.after, self.original.to(self.delta.device))
        feedback = isinstance(settings.after, Rect) and settings.after.feedback
        self.defect: Weight | None = torch.zeros_like(self.delta) if feedback else None
        self._seen = Recursive(self._unseen(settings.after)) if isinstance(settings.after, SimIE) else None

    def _preserved(self, model: LanguageModel, prepared: Prepared) -> Base:
        """What the layer preserves, with its solver; both from the cache of `prepared`, where it has one and they are in it."""
        cache = prepared.solvers
        if cache is None or self.number not in cache:
            base = super()._preserved(model, prepared)
            self.held = base.hold(self.settings)
            if cache is not None:
                cache[self.number] = base, deepcopy(self.held)
            return base
        base, held = cache[self.number]
        self.held = deepcopy(held)
        return base

    @property
    def _is_dense(self) -> bool:
        return self.settings.state_kind == "dense"

    @property
    def keeps_keys(self) -> bool:
        """Whether a row must say which keys a step had, as `LAYER.keys`, since later steps ask for them."""
        return not self._is_dense and (self.settings.history != "none" or self._seen is not None)

    def fit(self, keys: Keys, bare: Keys, wanted: Wanted, *, remember: bool = True) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Change the weight for keys and what they should add to the output; the row's tensors, and numbers to be logged.

        Raises:
            Diverged: if keys or wanted outputs are not finite.
        """
        self._check(keys, wanted)
        gain = self._gain(keys, bare, remember=remember).contiguous()
        row: dict[str, Tensor] = {}
        if self.settings.history == "rewind":
            update = self._add_factors(wanted - keys @ self.delta.mT, gain)
        elif isinstance(self.after, Largest):
            update = self._add_entries(self.after, keys, wanted, gain)
        else:
            right = self._right(keys, gain)
            row = {} if self._is_dense else {f"{self.number}.left": wanted.cpu(), f"{self.number}.right": right.cpu()}
            update = self._add_factors(wanted, right)
        return row, self._numbers(key_gain=float((bare * gain).sum(1).mean()), gain_norm=float(gain.norm()), update_norm=update)

    def remember(self, keys: Keys) -> None:
        """Hold keys fast from now on, where the settings ask for it."""
        if self.settings.history != "none":
            self.held.add(keys)

    def refactor(self, rows: Sequence[Row]) -> float | None:
        """Solve afresh for what recursive solvers hold after these rows; the largest drift, None where no solver is recursive."""
        return max((solver.refactor(self._sum(empty, basis, rows)) for solver, empty, basis in self._recursive()), default=None)

    def replay(self, row: Row) -> None:
        """Take a recorded step over, with the very operations that made it."""
        device, name = self.delta.device, self.number
        keys = row[f"{name}.keys"].to(device).double() if f"{name}.keys" in row else None
        gain = self.held.add(keys).contiguous() if keys is not None and self.settings.history != "none" else None
        if self.settings.history == "rewind" and keys is not None and gain is not None:
            self._add_factors(self.share * residuals_of(row, name).to(device).double() - keys @ self.delta.mT, gain)
        elif f"{name}.left" in row:
            if keys is not None and self._seen is not None:
                self._seen.add(keys)
            self._add_factors(row[f"{name}.left"].to(device), row[f"{name}.right"].to(device))

    def _tensors(self) -> dict[str, Tensor]:
        """The change, the Gram matrix of earlier keys with what is preserved, and what was solved for and not written."""
        found = super()._tensors()
        if self.settings.history == "keys" and isinstance(self._inner, Direct):
            found["gram"] = self._inner.matrix
        return found if self.defect is None else found | {"defect": self.defect}

    # --- parts of a step ------------------------------------------------------------------------------------------

    @property
    def _inner(self) -> Precision:
        """The solver itself, where the method is confined to a basis the one within it."""
        return self.held.inner if isinstance(self.held, Confined) else self.held

    def _recursive(self) -> Iterator[tuple[Recursive, Square, Basis | None]]:
        """The recursive solvers of the layer, each with what it holds before any keys, and the basis that keys are seen in."""
        if isinstance(self._inner, Recursive):
            yield self._inner, self.base.matrix.clone(), self.base.basis
        if self._seen is not None and isinstance(self.settings.after, SimIE):
            yield self._seen, self._unseen(self.settings.after), None

    def _unseen(self, settings: SimIE) -> Square:
        """What SimIE's solver holds before any keys."""
        return settings.weight * torch.eye(self.delta.shape[1], dtype=torch.float64, device=self.delta.device)

    def _sum(self, empty: Square, basis: Basis | None, rows: Sequence[Row]) -> Square:
        """A matrix with the products of all recorded keys added."""
        for start in range(0, len(rows), ROWS_AT_ONCE):
            keys = torch.cat([row[f"{self.number}.keys"] for row in rows[start : start + ROWS_AT_ONCE]]).to(empty.device).double()
            keys = keys if basis is None else keys @ basis
            empty.addmm_(keys.mT, keys)
        return empty

    def _gain(self, keys: Keys, bare: Keys, *, remember: bool) -> Keys:
        if self.settings.solver == "hard_constraint":
            return exact_gain(self.held, keys, keys if self.settings.keys.consistent else bare)
        grows = remember and self.settings.history != "none"
        return self.held.add(keys) if grows else self.held.gain(keys)

    def _right(self, keys: Keys, gain: Keys) -> Keys:
        """The right factor, after what is done to a step of factors."""
        if self._seen is not None:
            return (gain @ keys.mT) @ self._seen.add(keys)
        return self.after.of(gain) if isinstance(self.after, Projection) else gain

    def _add_factors(self, left: Wanted, right: Keys) -> float:
        """Add a step's factors; those of rounds one by one, since a row joins all rounds and has to give the same bits again."""
        size = len(left) if self.settings.rounds is None else 1
        for some, others in zip(left.split(size), right.split(size), strict=True):
            self.delta.addmm_(some.mT, others)
        return float(((left @ left.mT) * (right @ right.mT)).sum().clamp(min=0).sqrt())

    def _add_entries(self, after: Largest, keys: Keys, left: Wanted, gain: Keys) -> float:
        """Solve for a step, with what the one before did not write, and add those of its entries that are written."""
        if self.defect is None:
            written = after.of(left.mT @ gain, self.original.to(self.delta) + self.delta)
        else:
            step = (left + keys @ self.defect.mT).mT @ gain - self.defect
            written = after.of(step, self.original.to(self.delta) + self.delta)
            self.defect = written - step
        self.delta += written
        return float(written.norm())


class QueueLayer(Layer):
    """A layer that is solved anew at each step, over all edits, for Δ = G (q A₀ + M)⁻¹ with G = Σ r kᵀ and M = Σ k kᵀ.

    Residuals r count from the original weight: r = wanted + Δ k. After each step the loss of what is preserved,
    tr(Δ A₀ Δᵀ), moves the queue: q ← max(1, q + loss / (slack · first loss) − 1). The first loss is that of the first step
    that changes anything; until then the queue stays.
    """

    def __init__(self, settings: LocateThenEdit, index: int, model: LanguageModel, prepared: Prepared) -> None:
        super().__init__(settings, index, model, prepared)
        self._gram, self._cross = torch.zeros_like(self.base.matrix), torch.zeros_like(self.delta)
        self._queue, self._first = 1.0, 0.0
        self._floor = NO_LOSS * self._loss(self.original.to(self.delta))

    def fit(self, keys: Keys, bare: Keys, wanted: Wanted, *, remember: bool = True) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Change the weight for keys and what they should add to the output; the row's tensors, and numbers to be logged.

        Raises:
            Diverged: if keys or wanted outputs are not finite.
        """
        self._check(keys, wanted)
        before, queue = self.delta, self._queue
        residuals = wanted + keys @ before.mT
        self._take(keys, residuals)
        return {f"{self.number}.residuals": residuals.cpu()}, self._numbers(queue=queue, update_norm=float((self.delta - before).norm()))

    def replay(self, row: Row) -> None:
        """Take a recorded step over, with the very operations that made it."""
        keys, residuals = (row[f"{self.number}.{name}"].to(self.delta.device).double() for name in ("keys", "residuals"))
        self._take(keys, residuals)

    def remember(self, keys: Keys) -> None:
        """Nothing: whatever is fitted stays in every later solve."""

    def refactor(self, rows: Sequence[Row]) -> None:
        """Nothing: every step solves afresh."""

    def _take(self, keys: Keys, residuals: Wanted) -> None:
        """Add rows, solve, and move the queue."""
        self._gram.addmm_(keys.mT, keys)
        self._cross.addmm_(residuals.mT, keys)
        lower = factor(torch.add(self._gram, self.base.matrix, alpha=self._queue), "the preserved matrix plus the keys")
        self.delta = torch.cholesky_solve(self._cross.mT, lower).mT
        loss = self._loss(self.delta)
        self._first = self._first or (loss if loss > self._floor else 0.0)
        if self._first:
            self._queue = max(1.0, self._queue + loss / (self.settings.slack * self._first) - 1.0)

    def _loss(self, change: Weight) -> float:
        """What a change does to what is preserved."""
        return float(((change @ self.base.matrix) * change).sum())


def layers_of(settings: LocateThenEdit, model: LanguageModel, prepared: Prepared) -> dict[int, Layer]:
    """The edited layers by number, as the settings' history asks for them."""
    kind = QueueLayer if settings.history == "queue" else StepLayer
    return {layer: kind(settings, index, model, prepared) for index, layer in enumerate(settings.layers)}


def residuals_of(row: Row, layer: int) -> Tensor:
    """Residuals of a layer in a row; those that all layers share stand there once, as `residuals`."""
    own = f"{layer}.residuals"
    return row[own if own in row else "residuals"]

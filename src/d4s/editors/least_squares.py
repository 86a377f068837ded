"""The one least-squares core: Δ = Rᵀ K (A₀ + Kᵀ K)⁻¹ with one row per edit in K (keys) and R (residuals), in float64.

Everything an editor asks for is a *gain*: rows G such that `residuals.mT @ G` is the change of weights that fits new
rows in balance with the preserved matrix A₀ and with all rows added before. With P = (A₀ + Mᵀ M)⁻¹ over earlier rows M,

    G = (I + K P Kᵀ)⁻¹ K P   and   P ← P − (K P)ᵀ (I + K P Kᵀ)⁻¹ K P.

Three ways to hold P agree to rounding: `DirectSolver` (the matrix itself, factored at every call), `RecursiveSolver` (P with
low-rank updates, delayed so that one product serves many edits) and `LowRankSolver` (a factor of A₀ and the rows whitened by
it). Sequential equals batch: Δ_t = Δ_{t-1} + (R − K Δ_{t-1}ᵀ)ᵀ G is the solution over all rows.

Terms and symbols: docs/notation.md.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from d4s.editors.constants import DELAYED_ROWS, solver_kind
from d4s.errors import D4SError

RELATIVE_RIDGE = 1e-6

Square = Float64[Tensor, "d_in d_in"]
Keys = Float64[Tensor, "b d_in"]


class SolveError(D4SError):
    """A matrix that should be positive definite and is not, in float64."""


def preserved_matrix(second_moment: Square, weight: float, ridge: float = 0.0) -> Square:
    """A₀ = weight · C + ridge · I, as a matrix of its own."""
    matrix = weight * second_moment
    matrix.diagonal().add_(ridge)
    return matrix


def factorable(matrix: Square, what: str) -> tuple[Square, float]:
    """A matrix that can be factored, and the ridge that this took.

    The matrix itself and 0 where its factorisation succeeds, else a copy with 1e-6 of its mean diagonal added to the diagonal.
    A pivot that is rounding, as a singular matrix may have one, is no success: its sign would depend on the processor.

    Raises:
        SolveError: if it is not finite, or not positive definite even so.
    """
    lower = _factored(matrix)
    rounding = matrix.shape[0] * torch.finfo(matrix.dtype).eps * float(matrix.diagonal().max())
    if lower is not None and float(lower.diagonal().min()) ** 2 > rounding:
        return matrix, 0.0
    del lower
    ridge = RELATIVE_RIDGE * float(matrix.diagonal().mean())
    raised = matrix.clone()
    raised.diagonal().add_(ridge)
    factor(raised, f"{what}, with a ridge of {ridge:.1e},")
    return raised, ridge


def factor(matrix: Float64[Tensor, "n n"], what: str) -> Float64[Tensor, "n n"]:
    """The lower Cholesky factor of a matrix.

    Raises:
        SolveError: if it is not finite or not positive definite.
    """
    lower = _factored(matrix)
    if lower is None:
        where = f"{what} ({matrix.shape[0]} x {matrix.shape[0]})"
        if not matrix.isfinite().all():
            raise SolveError(f"{where} holds numbers that are not finite; look for them in the model's outputs and in its text")
        raise SolveError(f"{where} is not positive definite; raise the weight of what is preserved")
    return lower


def _factored(matrix: Float64[Tensor, "n n"]) -> Float64[Tensor, "n n"] | None:
    """The lower Cholesky factor of a matrix, None where there is none."""
    lower, info = torch.linalg.cholesky_ex(matrix)
    return lower if int(info) == 0 and bool(lower.diagonal().isfinite().all()) else None


def solve_delta(residuals: Float64[Tensor, "n d_out"], keys: Float64[Tensor, "n d_in"], base: Square) -> Float64[Tensor, "d_out d_in"]:
    """The change of weights that fits all rows at once, from one factorisation of A₀ + Kᵀ K."""
    lower = factor(torch.addmm(base, keys.mT, keys), "the preserved matrix plus the keys")
    return torch.cholesky_solve(keys.mT @ residuals, lower).mT


@runtime_checkable
class LeastSquaresSolver(Protocol):
    """P = (A₀ + the Gram matrix of the rows added so far)⁻¹, however it is held."""

    def apply(self, rows: Keys) -> Keys:
        """Rows times P."""
        ...

    def gain(self, keys: Keys) -> Keys:
        """The gain of new rows, without adding them."""
        ...

    def add(self, keys: Keys) -> Keys:
        """Add rows and return their gain."""
        ...


def _core(projected: Keys, keys: Keys) -> Float64[Tensor, "b b"]:
    """The factor of I + K P Kᵀ."""
    middle = projected @ keys.mT
    middle = (middle + middle.mT) / 2
    middle.diagonal().add_(1.0)
    return factor(middle, "the identity plus the keys' products")


class DirectSolver:
    """Holds A₀ + Kᵀ K and factors it at every call: best where batches are large."""

    def __init__(self, base: Square) -> None:
        self.matrix = base.clone()

    def apply(self, rows: Keys) -> Keys:
        """Rows times P."""
        return torch.cholesky_solve(rows.mT, factor(self.matrix, "the preserved matrix")).mT

    def gain(self, keys: Keys) -> Keys:
        """The gain of new rows, without adding them."""
        return torch.cholesky_solve(keys.mT, factor(torch.addmm(self.matrix, keys.mT, keys), "the preserved matrix plus the keys")).mT

    def add(self, keys: Keys) -> Keys:
        """Add rows and return their gain."""
        self.matrix.addmm_(keys.mT, keys)
        return self.apply(keys)


class SubsetSolver(DirectSolver):
    """Solves for the neurons alone that hold a share of the new keys' summed sizes (NSE); the others' gain is zero."""

    def __init__(self, base: Square, share: float) -> None:
        super().__init__(base)
        self._share = share

    def gain(self, keys: Keys) -> Keys:
        """The gain of new rows, without adding them."""
        chosen = self._chosen(keys)
        part = keys[:, chosen]
        matrix = torch.addmm(self.matrix[chosen][:, chosen], part.mT, part)
        gain = torch.zeros_like(keys)
        gain[:, chosen] = torch.cholesky_solve(part.mT, factor(matrix, "the preserved matrix of the chosen neurons")).mT
        return gain

    def add(self, keys: Keys) -> Keys:
        """Add rows and return their gain."""
        gain = self.gain(keys)
        self.matrix.addmm_(keys.mT, keys)
        return gain

    def _chosen(self, keys: Keys) -> Int[Tensor, " k"]:
        """The fewest neurons whose sizes, summed over the keys, make up the share."""
        sizes, order = keys.abs().sum(0).sort(descending=True, stable=True)
        cumulative = sizes.cumsum(0) / sizes.sum()
        return order[: int((cumulative < self._share).sum()) + 1].sort().values


class RecursiveSolver:
    """Holds P. An update P − Wᵀ W is kept as rows of W until there are enough of them for one large product."""

    def __init__(self, base: Square) -> None:
        self._inverse = torch.cholesky_inverse(factor(base, "the preserved matrix"))
        self._delayed = base.new_empty(DELAYED_ROWS, base.shape[0])
        self._waiting = 0

    def apply(self, rows: Keys) -> Keys:
        """Rows times P."""
        waiting = self._delayed[: self._waiting]
        return rows @ self._inverse - (rows @ waiting.mT) @ waiting

    def gain(self, keys: Keys) -> Keys:
        """The gain of new rows, without adding them."""
        projected = self.apply(keys)
        return torch.cholesky_solve(projected, _core(projected, keys))

    def add(self, keys: Keys) -> Keys:
        """Add rows and return their gain."""
        projected = self.apply(keys)
        lower = _core(projected, keys)
        update = torch.linalg.solve_triangular(lower, projected, upper=False)
        self._subtract(update)
        return torch.linalg.solve_triangular(lower.mT, update, upper=True)

    def refactor(self, matrix: Square) -> float:
        """Put the inverse of the matrix that P stands for in P's place; returns how far P had drifted from it, relative to its norm."""
        fresh = torch.cholesky_inverse(factor(matrix, "the preserved matrix plus the keys"))
        self._flush()
        drift = float((fresh - self._inverse).norm() / fresh.norm())
        self._inverse = fresh
        return drift

    def _subtract(self, update: Keys) -> None:
        count = update.shape[0]
        if self._waiting + count > DELAYED_ROWS:
            self._flush()
        if count > DELAYED_ROWS:
            self._inverse.addmm_(update.mT, update, alpha=-1.0)
            return
        self._delayed[self._waiting : self._waiting + count] = update
        self._waiting += count

    def _flush(self) -> None:
        waiting = self._delayed[: self._waiting]
        self._inverse.addmm_(waiting.mT, waiting, alpha=-1.0)
        self._waiting = 0


class LowRankSolver:
    """Holds a factor L of A₀, the rows X = K L⁻ᵀ, and a factor of I + X Xᵀ that grows by rows: best for short histories."""

    def __init__(self, base: Square) -> None:
        self._lower = factor(base, "the preserved matrix")
        self._white = base.new_empty(0, base.shape[0])
        self._core = base.new_empty(0, 0)

    def _whiten(self, rows: Keys) -> Keys:
        return torch.linalg.solve_triangular(self._lower, rows.mT, upper=False).mT

    def _project(self, white: Keys) -> Keys:
        """Whitened rows times I − Xᵀ (I + X Xᵀ)⁻¹ X."""
        if not len(self._white):
            return white
        return white - (torch.cholesky_solve(self._white @ white.mT, self._core)).mT @ self._white

    def _unwhiten(self, white: Keys) -> Keys:
        return torch.linalg.solve_triangular(self._lower.mT, white.mT, upper=True).mT

    def apply(self, rows: Keys) -> Keys:
        """Rows times P."""
        return self._unwhiten(self._project(self._whiten(rows)))

    def gain(self, keys: Keys) -> Keys:
        """The gain of new rows, without adding them."""
        projected = self.apply(keys)
        return torch.cholesky_solve(projected, _core(projected, keys))

    def add(self, keys: Keys) -> Keys:
        """Add rows and return their gain."""
        gain = self.gain(keys)
        white = self._whiten(keys)
        below = torch.linalg.solve_triangular(self._core, self._white @ white.mT, upper=False).mT
        corner = white @ white.mT - below @ below.mT
        corner.diagonal().add_(1.0)
        above = torch.cat([self._core, self._core.new_zeros(len(self._core), len(white))], 1)
        self._core = torch.cat([above, torch.cat([below, factor(corner, "the new rows' core")], 1)])
        self._white = torch.cat([self._white, white])
        return gain


class ProjectedSolver:
    """A precision within the span of an orthonormal basis; directions outside it never change."""

    def __init__(self, inner: LeastSquaresSolver, basis: Float64[Tensor, "d_in r"]) -> None:
        self.inner = inner
        self._basis = basis

    def apply(self, rows: Keys) -> Keys:
        """Rows times P."""
        return self.inner.apply(rows @ self._basis) @ self._basis.mT

    def gain(self, keys: Keys) -> Keys:
        """The gain of new rows, without adding them."""
        return self.inner.gain(keys @ self._basis) @ self._basis.mT

    def add(self, keys: Keys) -> Keys:
        """Add rows and return their gain."""
        return self.inner.add(keys @ self._basis) @ self._basis.mT


def choose_solver(base: Square, *, batch: int, grows: bool) -> LeastSquaresSolver:
    """The cheapest way to hold P for batches of a size, and a history that grows or stays empty."""
    kinds = {"low_rank": LowRankSolver, "direct": DirectSolver, "recursive": RecursiveSolver}
    return kinds[solver_kind(base.shape[0], batch=batch, grows=grows)](base)


def within_basis(solver: LeastSquaresSolver) -> LeastSquaresSolver:
    """The solver itself; where it is confined to a basis, the one within."""
    return solver.inner if isinstance(solver, ProjectedSolver) else solver


@dataclass(frozen=True, slots=True)
class PreservedMatrix:
    """What a layer preserves: A₀, within a basis where the method is confined to one, and the ridge without which it has no factor."""

    matrix: Float64[Tensor, "r r"]
    basis: Float64[Tensor, "d_in r"] | None
    ridge: float = 0.0

    def make_solver(self, *, batch: int, grows: bool, neurons: float, is_dense: bool) -> LeastSquaresSolver:
        """Its solver, to which rows may be added: for a share of neurons, with the matrix itself where states hold it, or the cheapest."""
        if neurons < 1:
            return SubsetSolver(self.matrix, neurons)
        solver = DirectSolver(self.matrix) if grows and is_dense else choose_solver(self.matrix, batch=batch, grows=grows)
        return solver if self.basis is None else ProjectedSolver(solver, self.basis)

    def solve(self, residuals: Float64[Tensor, "n d_out"], keys: Float64[Tensor, "n d_in"]) -> Float64[Tensor, "d_out d_in"]:
        """The change that fits all rows at once."""
        if self.basis is None:
            return solve_delta(residuals, keys, self.matrix)
        return solve_delta(residuals, keys @ self.basis, self.matrix) @ self.basis.mT


def exact_gain(directions: Keys, met: Keys) -> Keys:
    """The gain that meets targets exactly at some keys: U with U metᵀ = I, in the directions K P of the averaged ones (ROME's, equation 2).

    Raises:
        SolveError: if the directions do not reach these keys at all.
    """
    gain, info = torch.linalg.solve_ex(directions @ met.mT, directions)
    if int(info) != 0:
        raise SolveError(
            "the averaged keys' directions and the unprefixed keys are orthogonal; no change at the former moves the output at the latter"
        )
    return gain

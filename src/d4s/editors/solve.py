"""The one least-squares core: Δ = Rᵀ K (A₀ + Kᵀ K)⁻¹ with one row per edit in K (keys) and R (residuals), in float64.

Everything an editor asks for is a *gain*: rows G such that `residuals.mT @ G` is the change of weights that fits new
rows in balance with the preserved matrix A₀ and with all rows added before. With P = (A₀ + Mᵀ M)⁻¹ over earlier rows M,

    G = (I + K P Kᵀ)⁻¹ K P   and   P ← P − (K P)ᵀ (I + K P Kᵀ)⁻¹ K P.

Three ways to hold P agree to rounding: `Direct` (the matrix itself, factored at every call), `Recursive` (P with
low-rank updates, delayed so that one product serves many edits) and `LowRank` (a factor of A₀ and the rows whitened by
it). Sequential equals batch: Δ_t = Δ_{t-1} + (R − K Δ_{t-1}ᵀ)ᵀ G is the solution over all rows (`Fit`).
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from d4s.errors import D4SError

RELATIVE_RIDGE = 1e-6
DELAYED_ROWS = 32

Square = Float64[Tensor, "d_in d_in"]
Keys = Float64[Tensor, "b d_in"]


class SolveError(D4SError):
    """A matrix that should be positive definite and is not, in float64 and with its ridge."""


def preserved(second_moment: Square, weight: float, ridge: float = 0.0) -> Square:
    """A₀ = weight · C + ridge · I, with a further ridge of 1e-6 of its mean diagonal so that it can be factored."""
    base = weight * second_moment
    base.diagonal().add_(ridge + RELATIVE_RIDGE * float(base.diagonal().mean()))
    return base


def factor(matrix: Float64[Tensor, "n n"], what: str) -> Float64[Tensor, "n n"]:
    """The lower Cholesky factor of a matrix.

    Raises:
        SolveError: if it is not positive definite.
    """
    lower, info = torch.linalg.cholesky_ex(matrix)
    if int(info) != 0:
        size = matrix.shape[0]
        raise SolveError(f"{what} ({size} x {size}) is not positive definite at row {int(info)}; raise the weight of what is preserved")
    return lower


def solve_delta(residuals: Float64[Tensor, "n d_out"], keys: Float64[Tensor, "n d_in"], base: Square) -> Float64[Tensor, "d_out d_in"]:
    """The change of weights that fits all rows at once, from one factorisation of A₀ + Kᵀ K."""
    lower = factor(torch.addmm(base, keys.mT, keys), "the preserved matrix plus the keys")
    return torch.cholesky_solve(keys.mT @ residuals, lower).mT


@runtime_checkable
class Precision(Protocol):
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

    def remove(self, keys: Keys) -> Keys:
        """Take out rows that were added, and return (I − K P Kᵀ)⁻¹ K P, what a fit loses with them."""
        ...


def _core(projected: Keys, keys: Keys, sign: float) -> Float64[Tensor, "b b"]:
    """The factor of I ± K P Kᵀ."""
    middle = sign * (projected @ keys.mT)
    middle = (middle + middle.mT) / 2
    middle.diagonal().add_(1.0)
    return factor(middle, "the identity plus the keys' products" if sign > 0 else "the identity minus the removed keys' products")


class Direct:
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

    def remove(self, keys: Keys) -> Keys:
        """Take out rows that were added, and return what a fit loses with them."""
        self.matrix.addmm_(keys.mT, keys, alpha=-1.0)
        return self.apply(keys)


class Subset(Direct):
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
        held = sizes.cumsum(0) / sizes.sum()
        return order[: int((held < self._share).sum()) + 1].sort().values


class Recursive:
    """Holds P. An update P ∓ Wᵀ W is kept as rows of W and their signs until there are enough of them for one large product."""

    def __init__(self, base: Square) -> None:
        self._inverse = torch.cholesky_inverse(factor(base, "the preserved matrix"))
        self._delayed = base.new_empty(DELAYED_ROWS, base.shape[0])
        self._signs = base.new_empty(DELAYED_ROWS)
        self._waiting = 0

    def apply(self, rows: Keys) -> Keys:
        """Rows times P."""
        waiting, signs = self._delayed[: self._waiting], self._signs[: self._waiting]
        return rows @ self._inverse - (rows @ waiting.mT * signs) @ waiting

    def gain(self, keys: Keys) -> Keys:
        """The gain of new rows, without adding them."""
        projected = self.apply(keys)
        return torch.cholesky_solve(projected, _core(projected, keys, 1.0))

    def add(self, keys: Keys) -> Keys:
        """Add rows and return their gain."""
        projected = self.apply(keys)
        lower = _core(projected, keys, 1.0)
        update = torch.linalg.solve_triangular(lower, projected, upper=False)
        self._subtract(update, 1.0)
        return torch.linalg.solve_triangular(lower.mT, update, upper=True)

    def remove(self, keys: Keys) -> Keys:
        """Take out rows that were added, and return what a fit loses with them."""
        projected = self.apply(keys)
        lower = _core(projected, keys, -1.0)
        update = torch.linalg.solve_triangular(lower, projected, upper=False)
        self._subtract(update, -1.0)
        return torch.linalg.solve_triangular(lower.mT, update, upper=True)

    def refactor(self, matrix: Square) -> float:
        """Put the inverse of the matrix that P stands for in P's place; returns how far P had drifted from it, relative to its norm."""
        fresh = torch.cholesky_inverse(factor(matrix, "the preserved matrix plus the keys"))
        self._flush()
        drift = float((fresh - self._inverse).norm() / fresh.norm())
        self._inverse = fresh
        return drift

    def _subtract(self, update: Keys, sign: float) -> None:
        count = update.shape[0]
        if self._waiting + count > DELAYED_ROWS:
            self._flush()
        if count > DELAYED_ROWS:
            self._inverse.addmm_(update.mT, update, alpha=-sign)
            return
        self._delayed[self._waiting : self._waiting + count] = update
        self._signs[self._waiting : self._waiting + count] = sign
        self._waiting += count

    def _flush(self) -> None:
        waiting, signs = self._delayed[: self._waiting], self._signs[: self._waiting]
        self._inverse.addmm_((waiting * signs[:, None]).mT, waiting, alpha=-1.0)
        self._waiting = 0


class LowRank:
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
        return torch.cholesky_solve(projected, _core(projected, keys, 1.0))

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

    def remove(self, keys: Keys) -> Keys:
        """Take out rows that were added, and return what a fit loses with them.

        Raises:
            ValueError: if a row was never added.
        """
        white = self._whiten(keys)
        distances = torch.cdist(white, self._white)
        nearest = distances.argmin(1)
        missing = distances.gather(1, nearest[:, None])[:, 0] > 1e-6 * white.norm(dim=1)
        if missing.any() or len(nearest.unique()) < len(nearest):
            raise ValueError(f"{int(missing.sum())} of {len(keys)} rows to remove were never added")
        kept = torch.ones(len(self._white), dtype=torch.bool, device=keys.device)
        kept[nearest] = False
        self._white = self._white[kept]
        gram = self._white @ self._white.mT
        gram.diagonal().add_(1.0)
        self._core = factor(gram, "the remaining rows' core")
        return self.apply(keys)


class Confined:
    """A precision within the span of an orthonormal basis; directions outside it never change."""

    def __init__(self, inner: Precision, basis: Float64[Tensor, "d_in r"]) -> None:
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

    def remove(self, keys: Keys) -> Keys:
        """Take out rows that were added, and return what a fit loses with them."""
        return self.inner.remove(keys @ self._basis) @ self._basis.mT


def precision(base: Square, *, batch: int, grows: bool) -> Precision:
    """The cheapest way to hold P for batches of a size, and a history that grows or stays empty."""
    if not grows:
        return LowRank(base)
    return Direct(base) if 4 * batch >= base.shape[0] else Recursive(base)


def exact_gain(within: Precision, keys: Keys, bare: Keys) -> Keys:
    """The gain that meets targets exactly at other keys: U with U bareᵀ = I, in the directions K P (ROME's, equation 2).

    Raises:
        SolveError: if the directions do not reach the other keys at all.
    """
    directions = within.apply(keys)
    gain, info = torch.linalg.solve_ex(directions @ bare.mT, directions)
    if int(info) != 0:
        raise SolveError(
            "the averaged keys' directions and the bare keys are orthogonal; no change at the former moves the output at the latter"
        )
    return gain


@dataclass(slots=True)
class Fit:
    """The least-squares change of one layer's weights over rows that come and go."""

    precision: Precision
    delta: Float64[Tensor, "d_out d_in"]

    def add(self, keys: Keys, residuals: Float64[Tensor, "b d_out"]) -> Keys:
        """Fit further rows as well; returns their gain."""
        gain = self.precision.add(keys)
        self.delta.addmm_((residuals - keys @ self.delta.mT).mT, gain)
        return gain

    def remove(self, keys: Keys, residuals: Float64[Tensor, "b d_out"]) -> None:
        """Forget rows that were added, as if they had never been."""
        loss = self.precision.remove(keys)
        self.delta.addmm_((residuals - keys @ self.delta.mT).mT, loss, alpha=-1.0)

    def replace(self, keys: Keys, residuals: Float64[Tensor, "b d_out"], new_keys: Keys, new_residuals: Float64[Tensor, "b d_out"]) -> None:
        """Put rows in the place of others."""
        self.remove(keys, residuals)
        self.add(new_keys, new_residuals)

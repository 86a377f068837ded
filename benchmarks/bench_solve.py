"""The least-squares core in its recursive form, against dense solves.

Keys of length 3072 are drawn with the second moment C that is preserved, as a corpus' keys are; C has condition 10⁶, and
its weight is such that one edit alone gets ten elevenths of what it asks for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log10

import psutil
import pytest
import torch
from torch import Tensor

from benchmarks.conftest import Measure
from benchmarks.shapes import Allocations
from d4s.editors.solve import Fit, Recursive, solve_delta

D_IN, D_OUT, CONDITION, STRENGTH, PAIRS = 3072, 768, 1e6, 10.0, 5
SLICE = 32  # edits at a time: as many as share one large product
MANY, NARROW = 10_000, 64


@dataclass
class Rows:
    """Keys and residuals, handed out in order."""

    keys: Tensor
    residuals: Tensor
    used: int = 0

    def add_to(self, fit: Fit, count: int) -> None:
        for row in range(self.used, self.used + count):
            fit.add(self.keys[row : row + 1], self.residuals[row : row + 1])
        self.used += count

    def solution(self, base: Tensor) -> Tensor:
        return solve_delta(self.residuals[: self.used], self.keys[: self.used], base)


class Text:
    """What keys are drawn from: eigenvalues from one down to 1 / condition, in directions drawn at random."""

    def __init__(self) -> None:
        self.values = torch.logspace(0, -log10(CONDITION), D_IN, dtype=torch.float64)
        self.directions = torch.linalg.qr(torch.randn(D_IN, D_IN, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
        moment = (self.directions * self.values) @ self.directions.mT
        self.base = D_IN / STRENGTH * (moment + moment.mT) / 2

    def rows(self, count: int, d_out: int, seed: int) -> Rows:
        generator = torch.Generator().manual_seed(seed)
        white = torch.randn(count, D_IN, generator=generator, dtype=torch.float64)
        residuals = torch.randn(count, d_out, generator=generator, dtype=torch.float64)
        return Rows((white * self.values.sqrt()) @ self.directions.mT, residuals)


def empty(base: Tensor, d_out: int) -> Fit:
    return Fit(Recursive(base), base.new_zeros(d_out, D_IN))


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def text() -> Text:
    return Text()


def test_one_more_edit(measure: Measure, text: Text) -> None:
    rows, fit = text.rows(1000 + PAIRS * SLICE, D_OUT, seed=1), empty(text.base, D_OUT)
    rows.add_to(fit, 1000)
    ratios = measure.pairs(lambda: rows.solution(text.base), lambda: rows.add_to(fit, SLICE), PAIRS, work=(1, SLICE))
    gap = distance(fit.delta, rows.solution(text.base))
    assert gap < 1e-6
    measure.row(
        "Solver",
        f"one more edit after 1000, {D_IN} → {D_OUT}",
        "Gram matrix of all rows, one Cholesky solve",
        ratios,
        "×",
        "≥ 100",
        f"relative distance of the solutions {gap:.0e}",
    )


def test_one_more_edit_with_sums_kept(measure: Measure, text: Text) -> None:
    """The plain version keeps the sums of k k' and r k' between edits, as the release does, and solves by LU."""
    rows, fit = text.rows(1000 + PAIRS * SLICE, D_OUT, seed=2), empty(text.base, D_OUT)
    rows.add_to(fit, 1000)
    gram, cross = text.base + rows.keys[:1000].mT @ rows.keys[:1000], rows.keys[:1000].mT @ rows.residuals[:1000]

    def plain() -> Tensor:
        key, residual = rows.keys[rows.used], rows.residuals[rows.used]
        return torch.linalg.solve(gram + torch.outer(key, key), cross + torch.outer(key, residual))

    ratios = measure.pairs(plain, lambda: rows.add_to(fit, SLICE), PAIRS, work=(1, SLICE))
    measure.row("Solver", "the same", "sums kept between edits, one LU solve (the release)", ratios, "×", "≥ 100")


def test_undo(measure: Measure, text: Text) -> None:
    rows, fit = text.rows(1000 + PAIRS * SLICE, D_OUT, seed=3), empty(text.base, D_OUT)
    rows.add_to(fit, 1000)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(4)).tolist()
    gone: list[int] = []

    def undo() -> None:
        for row in order[len(gone) : len(gone) + SLICE]:
            fit.remove(rows.keys[row : row + 1], rows.residuals[row : row + 1])
            gone.append(row)

    ratios = [1 / ratio for ratio in measure.pairs(lambda: rows.add_to(fit, SLICE), undo, PAIRS)]
    kept = sorted(set(range(rows.used)) - set(gone))
    gap = distance(fit.delta, solve_delta(rows.residuals[kept], rows.keys[kept], text.base))
    assert gap < 1e-6
    note = f"relative distance to a fresh solve over the rows that are left {gap:.0e}"
    measure.row("Solver", "undo of one edit among 1000", "adding one", ratios, "×", "≤ 2", note)


# --- ten thousand edits -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aged(text: Text) -> Iterator[tuple[Rows, Fit, float]]:
    """A history of 10,000 edits less a slice, its fit, and by how much the process grew on the way, as a multiple of d²."""
    rows, process = text.rows(MANY + PAIRS * SLICE, NARROW, seed=5), psutil.Process()
    torch.set_num_threads(1)
    before = process.memory_info().rss
    fit = empty(text.base, NARROW)
    rows.add_to(fit, MANY - SLICE)
    yield rows, fit, (process.memory_info().rss - before) / text.base.nbytes


@pytest.mark.long
def test_edit_ten_thousand_costs_what_edit_one_hundred_did(measure: Measure, text: Text, aged: tuple[Rows, Fit, float]) -> None:
    rows, fit, grown = aged
    early, young = text.rows(100 + PAIRS * SLICE, NARROW, seed=6), empty(text.base, NARROW)
    early.add_to(young, 100)
    ratios = measure.pairs(lambda: early.add_to(young, SLICE), lambda: rows.add_to(fit, SLICE), PAIRS)
    gap = distance(fit.delta, rows.solution(text.base))
    assert gap < 1e-6
    size = f"{D_IN} → {NARROW}"
    measure.row("Solver", f"cost of edit 10 000, {size}", "edit 100", [1 / ratio for ratio in ratios], "×", "≤ 1.1")
    measure.row("Solver", f"distance after 10 000 edits, {size}", "one dense solve over all rows", [gap], "relative", "≤ 1e-6")
    measure.row("Solver", f"growth of the process over 10 000 edits, {size}", "a matrix of d² float64", [grown], "× d²", "≤ 2")


def test_memory_of_a_layer(measure: Measure, text: Text) -> None:
    rows = text.rows(3 * SLICE, NARROW, seed=7)
    with Allocations() as seen:
        fit = empty(text.base, NARROW)
        started = seen.most
        measure.seconds(lambda: rows.add_to(fit, 3 * SLICE), rounds=1)
    held = [seen.held / text.base.nbytes]
    note = f"at most {started / text.base.nbytes:.2f} while it starts; counted by tensor, without the base and the ledger of rows"
    measure.row("Solver", f"what a layer holds between edits, {D_IN} → {NARROW}", "a matrix of d² float64", held, "× d²", "≤ 2", note)

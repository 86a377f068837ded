"""An edited layer of D4S, whose solver is the recursive one, against dense solves.

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
from benchmarks.shapes import Allocations, gpt2
from d4s.editors.edited_layers import EditedLayer, layers_of
from d4s.editors.editor_settings import resolve
from d4s.editors.least_squares import solve_delta
from d4s.editors.moments import SecondMoment
from d4s.editors.protocol import Prepared

D_IN, D_OUT, CONDITION, STRENGTH, PAIRS = 3072, 768, 1e6, 10.0, 5
SLICE = 32  # edits at a time: as many as share one large product
MANY, NARROW = 10_000, 64


@dataclass
class Rows:
    """Keys and residuals, handed out in order."""

    keys: Tensor
    residuals: Tensor
    used: int = 0

    def add_to(self, layer: EditedLayer, count: int) -> None:
        for row in range(self.used, self.used + count):
            keys = self.keys[row : row + 1]
            layer.fit(keys, keys, self.residuals[row : row + 1])
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


def empty(base: Tensor, d_out: int) -> EditedLayer:
    """A layer before any edit that preserves a matrix and puts out vectors of a size."""
    settings = resolve("measured", {"preset": "d4s", "layers": (0,), "target": {"layer": 0}, "preservation": {"weight": 1.0}}, "mini")
    model = gpt2(layers=1, width=d_out, mlp_width=D_IN, heads=4, vocab=64, positions=8)
    return layers_of(settings, model, Prepared(moments={0: SecondMoment(base, 1, "text")}))[0]


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def text() -> Text:
    return Text()


def test_one_more_edit(measure: Measure, text: Text) -> None:
    rows, layer = text.rows(1000 + PAIRS * SLICE, D_OUT, seed=1), empty(text.base, D_OUT)
    rows.add_to(layer, 1000)
    ratios = measure.pairs(lambda: rows.solution(text.base), lambda: rows.add_to(layer, SLICE), PAIRS, work=(1, SLICE))
    gap = distance(layer.delta, rows.solution(text.base))
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
    rows, layer = text.rows(1000 + PAIRS * SLICE, D_OUT, seed=2), empty(text.base, D_OUT)
    rows.add_to(layer, 1000)
    gram, cross = text.base + rows.keys[:1000].mT @ rows.keys[:1000], rows.keys[:1000].mT @ rows.residuals[:1000]

    def plain() -> Tensor:
        key, residual = rows.keys[rows.used], rows.residuals[rows.used]
        return torch.linalg.solve(gram + torch.outer(key, key), cross + torch.outer(key, residual))

    ratios = measure.pairs(plain, lambda: rows.add_to(layer, SLICE), PAIRS, work=(1, SLICE))
    measure.row("Solver", "the same", "sums kept between edits, one LU solve (the release)", ratios, "×", "≥ 100")


# --- ten thousand edits -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aged(text: Text) -> Iterator[tuple[Rows, EditedLayer, float]]:
    """A history of 10,000 edits less a slice, the layer, and by how much the process grew on the way, as a multiple of d²."""
    rows, process = text.rows(MANY + PAIRS * SLICE, NARROW, seed=5), psutil.Process()
    torch.set_num_threads(1)
    before = process.memory_info().rss
    layer = empty(text.base, NARROW)
    rows.add_to(layer, MANY - SLICE)
    yield rows, layer, (process.memory_info().rss - before) / text.base.nbytes


@pytest.mark.long
def test_edit_ten_thousand_costs_what_edit_one_hundred_did(measure: Measure, text: Text, aged: tuple[Rows, EditedLayer, float]) -> None:
    rows, layer, grown = aged
    early, young = text.rows(100 + PAIRS * SLICE, NARROW, seed=6), empty(text.base, NARROW)
    early.add_to(young, 100)
    ratios = measure.pairs(lambda: early.add_to(young, SLICE), lambda: rows.add_to(layer, SLICE), PAIRS)
    gap = distance(layer.delta, rows.solution(text.base))
    assert gap < 1e-6
    size = f"{D_IN} → {NARROW}"
    measure.row("Solver", f"cost of edit 10 000, {size}", "edit 100", [1 / ratio for ratio in ratios], "×", "≤ 1.1")
    measure.row("Solver", f"distance after 10 000 edits, {size}", "one dense solve over all rows", [gap], "relative", "≤ 1e-6")
    measure.row("Solver", f"growth of the process over 10 000 edits, {size}", "a matrix of d² float64", [grown], "× d²", "≤ 2.2")


def test_memory_of_a_layer(measure: Measure, text: Text) -> None:
    rows = text.rows(3 * SLICE, NARROW, seed=7)
    with Allocations() as seen:
        layer = empty(text.base, NARROW)
        started = seen.most
        measure.seconds(lambda: rows.add_to(layer, 3 * SLICE), rounds=1)
    held = [seen.held / text.base.nbytes]
    note = f"at most {started / text.base.nbytes:.2f} while it starts; counted by tensor: what is preserved, its inverse, the rest"
    measure.row("Solver", f"what a layer holds between edits, {D_IN} → {NARROW}", "a matrix of d² float64", held, "× d²", "≤ 2.2", note)

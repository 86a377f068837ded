"""Second moments: five layers in one pass, against a pass per layer (each of them already ends at its layer)."""

import time

import pytest
import torch

from benchmarks.conftest import Measure
from benchmarks.shapes import gpt2, token_rows
from d4s.editors.moments import collect_moments

PAIRS, BATCH_ROWS = 3, 8
SHAPES = {
    "24 layers × 256, MLP 512, layers 19–23": (dict(layers=24, width=256, mlp_width=512), range(19, 24), "≥ 4"),
    "48 layers × 256, MLP 1024, layers 13–17 (the layers of GPT-2 XL)": (dict(layers=48, width=256, mlp_width=1024), range(13, 18), ""),
    "6 layers × 192, MLP 1024, layers 0–2 (the embedded model)": (dict(layers=6, width=192, mlp_width=1024), range(3), ""),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_moments(measure: Measure, shape: str) -> None:
    sizes, layers, goal = SHAPES[shape]
    model = gpt2(**sizes, heads=sizes["width"] // 32, vocab=512, positions=128)
    rows = token_rows(model, 2 * BATCH_ROWS, 128)

    def one_by_one() -> dict:
        return {layer: collect_moments(model, rows, (layer,), BATCH_ROWS, "text")[layer] for layer in layers}

    def together() -> dict:
        return collect_moments(model, rows, layers, BATCH_ROWS, "text")

    for layer, moment in one_by_one().items():
        torch.testing.assert_close(together()[layer].sum_kk, moment.sum_kk)
    ratios = measure.pairs(one_by_one, together, PAIRS)
    blocks, last = sum(layer + 1 for layer in layers), max(layers) + 1
    share = _share(together, rows.numel(), sizes, layers)
    note = f"{blocks} blocks against {last}, so at most {blocks / last:.1f}; {share:.0%} of the one pass are products of keys"
    measure.row("Moments", shape, "a pass per layer that ends there", ratios, "×", goal, note)


def _share(together, tokens: int, sizes: dict[str, int], layers: range) -> float:
    """Share of the one pass that goes into products of keys, which no order of passes can save."""
    keys = torch.randn(BATCH_ROWS * 128, sizes["mlp_width"])
    total = torch.zeros(sizes["mlp_width"], sizes["mlp_width"], dtype=torch.float64)
    start = time.process_time()
    for _ in range(tokens // len(keys) * len(layers)):
        total += keys.mT @ keys
    middle = time.process_time()
    together()
    return (middle - start) / (time.process_time() - middle)

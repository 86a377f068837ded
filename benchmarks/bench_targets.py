"""Target hidden states: a batch of requests restarted after the edited block, against one request and one text at a time."""

import pytest
import torch

from benchmarks.conftest import Measure
from benchmarks.shapes import small_gpt2
from d4s.editors.parts.target_rule import TargetSettings
from d4s.editors.target_optimisation import optimise
from tests.oracle.plain import requests_of, rewritings_of, target_of

PREFIXES = (
    "The old town is home .", "The job of Ada Reed : painter .", "You and I has an old home in Cairo .",
    "Because The city of Oslo is old .", "Therefore It is true : yes .",
)  # fmt: skip
REQUESTS, LAYER = 16, 4
TURNS = (0, 7, 13)  # the requests of the plain loop, one in each turn: sixteen at once would take minutes


@pytest.mark.long
@pytest.mark.parametrize(("vocab", "steps"), [(50_257, 20), (512, 5)])
def test_targets(measure: Measure, vocab: int, steps: int) -> None:
    model = small_gpt2(vocab)
    settings = TargetSettings(layer=LAYER, steps=steps, stop_loss=0.0)
    batch = rewritings_of(model, requests_of(REQUESTS), PREFIXES)
    left, expected, found = iter(TURNS), {}, []

    def plain() -> None:
        number = next(left)
        expected[number] = target_of(model, batch[number], settings)["hidden_shift"]

    ratios = measure.pairs(plain, lambda: found.append(optimise(model, batch, settings)), count=len(TURNS), work=(1, REQUESTS))
    shifts = found[-1].hidden_shift.double()
    assert found[-1].steps.tolist() == [steps - 1] * REQUESTS
    gap = max(float((shifts[number] - shift).abs().max()) for number, shift in expected.items())
    norm = float(shifts.norm(dim=1).mean())
    torch.testing.assert_close(shifts[list(expected)], torch.stack(list(expected.values())), rtol=1e-3, atol=1e-4)
    measure.row(
        "Targets",
        f"{REQUESTS} targets, 12 layers × 768, block {LAYER}, {steps} steps, 6 prompts and the KL prompt, {vocab} tokens in the vocabulary",
        "one request and one text at a time, whole forward pass, all logits",
        ratios,
        "×",
        goal="≥ 6" if steps == 20 else "",
        note=f"largest difference of a shift's element {gap:.0e} (norm {norm:.1f}); the plain loop ran {len(TURNS)} of the requests",
    )

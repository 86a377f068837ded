"""The same numbers on a CUDA device as on the CPU. Needs nothing but the checkout; never needed for green."""

import pytest
import torch

from d4s.models.views import LiveModel
from tests.tiny import tiny_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
PROMPTS, TARGETS = ["the cat sat on", "the dog"], ["the mat", "ran"]


def test_scores_on_the_device_are_those_of_the_cpu() -> None:
    model = tiny_model("gpt2")
    here = LiveModel(model).score(PROMPTS, TARGETS).nll
    model.network.to(torch.device("cuda", 0))
    torch.testing.assert_close(LiveModel(model).score(PROMPTS, TARGETS).nll, here, rtol=1e-4, atol=1e-4)


def test_weights_come_back_bit_for_bit_on_the_device() -> None:
    model = tiny_model("gpt2")
    model.network.to(torch.device("cuda", 0))
    before = model.weight(0).clone()
    with model.patched({0: torch.ones_like(before)}):
        assert not torch.equal(model.weight(0), before)
    assert torch.equal(model.weight(0), before)

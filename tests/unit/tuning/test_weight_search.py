"""The starting weight against the change that it makes, and kᵀC⁻¹k against its mean over the text of C."""

import pytest
import torch

from d4s.editors.edit_requests import draw_requests
from d4s.editors.keys import read_activations
from d4s.editors.moments import collect_moments
from d4s.editors.parts.key_rule import KeySettings
from d4s.editors.prompts import build_prompts
from d4s.tuning.weight_search import key_leverage, weight_for
from tests.tiny import tiny_facts, tiny_model


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_a_single_edit_at_the_starting_weight_closes_the_share_of_its_residual(share: float) -> None:
    model = tiny_model("llama")
    rows = torch.randint(2, 60, (60, 16), generator=torch.Generator().manual_seed(1))
    moments = collect_moments(model, rows, (1,), 16, "text")
    (request,) = [request for request, _ in draw_requests(tiny_facts(1), 0)]
    leverage = key_leverage(model, [request], (), moments)[1]
    weight = weight_for(leverage, share)
    key = read_activations(model, [build_prompts(model, request, ())], (1,), KeySettings()).keys[1].double()
    residual = torch.ones(1, model.d_out(), dtype=torch.float64)
    delta = torch.linalg.solve(weight * moments[1].mean() + key.mT @ key, key.mT @ residual).mT
    closed = float((delta @ key[0] / residual[0]).mean())
    assert closed == pytest.approx(share, abs=0.01)

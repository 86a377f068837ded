import pytest
import torch

from d4s.editors.parts import TargetSettings
from d4s.editors.targets import optimise
from d4s.models.restart import restart
from tests.oracle.plain import requests_of, rewritings_of, target_of
from tests.tiny import bpe_tokenizer

FAMILIES = ["gpt2", "gptj", "gpt_neox", "llama", "qwen2", "qwen3", "mistral"]


def settings_with(**changes) -> TargetSettings:
    return TargetSettings(**({"layer": 1, "steps": 12, "clamp": 2.0, "stop_probability": 0.9} | changes))


def agrees(model, settings: TargetSettings, count: int = 5, tolerance: float = 1e-8) -> list[int]:
    """Compare a batch with the plain loop; returns the steps that requests took."""
    batch = rewritings_of(model, requests_of(count))
    found = optimise(model, batch, settings)
    for number, one in enumerate(batch):
        expected = target_of(model, one, settings)
        for name in ("hidden_shift", "hidden", "probability_before", "probability_after"):
            wanted = expected[name]
            torch.testing.assert_close(getattr(found, name)[number].double(), wanted.double(), rtol=tolerance, atol=tolerance)
        assert int(found.steps[number]) == expected["steps"]
    return found.steps.int().tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_batch_equals_the_plain_loop_in_every_architecture(tiny_model, family: str) -> None:
    model = tiny_model(family, dtype=torch.float64)
    steps = agrees(model, settings_with(), tolerance=2e-4 if family == "gptj" else 1e-8)
    assert len(steps) == 5


def test_requests_stop_on_their_own_and_are_left_alone(tiny_model) -> None:
    model = tiny_model(dtype=torch.float64, scale=12.0, width=32)
    steps = agrees(model, settings_with(layer=0, steps=15, clamp=4.0, stop_probability=0.02, weight_decay=0.0), count=8)
    assert len(set(steps)) > 2, "the test needs requests that stop at different steps"


@pytest.mark.parametrize(
    "changes",
    [
        {"hook": "mlp_output", "clamp": 20.0},
        {"clamp": 0.3},
        {"stop_probability": None, "stop_loss": 3.0},
        {"kl_weight": 2.0, "weight_decay": 5.0},
        {"layer": 0},
        {"steps": 1},
    ],
)
def test_every_setting_acts_as_in_the_plain_loop(tiny_model, changes: dict) -> None:
    agrees(tiny_model(dtype=torch.float64), settings_with(**changes), count=3)


def test_single_precision_agrees_to_rounding(tiny_model) -> None:
    agrees(tiny_model(dtype=torch.float32), settings_with(steps=6), tolerance=2e-4)


def test_targets_of_several_tokens(tiny_model) -> None:
    model = tiny_model("gpt2", dtype=torch.float64, tokenizer=bpe_tokenizer(), positions=96)
    batch = rewritings_of(model, requests_of(4))
    assert max(len(one.wordings[0].target) for one in batch) > 1
    agrees(model, settings_with(), count=4)


def test_a_restarted_pass_is_the_whole_pass(tiny_model) -> None:
    model = tiny_model("llama", dtype=torch.float64)
    batch = rewritings_of(model, requests_of(3))
    texts = [wording.ids for one in batch for wording in one.wordings]
    lookups = torch.tensor([wording.lookup for one in batch for wording in one.wordings])
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *[text[-1]] * (width - len(text))] for text in texts])
    again, _ = restart(model, ids, lookups, torch.tensor([len(text) for text in texts]), layer=0)
    after = model.final_norm(again.run(torch.zeros(len(texts), 1, 16, dtype=torch.float64)))
    for row, text in enumerate(texts):
        whole = model.network.base_model(input_ids=torch.tensor([text])).last_hidden_state[0, int(lookups[row]) :]
        torch.testing.assert_close(after[row, : len(whole)], whole, rtol=1e-10, atol=1e-10)

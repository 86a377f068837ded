"""Memory and work of editors with a trained side memory, from sizes alone."""

from typing import Any

import pytest

from d4s.config import MeasureSettings
from d4s.editors.editor_settings import resolve
from d4s.models.model_shape import Shape
from d4s.resources import memory_estimate, work_estimate
from d4s.resources.memory_estimate import ModelPlacement, PromptSizes

SHAPE = Shape("gpt2", 6, 192, 768, 6, 6, 32, 1000, 64, False, True)
HOST, PROMPTS, MEASURE = ModelPlacement(SHAPE), PromptSizes(), MeasureSettings()
MATRIX = 4 * SHAPE.mlp_out


def settings_of(name: str, **more: Any) -> Any:
    return resolve("tested", {"preset": name, **more}, "mini")


@pytest.mark.parametrize(("edits", "copies"), [(10, 1), (500, 2), (999, 2), (3000, 3)])
def test_wise_holds_its_copies(edits: int, copies: int) -> None:
    settings = settings_of("wise")
    assert memory_estimate.edit(HOST, settings, edits, PROMPTS)[0]["state"] == (copies + 5) * MATRIX
    assert settings.ledger_bytes(SHAPE, edits) == copies * MATRIX
    assert memory_estimate.measure(HOST, settings, edits, PROMPTS, MEASURE)[0]["state"] == 3 * MATRIX


def test_memoir_holds_a_matrix_or_every_edits_columns() -> None:
    dense, additive = (settings_of("memoir", state_kind=kind) for kind in ("dense", "additive"))
    assert dense.ledger_bytes(SHAPE, 10) == MATRIX + 10 * 215 * 4
    assert additive.ledger_bytes(SHAPE, 10) == 10 * 215 * (192 + 1) * 4
    few, many = (memory_estimate.edit(HOST, additive, edits, PROMPTS)[0]["state"] for edits in (10, 100))
    assert many > few > MATRIX


def test_steps_run_all_wordings_forward_and_backward() -> None:
    wise, defer = settings_of("wise"), settings_of("defer")
    step = work_estimate.forward(HOST, PROMPTS.per_request * PROMPTS.tokens).single
    assert work_estimate.edit(HOST, wise, 100, PROMPTS).single > 3 * 70 * 100 * step
    assert work_estimate.edit(HOST, defer, 100, PROMPTS).single > 3 * 100 * 100 * work_estimate.forward(HOST, PROMPTS.tokens).single


@pytest.mark.parametrize("name", ["wise", "memoir"])
def test_what_is_prepared_runs_the_model_and_holds_no_moments(name: str) -> None:
    wanted = settings_of(name).prepare_settings()
    found = memory_estimate.prepare(HOST, wanted, PROMPTS)[0]
    assert found["weights"] > 0 and found["moments"] == 0 and work_estimate.prepare(HOST, wanted, PROMPTS).single > 0


def test_neurons_and_factors_are_held_by_request_and_by_batch() -> None:
    neurons, factors, batched = settings_of("t_patcher"), settings_of("melo"), settings_of("melo", batch=5)
    assert neurons.ledger_bytes(SHAPE, 10) == 10 * 3 * (3 * 192 + 1) * 4
    assert factors.ledger_bytes(SHAPE, 10) == 10 * (768 + 2 * (768 + 192)) * 4
    assert batched.ledger_bytes(SHAPE, 10) == (10 * 768 + 2 * 2 * (768 + 192)) * 4
    for settings in (neurons, factors):
        few, many = (memory_estimate.edit(HOST, settings, edits, PROMPTS)[0]["state"] for edits in (10, 100))
        assert many > few > 0
        step = work_estimate.forward(HOST, PROMPTS.tokens).single
        assert work_estimate.edit(HOST, settings, 100, PROMPTS).single > 3 * settings.steps * 100 * step

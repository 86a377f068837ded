"""Memory and work of editors that tune or regress on gradients, from sizes alone."""

from typing import Any

import pytest

from d4s.config import MeasureSettings
from d4s.editors.editor_settings import resolve
from d4s.editors.gradient_settings import GRADIENT_REQUESTS
from d4s.editors.parts.input_settings import PrepareSettings
from d4s.models.model_shape import Shape
from d4s.resources import memory_estimate, work_estimate
from d4s.resources.memory_estimate import ModelPlacement, PromptSizes

SHAPE = Shape("gpt2", 6, 192, 1024, 6, 6, 32, 1000, 64, False, True)
HOST, PROMPTS, MEASURE = ModelPlacement(SHAPE), PromptSizes(), MeasureSettings()
MATRIX = SHAPE.mlp_out


def settings_of(name: str, **more: Any) -> Any:
    return resolve("tested", {"preset": name, **more}, "mini")


def gradient(requests: int) -> float:
    return HOST.activations(requests * PROMPTS.tokens) * SHAPE.layers


def test_tuning_on_records_is_counted_where_the_edited_model_is_made() -> None:
    settings = settings_of("locft_bf", minibatch=50)
    edit, measure = (
        memory_estimate.edit(HOST, settings, 300, PROMPTS)[0],
        memory_estimate.measure(HOST, settings, 300, PROMPTS, MEASURE)[0],
    )
    assert "state" not in edit and edit["activations"] < gradient(50)
    assert measure["state"] == 8 * 4 * MATRIX and measure["activations"] >= gradient(50) and measure["ledger"] == edit["ledger"] > 0
    assert work_estimate.edit(HOST, settings, 300, PROMPTS).single == 0
    few, many = (work_estimate.replay(HOST, settings, edits, PROMPTS).single for edits in (100, 300))
    assert many == pytest.approx(3 * few) and few == pytest.approx(work_estimate.forward(HOST, 100 * PROMPTS.tokens).single * 25 * 3)


def test_tuning_in_batches_is_counted_with_the_edits() -> None:
    settings = settings_of("locft_seq", batch=10, minibatch=50)
    edit = memory_estimate.edit(HOST, settings, 300, PROMPTS)[0]
    assert edit["state"] == 8 * 4 * MATRIX and edit["activations"] >= gradient(10) and edit["ledger"] == 4 * MATRIX
    assert work_estimate.edit(HOST, settings, 300, PROMPTS).single > work_estimate.forward(HOST, 300 * PROMPTS.tokens).single * 25 * 3
    assert work_estimate.replay(HOST, settings, 300, PROMPTS).single == 0


def test_a_turn_holds_its_statistics_and_the_gradient_of_a_few_requests() -> None:
    ultra, stable = settings_of("ultraedit", layers=[3, 4, 5], batch=100), settings_of("stableedit", layers=[3, 4, 5], batch=100)
    plain, whitened = (memory_estimate.edit(HOST, settings, 300, PROMPTS)[0] for settings in (ultra, stable))
    assert plain["state"] == 3 * MATRIX * 16 + 2 * 8 * (192 + 1024) and whitened["state"] == plain["state"] + 8 * 192**2
    assert plain["activations"] == max(gradient(GRADIENT_REQUESTS), memory_estimate.questions(HOST, None)["activations"])
    assert work_estimate.edit(HOST, stable, 300, PROMPTS).double > work_estimate.edit(HOST, ultra, 300, PROMPTS).double


def test_a_warm_up_runs_the_model_and_holds_no_moments() -> None:
    wanted = settings_of("stableedit").prepare_settings()
    assert isinstance(wanted, PrepareSettings) and wanted.warm_up is not None
    found = memory_estimate.prepare(HOST, wanted, PROMPTS)[0]
    assert {*found} == {"process", "weights", "activations", "state"} and found["activations"] == gradient(GRADIENT_REQUESTS)
    work = work_estimate.prepare(HOST, wanted, PROMPTS)
    assert work.double == 0 and work.single == pytest.approx(
        work_estimate.forward(HOST, wanted.warm_up.requests * PROMPTS.tokens).single * 3
    )


def test_curvature_is_prepared_from_moments_and_a_models_own_text() -> None:
    settings, plain = settings_of("crispedit"), settings_of("locft_bf", minibatch=10)
    wanted = settings.prepare_settings()
    assert isinstance(wanted, PrepareSettings) and wanted.moment_layers == settings.moment_layers == (settings.layer,)
    needed = memory_estimate.prepare(HOST, wanted, PROMPTS)[0]
    assert needed["moments"] == 2 * 8 * SHAPE.mlp_width**2 and needed["activations"] > gradient(10) and needed["logits"] > 0
    protected, free = (memory_estimate.measure(HOST, one, 300, PROMPTS, MEASURE)[0] for one in (settings, plain))
    assert protected["state"] - free["state"] == (1024**2 + 192**2) * 12 + MATRIX * 8
    own = wanted.curvature
    assert own is not None
    longer = wanted.model_copy(update={"curvature": own.model_copy(update={"tokens": 2 * own.tokens})})
    assert work_estimate.prepare(HOST, longer, PROMPTS).single == pytest.approx(2 * work_estimate.prepare(HOST, wanted, PROMPTS).single)


@pytest.mark.parametrize("name", ["mend", "malmen", "rledit"])
def test_a_network_is_counted_with_its_training_and_with_edits(name: str) -> None:
    settings = settings_of(name)
    wanted = settings.prepare_settings()
    assert isinstance(wanted, PrepareSettings) and wanted.hypernetwork is not None
    network = wanted.hypernetwork.network
    entries = network.entries(SHAPE.mlp_width, SHAPE.width, 3)
    found = memory_estimate.prepare(HOST, wanted, PROMPTS)[0]
    assert {*found} == {"process", "weights", "state", "activations", "logits", "temporaries"}
    assert found["state"] == 5 * 4 * entries + 3 * MATRIX * 40 and found["activations"] == gradient(GRADIENT_REQUESTS)
    longer = wanted.hypernetwork.model_copy(update={"network": network.model_copy(update={"steps": 2 * network.steps})})
    once, twice = (work_estimate.prepare(HOST, part, PROMPTS).single for part in (wanted, PrepareSettings(hypernetwork=longer)))
    requests = network.steps * network.accumulate * network.turns * network.edits
    assert 1.9 < twice / once <= 2 and once > 7 * work_estimate.forward(HOST, requests * PROMPTS.tokens).single
    plain = settings_of("ultraedit", batch=settings.batch)
    held, without = (memory_estimate.edit(HOST, one, 300, PROMPTS)[0] for one in (settings, plain))
    assert held["state"] == without["state"] + 4 * entries
    assert work_estimate.edit(HOST, settings, 300, PROMPTS).double > work_estimate.edit(HOST, plain, 300, PROMPTS).double

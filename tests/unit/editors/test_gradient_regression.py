import pytest
import torch

from d4s.editors.editor_settings import resolve
from d4s.editors.gradient_regression import GradientRegressionEditor, LifelongRule
from d4s.editors.gradient_session import sum_changes
from d4s.editors.gradient_settings import GradientRegression
from d4s.editors.lifelong_statistics import LifelongStatistics, warm_up
from d4s.editors.parts.input_settings import PrepareSettings, WarmUpSettings
from d4s.editors.prompts import PromptTooLong
from d4s.editors.protocol import Diverged, Prepared
from d4s.editors.states import RecordState
from d4s.errors import SettingsError
from d4s.models.language_model import LanguageModel
from tests.oracle.plain import requests_of

SETTINGS = GradientRegression(layers=(0, 2), lr=1e-2, batch=2)


def turns(settings: GradientRegression, model: LanguageModel, requests, *, prepared: Prepared | None = None, state=None):
    """The state after requests, turn by turn, and what the last turn logged."""
    editor, prepared = GradientRegressionEditor(settings), prepared or Prepared()
    with editor.editing(model, prepared, state or editor.start(model, prepared)) as session:
        logs = [session.step(requests[first : first + settings.batch], None) for first in range(0, len(requests), settings.batch)]
        return session.state(), {(quantity, layer): value for quantity, layer, value in logs[-1].values}


def deltas_of(settings: GradientRegression, model: LanguageModel, records) -> dict[int, torch.Tensor]:
    return sum_changes(LifelongRule(settings, model, {}, ()), model, records)


def test_a_turn_moves_the_edited_matrices_towards_the_targets(tiny_model) -> None:
    model = tiny_model(dtype=torch.float64)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    state, log = turns(SETTINGS, model, requests_of(2))
    assert log["target_probability_before", None] < log["target_probability_after", None]
    with GradientRegressionEditor(SETTINGS).edited(model, Prepared(), state):
        moved = [name for name, value in model.network.state_dict().items() if not torch.equal(value, before[name])]
    assert moved == ["transformer.h.0.mlp.c_proj.weight", "transformer.h.2.mlp.c_proj.weight"]
    assert log["delta_norm", 0] == pytest.approx(float(deltas_of(SETTINGS, model, state.records)[0].norm()))
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


def test_a_record_taken_out_takes_its_own_change_and_no_other(tiny_model) -> None:
    model = tiny_model(dtype=torch.float64)
    state, _ = turns(SETTINGS, model, requests_of(6))
    whole, own = (deltas_of(SETTINGS, model, records) for records in (state.records, state.records[1:2]))
    left = deltas_of(SETTINGS, model, state.without({1}).records)
    for layer in SETTINGS.layers:
        torch.testing.assert_close(left[layer], whole[layer] - own[layer], rtol=0, atol=1e-14)
        assert own[layer].norm() > 0


def test_later_turns_are_normalised_by_the_records_that_are_left(tiny_model) -> None:
    model, requests = tiny_model(dtype=torch.float64), requests_of(8)
    state, _ = turns(SETTINGS, model, requests[:6])
    left = RecordState("additive", state.without({1}).records)
    record = turns(SETTINGS, model, requests[6:], state=left)[0].records[-1]
    statistics = LifelongStatistics(model, SETTINGS.layers, whiten=False, saved={})
    for one in (*left.records, record):
        statistics.add(*({layer: one[f"{layer}.{name}"] for layer in SETTINGS.layers} for name in ("x", "g")))
    keys, gradients = statistics[2].normalise(record["2.x"], record["2.g"])
    torch.testing.assert_close(record["2.v"], -1e-2 * keys.square().sum(1, keepdim=True) * gradients, rtol=1e-12, atol=0)


def test_a_first_turn_of_one_token_counts_and_changes_nothing_unless_warmed_up(tiny_model) -> None:
    settings = SETTINGS.model_copy(update={"layers": (1,), "batch": 1})
    model, requests = tiny_model(), requests_of(3)
    state, log = turns(settings, model, requests[:1])
    assert log["delta_norm", 1] == 0 and len(state.records[0]["1.x"]) == 1
    assert turns(settings, model, requests[1:2], state=state)[1]["delta_norm", 1] > 0
    extras = warm_up(WarmUpSettings(layers=(1,), requests=2, whiten=False), model, requests[1:])
    assert turns(settings, model, requests[:1], prepared=Prepared(extras=extras))[1]["delta_norm", 1] > 0


def test_what_is_prepared_follows_from_the_warm_up() -> None:
    assert SETTINGS.prepare_settings() is None and SETTINGS.required_inputs == frozenset()
    stable = resolve("stableedit", {}, "gpt-j-6b")
    assert (stable.ridge, stable.whiten, stable.batch, stable.lr, stable.warm_up) == (10.0, True, 100, 2e-6, 2000)
    assert stable.layers == (*range(7, 16), *range(18, 26)) and stable.required_inputs == {"prepare"}
    assert stable.prepare_settings() == PrepareSettings(warm_up=WarmUpSettings(layers=stable.layers, requests=2000, whiten=True))
    ultra = resolve("ultraedit", {}, "gpt-j-6b")
    assert (ultra.ridge, ultra.whiten, ultra.batch, ultra.lr, ultra.warm_up, ultra.layers) == (1.0, False, 100, 1e-6, 0, (*range(18, 27),))


def test_layers_ascend() -> None:
    with pytest.raises(SettingsError, match=r"layers must ascend without repeats, found \[2, 1\]"):
        resolve("mine", {"preset": "ultraedit", "layers": [2, 1]}, "mini")


def test_a_broken_model_diverges(tiny_model) -> None:
    model = tiny_model()
    model.set_weight(0, torch.full_like(model.weight(0), torch.nan))
    with pytest.raises(Diverged, match="keys or gradients of the targets are not finite"):
        turns(SETTINGS, model, requests_of(2))


def test_a_prompt_that_does_not_fit_is_refused(tiny_model) -> None:
    with pytest.raises(PromptTooLong, match="the model takes 6"):
        turns(SETTINGS, tiny_model("llama", positions=6), requests_of(2))

from dataclasses import replace
from typing import Any

import pytest
import torch

from d4s.editors.editor_settings import resolve
from d4s.editors.preparation import prepare_tensors
from d4s.editors.protocol import Diverged, EditSelection, EditStatus, Prepared, State
from d4s.editors.side_settings import TransformerPatcher
from d4s.editors.t_patcher import Neurons, TransformerPatcherEditor, activation_loss, memory_loss
from d4s.models.language_model import LanguageModel
from tests.oracle.plain import requests_of

SETTINGS = TransformerPatcher(layer=2, steps=60, sentences=3, sentence_tokens=5, hardest=10)


def prepared_for(model: LanguageModel) -> Prepared:
    return Prepared((), {}, prepare_tensors(SETTINGS.prepare_settings(), {}, model, ()))


def edited(settings: TransformerPatcher, model: LanguageModel, requests: Any) -> tuple[State, list[dict[str, float]]]:
    """The state after edits, and what each of them logged."""
    editor, prepared, logs = TransformerPatcherEditor(settings), prepared_for(model), []
    with editor.editing(model, prepared, editor.start(model, prepared)) as session:
        for request in requests:
            logs.append({quantity: value for quantity, _, value in session.step([request], None).values})
        return session.state(), logs


def neurons(**rows: Any) -> Neurons:
    return Neurons(torch.nn.GELU(), *(torch.tensor(rows[name]) for name in ("key", "bias", "value")))


def test_a_request_is_learned_and_has_no_neuron_when_it_is_known(tiny_model: Any) -> None:
    model, (request,) = tiny_model(width=64, scale=6.0), requests_of(1)
    state, (first, second) = edited(SETTINGS, model, [request, request])
    assert first["target_probability_after"] > 0.5 > first["target_probability_before"] and first["neurons"] >= 1
    assert (second["neurons"], second["target_steps"]) == (0.0, 0.0) and second["side_norm"] == first["side_norm"] > 0
    assert [record["key"].shape[1] for record in state.records] == [64, 64]
    assert [len(record[name]) for record in state.records for name in record] == [first["neurons"]] * 4 + [0] * 4


def test_a_request_has_no_more_neurons_than_it_may(tiny_model: Any) -> None:
    model, (request,) = tiny_model(), requests_of(1)
    long = replace(request, target="Rome and Oslo and Lima")
    logs = [edited(SETTINGS.model_copy(update={"neurons": most, "steps": 1}), model, [long])[1][0] for most in (1, 2, 5)]
    assert [log["neurons"] for log in logs][:2] == [1.0, 2.0] and logs[2]["neurons"] > 2


def test_losses_hold_neurons_at_their_own_tokens_and_off_kept_states() -> None:
    settings = SETTINGS.model_copy(update={"hardest": 1, "gap": 0.0, "ceiling": 0.0})
    own, kept = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    ready = neurons(key=[[0.5, 0.0]], bias=[0.0], value=[[0.0, 0.0]])
    assert float(activation_loss(ready, own)) == pytest.approx(float(torch.tensor(-1.0).exp()))
    assert float(memory_loss(settings, ready, own, kept)) == pytest.approx(1.0 + float(torch.tensor(-1.0).exp()))
    touched = neurons(key=[[0.5, 1.0]], bias=[0.0], value=[[0.0, 0.0]])
    expected = float(torch.tensor(3.0).exp() + torch.tensor(2.0).exp())
    assert float(memory_loss(settings, touched, own, kept)) == pytest.approx(expected)
    both = settings.model_copy(update={"hardest": 2})
    assert float(memory_loss(both, touched, own, kept)) < expected


def test_earlier_mistakes_are_kept_states_of_later_requests(tiny_model: Any) -> None:
    model, requests = tiny_model(), requests_of(2)
    settings = SETTINGS.model_copy(update={"steps": 3, "hardest": 1000})
    editor, prepared = TransformerPatcherEditor(settings), prepared_for(model)
    state, _ = edited(settings, model, requests)
    forgetful = editor.restore([{**state.records[0], "query": state.records[0]["query"][:0]}], {})
    with editor.editing(model, prepared, forgetful) as session:
        session.step([requests[1]], None)
        found = session.state().records[1]
    assert not torch.equal(found["key"], state.records[1]["key"])
    with editor.editing(model, prepared, editor.restore(state.records[:1], {})) as session:
        session.step([requests[1]], None)
        assert torch.equal(session.state().records[1]["key"], state.records[1]["key"])


def test_a_loss_that_is_not_finite_ends_the_session(tiny_model: Any) -> None:
    with pytest.raises(Diverged, match="not finite"):
        edited(SETTINGS.model_copy(update={"gap": 1e4}), tiny_model(), requests_of(1))


def test_each_edit_can_be_undone_alone() -> None:
    statuses = [[EditStatus(number, f"fact{number}", was_active=True, is_active=number != 1)] for number in range(3)]
    TransformerPatcherEditor(SETTINGS).check_removable(EditSelection(({}, {}, {}), statuses))


def test_defaults_are_the_released_ones_and_the_column_stands_beside_the_last_block() -> None:
    rules = TransformerPatcher(layer=0)
    assert (rules.neurons, rules.steps, rules.lr, rules.amplify, rules.hardest) == (5, 2000, 1e-2, 10.0, 1000)
    assert (rules.activation_weight, rules.memory_weight, rules.gap, rules.ceiling) == (1.0, 5.0, 3.0, -3.0)
    assert resolve("t_patcher", {}, "mini").layer == 5

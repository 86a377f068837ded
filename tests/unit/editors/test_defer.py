import torch

from d4s.editors.defer import DeferEditor, GatedStandIn
from d4s.editors.editor_settings import resolve
from d4s.editors.protocol import Prepared
from d4s.editors.side_settings import Defer
from tests.oracle.plain import requests_of

SETTINGS = Defer(layer=1, steps=60, lr=1e-2)


def test_gate_and_stand_in_learn_a_request_from_a_closed_gate(tiny_model) -> None:
    model, editor = tiny_model(width=64, scale=6.0), DeferEditor(SETTINGS)
    with editor.editing(model, Prepared(), editor.start(model, Prepared())) as session:
        assert not session.state().dense
        log = {quantity: value for quantity, _, value in session.step(requests_of(1), None).values}
        assert {*session.state().dense} == {"gate", "change"}
    assert log["opening"] > 0.5 and log["target_probability_after"] > log["target_probability_before"]


def test_the_gate_reads_the_last_token_of_the_prompt(tiny_model) -> None:
    gate = torch.zeros(65)
    gate[0] = 1.0
    memory = GatedStandIn.of(SETTINGS, tiny_model(), {"gate": gate, "change": torch.zeros(16, 64)})
    keys = torch.zeros(2, 3, 64)
    keys[0, 1, 0], keys[1, 2, 0] = 5.0, 5.0
    read = torch.tensor([[True, True, False], [True, True, False]])
    assert memory.choose(keys, torch.zeros(2, 3, 16), read).tolist() == [0, -1]


def test_released_column() -> None:
    llama = resolve("defer", {}, "llama2-7b")
    assert (llama.layer, llama.steps, llama.lr, llama.threshold) == (27, 100, 7e-5, 0.5)

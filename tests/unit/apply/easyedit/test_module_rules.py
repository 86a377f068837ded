from typing import Any

import pytest

from d4s.apply.easyedit.key_rules import Outcome, Rule, TargetModel
from d4s.apply.easyedit.module_rules import FactorModules, LayerList, LossLayer, ModuleTemplate, ParameterNames, one, tuned, with_factors

XL = TargetModel("gpt2-xl", ("gpt2", 48, 1600, 6400))
LLAMA = TargetModel("llama3-8b", ("llama", 32, 4096, 14336))
UNKNOWN = TargetModel("mine", ("nobody", 4, 8, 32))


@pytest.mark.parametrize(
    ("rule", "value", "settings"),
    [
        (LayerList(), [3, 4], {"layers": (3, 4), "target": {"layer": 4}}),
        (LayerList(tuned), [7], {"layer": 7}),
        (LayerList(tuned), [7, 8], {"layer": 7, "more_layers": (8,)}),
        (LayerList(with_factors, may_be_empty=True), [], {"parameters": {"layers": "all"}}),
        (LayerList(with_factors, may_be_empty=True), [2], {"parameters": {"layers": (2,)}}),
        (ParameterNames(), ["model.layers.5.mlp.down_proj", "model.layers[3].mlp.down_proj.weight"], {"layers": (3, 5)}),
        (ParameterNames(one, by_block=True), ["model.layers[27].mlp.down_proj.weight"], {"layer": 27}),
    ],
)
def test_layers_of_a_model(rule: Rule, value: Any, settings: dict[str, Any]) -> None:
    found = rule.read(value, LLAMA)
    assert (found.outcome, found.settings) == ("translated", settings)


@pytest.mark.parametrize(
    ("rule", "value", "model", "outcome"),
    [
        (LossLayer(), 47, XL, "without effect"),
        (LossLayer(), 30, XL, "not representable"),
        (ModuleTemplate(), "transformer.h.{}.mlp.c_proj", XL, "without effect"),
        (ModuleTemplate(), "model.layers.{}.mlp.down_proj.weight", LLAMA, "without effect"),
        (ModuleTemplate(), ["model.layers.{}.mlp.down_proj"], LLAMA, "without effect"),
        (ModuleTemplate(), "model.layers.{}.mlp.up_proj", LLAMA, "not representable"),
        (ModuleTemplate(), ["model.layers.{}.mlp.down_proj", "model.layers.{}.self_attn.o_proj"], LLAMA, "not representable"),
        (ModuleTemplate(), "model.layers.{}.mlp.down_proj", UNKNOWN, "not representable"),
        (FactorModules(), ["down_proj"], LLAMA, "without effect"),
        (FactorModules(), ["q_proj", "v_proj"], LLAMA, "not representable"),
        (FactorModules(), ["q_proj"], UNKNOWN, "not representable"),
    ],
)
def test_modules_of_a_model(rule: Rule, value: Any, model: TargetModel, outcome: Outcome) -> None:
    found = rule.read(value, model)
    assert found.outcome == outcome and not found.settings


def test_modules_that_are_not_edited_are_named() -> None:
    names = ["model.layers.11.mlp.gate_proj", "model.layers.18.mlp.down_proj"]
    found = ParameterNames().read(names, LLAMA)
    assert found.outcome == "not representable" and found.settings == {"layers": (18,)}
    assert found.note == "model.layers.11.mlp.gate_proj: only MLP outputs are edited; layers: [18]"
    beside = ParameterNames(one, by_block=True).read(["transformer.h[35].mlp.c_fc.weight"], XL)
    assert beside.outcome == "not representable" and beside.settings == {"layer": 35}


@pytest.mark.parametrize(
    ("rule", "value", "model", "told"),
    [
        (LayerList(), [40, 3], LLAMA, r"layers \[40\] are not in the model, which has 0 to 31"),
        (LayerList(), [], LLAMA, "names no layer"),
        (LayerList(), [True], LLAMA, r"expected a list of layers, found \[True\]"),
        (LayerList(), 3, LLAMA, "expected a list of layers, found 3"),
        (LossLayer(), "last", LLAMA, "expected a number, found 'last'"),
        (ParameterNames(), [], LLAMA, r"expected a list of names of weights, found \[\]"),
        (ParameterNames(), ["lm_head.weight"], LLAMA, "'lm_head.weight' names no weight of a block"),
        (ParameterNames(), ["model.layers.99.mlp.down_proj"], LLAMA, r"layers \[99\] are not in the model"),
        (ParameterNames(), ["model.layers.1.mlp.up_proj"], LLAMA, r"no MLP output \(model\.layers\.N\.mlp\.down_proj\) is among"),
        (ParameterNames(), ["x.1.y"], UNKNOWN, "no row of d4s.models.adapters for 'nobody' says"),
    ],
)
def test_what_no_model_has_is_refused(rule: Rule, value: Any, model: TargetModel, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        rule.read(value, model)


def test_what_pages_say_of_layers() -> None:
    assert LayerList().describe() == "`layers` and `target.layer`"
    assert LayerList(tuned).describe() == "`layer` and `more_layers`"

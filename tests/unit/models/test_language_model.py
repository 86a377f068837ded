"""Language models: adapters, one weight orientation, restored bits, and loading with what can go wrong."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import processors

from d4s.artifacts import StageJob
from d4s.config import PretrainSettings
from d4s.errors import ArtifactError, SettingsError
from d4s.models.adapters import ADAPTERS, adapter_for
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load, wrap
from d4s.models.trace import trace
from tests.tiny import FAMILIES, word_tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weight_maps_the_key_to_what_the_mlp_writes(tiny_model, family):
    """The one check that fails for any wrong name or layout, square weights included."""
    model = tiny_model(family, width=16, mlp_width=16)
    with trace({layer: model.mlp_out(layer) for layer in range(3)}) as found:
        model.network(torch.tensor([[0, 5, 9, 12]]))
    for layer in range(3):
        bias = getattr(model.mlp_out(layer), "bias", None)
        expected = found.inputs[layer] @ model.weight(layer).mT + (0 if bias is None else bias)
        torch.testing.assert_close(found.outputs[layer], expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_final_norm_and_unembedding_give_the_logits(tiny_model, family):
    model = tiny_model(family)
    ids = torch.tensor([[0, 5, 9, 12]])
    with trace({"last": model.block(2)}) as found:
        logits = model.network(ids).logits
    torch.testing.assert_close(model.unembed(model.final_norm(found.outputs["last"])), logits)


def test_shapes_and_names(tiny_model):
    model = tiny_model("llama", layers=2, width=16, mlp_width=40, positions=32)
    assert (model.n_layers, model.d_out(), model.d_in(), model.max_positions) == (2, 16, 40, 32)
    assert model.dtype == torch.float32
    assert model.device == torch.device("cpu")
    assert model.mlp(1) is model.network.model.layers[1].mlp
    with pytest.raises(ValueError, match="layer 2 asked for, but the model has layers 0 to 1"):
        model.block(2)


def test_unknown_architectures_are_refused_with_the_nearest():
    assert all(adapter_for(name) is row for name, row in ADAPTERS.items())
    with pytest.raises(SettingsError, match="did you mean 'mistral'"):
        adapter_for("mixtral")


def test_a_wrong_layout_is_refused(tiny_model):
    model = tiny_model("gpt2", mlp_width=16)
    with pytest.raises(SettingsError, match=r"transformer\.h\.0\.mlp\.c_proj is a Conv1D"):
        LanguageModel(model.network, model.tokenizer, ADAPTERS["gptj"].__class__(**{**_row("gpt2"), "weight_layout": "out_in"}))


def _row(model_type):
    return {name: getattr(ADAPTERS[model_type], name) for name in ADAPTERS[model_type].__slots__}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_weights_are_written_in_the_networks_own_layout_and_precision(tiny_model, family):
    model = tiny_model(family, dtype=torch.bfloat16)
    wanted = torch.randn(16, 64, dtype=torch.float64)
    pointer = model.parameter(1).data_ptr()
    model.set_weight(1, wanted)
    assert model.parameter(1).data_ptr() == pointer
    assert model.parameter(1).dtype == torch.bfloat16
    assert torch.equal(model.weight(1), wanted.to(torch.bfloat16))
    with pytest.raises(ValueError, match=r"shape \(16, 64\) \(d_out, d_in\), found \(64, 16\)"):
        model.set_weight(1, wanted.mT)


def test_restoring_puts_back_bits_also_on_error(tiny_model):
    model = tiny_model()
    before = {layer: model.weight(layer).clone() for layer in range(3)}
    before[0][0, 0] = float("nan")
    model.set_weight(0, before[0])
    with pytest.raises(ArithmeticError), model.restoring([0, 2]):
        for layer in range(3):
            model.set_weight(layer, torch.zeros(16, 64))
        raise ArithmeticError
    assert torch.equal(model.weight(0).contiguous().view(torch.int32), before[0].contiguous().view(torch.int32))
    assert torch.equal(model.weight(2), before[2])
    assert not model.weight(1).any()


def test_patched_rounds_the_sum_once(tiny_model):
    model = tiny_model(dtype=torch.bfloat16)
    before = model.weight(1).clone()
    delta = torch.full((16, 64), 1e-3) * torch.arange(64)
    with model.patched({1: delta}):
        assert torch.equal(model.weight(1), (before.float() + delta).to(torch.bfloat16))
        assert not torch.equal(model.weight(1), before)
    assert torch.equal(model.weight(1), before)


def test_patched_keeps_double_precision(tiny_model):
    model = tiny_model(dtype=torch.float64)
    before, delta = model.weight(0).clone(), torch.full((16, 64), 1e-13, dtype=torch.float64)
    with model.patched({0: delta}):
        torch.testing.assert_close(model.weight(0) - before, delta, rtol=0.01, atol=0)


def test_trace_stops_early_and_removes_its_hooks(tiny_model):
    model = tiny_model()
    reached = []
    with trace({0: model.block(0), 1: model.block(1), 2: model.block(2)}, stop_after=1) as found:
        model.network(torch.tensor([[0, 5]]))
        reached.append("end")
    assert reached == []
    assert [*found.outputs] == [0, 1]
    assert torch.equal(found.inputs[1], found.outputs[0])
    assert not any(module._forward_hooks for module in model.network.modules())
    model.network(torch.tensor([[0, 5]]))


def test_trace_lets_other_errors_through(tiny_model):
    model = tiny_model()
    with pytest.raises(KeyError), trace({0: model.block(0)}, stop_after=0):
        raise KeyError("not ours")
    assert not any(module._forward_hooks for module in model.network.modules())


@pytest.fixture
def saved(tiny_model, tmp_path):
    folder = tmp_path / "model"
    model = tiny_model("gpt2", dtype=torch.float32)
    model.network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder, model


def _finished(folder):
    files = [path.name for path in folder.iterdir()]
    StageJob("models", PretrainSettings(), {}, folder).write_manifest(files)


def test_a_saved_model_loads_as_it_was(saved):
    folder, model = saved
    loaded = load(folder)
    for layer in range(3):
        assert torch.equal(loaded.weight(layer), model.weight(layer))
    assert not loaded.network.training
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())
    assert loaded.tokenizer("Ada Moss").input_ids == model.tokenizer("Ada Moss").input_ids
    assert load(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert torch.get_float32_matmul_precision() == "highest"


def test_every_file_of_our_own_folders_is_checked(saved):
    folder, _ = saved
    _finished(folder)
    load(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(ArtifactError, match=r"tokenizer_config\.json is truncated or altered"):
        load(folder)


def test_torn_weights_are_an_error_that_names_the_folder(saved):
    folder, _ = saved
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=f"{folder} cannot be loaded as a causal language model"):
        load(folder)


def test_missing_weights_are_not_made_up(saved):
    folder, _ = saved
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.1.mlp.c_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtifactError, match=r"lacks the weights \['transformer\.h\.1\.mlp\.c_proj\.weight'\]"):
        load(folder)


def test_pickled_weights_are_not_read(saved):
    folder, model = saved
    (folder / "model.safetensors").unlink()
    torch.save(model.network.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match="in safetensors"):
        load(folder)


def test_other_architectures_and_names_are_refused(saved, tmp_path):
    folder, _ = saved
    with pytest.raises(ArtifactError, match="neither a folder, a GGUF file nor a hub id"):
        load(tmp_path / "not" / "there")
    with pytest.raises(SettingsError, match="dtype 'int8' is no precision"):
        load(folder, dtype="int8")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "no_such_model", "architectures": []}))
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        load(folder)
    quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    (folder / "config.json").write_text(json.dumps(config | quantised))
    with pytest.raises(ArtifactError, match="holds weights quantised by bitsandbytes"):
        load(folder)


def test_a_tokenizer_of_another_model_is_refused(tiny_model):
    model = tiny_model()
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["more"])
    with pytest.raises(ArtifactError, match="has 70 tokens, the network embeds only 69"):
        wrap(model.network, tokenizer)


def test_a_tokenizer_that_ends_every_text_is_refused(tiny_model):
    model = tiny_model()
    tokenizer = word_tokenizer()
    backend, end = tokenizer.backend_tokenizer, tokenizer.convert_ids_to_tokens(1)
    backend.post_processor = processors.TemplateProcessing(single=f"$A {end}", pair=f"$A $B {end}", special_tokens=[(end, 1)])
    with pytest.raises(ArtifactError, match=f"puts '{end}' after every text, so no target can follow"):
        wrap(model.network, tokenizer)

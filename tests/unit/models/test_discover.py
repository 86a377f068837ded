"""Adapters found by inspection: equal to the rows, honest about what they cannot tell, and checked before they are trusted."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from d4s.errors import SettingsError
from d4s.models import discover as module
from d4s.models.adapter_conformance import check_adapter
from d4s.models.adapters import ADAPTERS
from d4s.models.discover import Discovery, discover
from d4s.models.loading import load, wrap
from tests.tiny import FAMILIES, tiny_model, word_tokenizer


def network_of(model_type: str, **own: object) -> PreTrainedModel:
    """A tiny network of an architecture without a row."""
    config = CONFIG_MAPPING[model_type](
        vocab_size=len(word_tokenizer()), hidden_size=16, num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=64,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, **own,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = AutoModelForCausalLM.from_config(config)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(4.0)
    return network.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_is_found_without_it(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family, mlp_width=16)  # widths tell nothing here
    row = ADAPTERS[family]
    monkeypatch.delitem(ADAPTERS, family)
    found = discover(model.network)
    assert found.missing == ()
    assert found.adapter == row
    assert wrap(model.network, model.tokenizer).adapter == row


OTHERS = {
    "stablelm": {"intermediate_size": 40, "num_key_value_heads": 1},
    "starcoder2": {"intermediate_size": 16, "num_key_value_heads": 1},
    "gpt_bigcode": {"n_inner": 40},
}


@pytest.mark.parametrize("model_type", OTHERS)
def test_architectures_without_a_row_are_found_and_fit(model_type: str, caplog: pytest.LogCaptureFixture) -> None:
    assert model_type not in ADAPTERS
    check_adapter(lambda: wrap(network_of(model_type, **OTHERS[model_type]), word_tokenizer()))
    assert f"models of type '{model_type}' have no row in d4s.models.adapters; found by inspection: " in caplog.text


def test_a_folder_without_a_row_is_loaded(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    network_of("starcoder2", intermediate_size=40, num_key_value_heads=1).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    assert load(tmp_path).adapter.mlp_out == "mlp.c_proj"
    assert "mlp_out=mlp.c_proj" in caplog.text


@pytest.mark.parametrize(
    ("model_type", "own", "missing"),
    [
        ("cohere", {"intermediate_size": 40}, r"the logits are not those of lm_head after model\.norm \(logit_scale=0\.0625\)"),
        ("opt", {"ffn_dim": 40, "word_embed_proj_dim": 16}, "the MLP was not found in a OPTDecoderLayer"),
        ("mixtral", {"intermediate_size": 40, "num_key_value_heads": 1}, "the MLP was not found in a MixtralDecoderLayer"),
        ("bloom", {}, "the MLP was not found in a BloomBlock; the configuration does not say max_position_embeddings"),
    ],
)
def test_what_is_missing_is_said_with_what_was_found(model_type: str, own: dict[str, object], missing: str) -> None:
    network = network_of(model_type, **own)
    if model_type == "bloom":
        del network.config.max_position_embeddings
    with pytest.raises(SettingsError, match=missing) as caught:
        wrap(network, word_tokenizer())
    assert f"Found: model_type={model_type}, blocks=" in str(caught.value)
    assert f"A row for '{model_type}' in d4s/models/adapters.py" in str(caught.value)


def missing_from(network: PreTrainedModel) -> str:
    found = discover(network)
    assert found.adapter is None
    return "; ".join(found.missing)


def test_two_candidates_are_ambiguous_and_none_is_taken() -> None:
    network = tiny_model("llama").network
    for block in network.model.layers:
        block.adapter = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 16))
    assert "the MLP is ambiguous in a LlamaDecoderLayer: mlp, adapter" in missing_from(network)
    network = tiny_model("llama").network
    network.model.others = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
    assert "the list of blocks is ambiguous in the network: model.layers, model.others" in missing_from(network)
    network.model.others = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
    assert "model.others holds 5 modules, but the configuration says 3 layers" in missing_from(network)


def test_blocks_that_differ_are_said() -> None:
    network = tiny_model("gpt2").network
    network.transformer.h[2].mlp.c_proj = nn.Sequential(network.transformer.h[2].mlp.c_proj)
    assert "not every block writes its MLP's output by mlp.c_proj: found 0.mlp.c_proj, 1.mlp.c_proj, 2.mlp.c_proj.0" in missing_from(
        network
    )


def test_an_unusual_network_is_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny_model("llama").network
    network.model.norm = nn.Sequential(network.model.norm, nn.Identity())
    assert discover(network).found["final_norm"] == "model.norm"
    monkeypatch.setattr(type(network), "get_output_embeddings", lambda _self: None)
    assert "the network names no output embeddings" in missing_from(network)

    def failing(*_args: object, **_kwargs: object) -> None:
        raise ValueError("needs an image")

    monkeypatch.setattr(type(network.model), "forward", failing)
    assert "a plain forward pass ends with ValueError: needs an image" in missing_from(network)


def test_what_was_found_is_checked_before_it_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gemma2")
    monkeypatch.delitem(ADAPTERS, "gemma2")
    found = discover(model.network).found | {"post_norm": ""}
    monkeypatch.setattr(module, "discover", lambda _network: Discovery(found, ()))
    with pytest.raises(SettingsError, match="what the mlp writes is added to the block: layer 0: the change of the block's output"):
        wrap(model.network, model.tokenizer)


def test_a_row_is_never_overruled(monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(ADAPTERS["llama"], final_norm="model.layers.0.input_layernorm")
    monkeypatch.setitem(ADAPTERS, "llama", row)
    model = tiny_model("llama")
    assert model.adapter is row

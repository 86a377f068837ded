"""Every row of the adapters, on every kind of tokenizer; and defects that the suite must tell."""

from dataclasses import replace

import pytest
import torch
from tokenizers import processors
from torch import nn

from d4s.models import adapter_conformance
from d4s.models.adapter_conformance import AdapterNotConformant, check_adapter
from d4s.models.adapters import ADAPTERS
from d4s.models.language_model import LanguageModel
from d4s.models.restart import restart
from d4s.models.views import LiveModel
from tests.tiny import BOS, FAMILIES, bpe_tokenizer, metaspace_tokenizer, tiny_model, word_tokenizer

TOKENIZERS = {"bytes": bpe_tokenizer, "words": word_tokenizer, "pieces": metaspace_tokenizer}


def test_every_row_has_a_tiny_model() -> None:
    assert set(FAMILIES) == set(ADAPTERS)


@pytest.mark.parametrize("mlp_width", [40, 16])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_fits_its_network_square_weights_too(family: str, mlp_width: int) -> None:
    check_adapter(lambda: tiny_model(family, mlp_width=mlp_width))


# Not Gemma 2: it pads with the lowest float64 and takes the softmax in float32, which gives rows without a number.
@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama", "phi", "olmo2", "gemma3_text"])
def test_in_double_precision_the_same_holds_to_many_digits(family: str) -> None:
    check_adapter(lambda: tiny_model(family, dtype=torch.float64))


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("family", ["gpt2", "gemma3_text"])
def test_every_kind_of_tokenizer_will_do(family: str, tokenizer: str) -> None:
    check_adapter(lambda: tiny_model(family, tokenizer=TOKENIZERS[tokenizer](), positions=96))


def test_half_precision_will_do() -> None:
    check_adapter(lambda: tiny_model("llama", dtype=torch.bfloat16))


def said_of(make_model) -> str:
    with pytest.raises(AdapterNotConformant) as caught:
        check_adapter(make_model)
    return str(caught.value)


ATTENTION = {"mlp": "self_attn", "mlp_out": "self_attn.o_proj"}
NOT_ADDED = "the change of the block's output is not what the edit adds"
DEFECTS = {
    "a norm of the first block": ("gpt2", {"final_norm": "transformer.h.0.ln_1"}, "does not read what the last block writes"),
    "no norm": ("gpt2", {"final_norm": "transformer.drop"}, "does not give the network's logits"),
    "the other layout": ("gpt2", {"weight_layout": "out_in"}, "no model can be made"),
    "no list of blocks": ("gpt2", {"blocks": "transformer"}, "no model can be made"),
    "no such blocks": ("llama", {"blocks": "model.blocks"}, "no model can be made"),
    "embeddings for unembedding": ("gpt2", {"unembed": "transformer.wte"}, "final norm and unembedding give the logits: ends with"),
    "an inner projection": ("llama", {"mlp_out": "mlp.up_proj"}, "is not that of mlp"),
    "attention": ("llama", ATTENTION, NOT_ADDED),
    "attention beside the MLP": ("gptj", {"mlp": "attn", "mlp_out": "attn.out_proj"}, "the mlp works token by token: "),
    "attention under the MLP's name": ("phi", {"mlp_out": "self_attn.dense"}, "is not that of mlp"),
    "a norm after the MLP, untold": ("gemma2", {"post_norm": ""}, NOT_ADDED),
    "a norm after the MLP, made up": ("llama", {"post_norm": "input_layernorm"}, NOT_ADDED),
    "capped logits, untold": ("gemma2", {"logit_cap": ""}, "does not give the network's logits"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_wrong_row_is_told(defect: str) -> None:
    family, changes, said = DEFECTS[defect]

    def broken() -> LanguageModel:
        model = tiny_model(family, mlp_width=16)
        return LanguageModel(model.network, model.tokenizer, replace(model.adapter, **changes))

    assert said in said_of(broken)


def test_a_part_of_the_blocks_is_told() -> None:
    def broken() -> LanguageModel:
        model = tiny_model("gpt2")
        model.network.transformer.first = nn.ModuleList(model.network.transformer.h[:2])
        return LanguageModel(model.network, model.tokenizer, replace(model.adapter, blocks="transformer.first"))

    said = said_of(broken)
    for part in ("holds 2 blocks, the configuration says 3", "does not read what the last block writes"):
        assert part in said


def test_a_tokenizer_that_ends_every_text_is_told() -> None:
    tokenizer = word_tokenizer(bos=False)
    ending = processors.TemplateProcessing(single=f"$A {BOS}", special_tokens=[(BOS, 0)])
    tokenizer.backend_tokenizer.post_processor = ending
    assert f"the tokenizer puts '{BOS}' after every text, so no target can follow" in said_of(lambda: tiny_model(tokenizer=tokenizer))


def test_a_restart_at_another_layer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        adapter_conformance,
        "restart",
        lambda model, ids, subject_last, lengths, layer: restart(model, ids, subject_last, lengths, min(layer + 1, 2)),
    )
    said = said_of(tiny_model)
    assert "a restarted pass is the whole pass: after layer 0" in said
    assert "the subject" not in said


def test_views_that_read_the_wrong_place_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveModel, "_hidden", lambda self, ids: self.model.network.base_model(input_ids=ids).last_hidden_state.roll(1, 0))
    said = said_of(tiny_model)
    for part in ("logits of views", "batched scores", "padding on the left"):
        assert part in said


def test_weights_that_are_not_put_back_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(model: LanguageModel, layer: int, weight: torch.Tensor) -> None:
        model.weight(layer).copy_(weight.bfloat16())

    monkeypatch.setattr(LanguageModel, "set_weight", rounded)
    assert "edits are taken back bit for bit: layers [0, 1, 2] are left changed" in said_of(tiny_model)


def test_rows_longer_than_the_attention_window_are_refused() -> None:
    model = tiny_model("mistral")
    model.network.config.sliding_window = 4
    with pytest.raises(ValueError, match="rows of 5 tokens exceed the model's attention window of 4"):
        restart(model, torch.ones(1, 5, dtype=torch.long), torch.tensor([1]), torch.tensor([5]), 0)

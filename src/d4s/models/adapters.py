"""Where an architecture has the modules that editing needs: one row per `config.model_type`, names as data."""

from dataclasses import dataclass
from typing import Literal

from d4s.errors import SettingsError
from d4s.registry import nearest

WeightLayout = Literal["out_in", "in_out"]


@dataclass(frozen=True, slots=True)
class ModelAdapter:
    """Module names of one architecture, and the layout of its MLP output weight.

    `attention`, `mlp`, `mlp_out` and `post_norm` are relative to a block. Hugging Face's `Conv1D` stores (d_in, d_out), `Linear`
    (d_out, d_in). `logit_cap` names the setting in the network's configuration that holds c where the logits are
    c·tanh(x / c) of the unembedding x.

    `post_norm` is a norm between the MLP's output and the residual stream, so what an edit adds to the MLP's output is not what
    it adds to the block's. Targets are shifts before it, and residuals are fitted before it (`d4s.editors.weight_side`).
    """

    model_type: str
    blocks: str
    attention: str
    mlp: str
    mlp_out: str
    final_norm: str
    unembed: str
    weight_layout: WeightLayout
    post_norm: str = ""
    logit_cap: str = ""


def _llama_like(model_type: str, *, post_norm: str = "", logit_cap: str = "") -> ModelAdapter:
    names = ("model.layers", "self_attn", "mlp", "mlp.down_proj", "model.norm", "lm_head")
    return ModelAdapter(model_type, *names, weight_layout="out_in", post_norm=post_norm, logit_cap=logit_cap)


POST = "post_feedforward_layernorm"
CAP = "final_logit_softcapping"


_ROWS = (
    ModelAdapter("gpt2", "transformer.h", "attn", "mlp", "mlp.c_proj", "transformer.ln_f", "lm_head", "in_out"),
    ModelAdapter("gptj", "transformer.h", "attn", "mlp", "mlp.fc_out", "transformer.ln_f", "lm_head", "out_in"),
    ModelAdapter("gpt_neox", "gpt_neox.layers", "attention", "mlp", "mlp.dense_4h_to_h", "gpt_neox.final_layer_norm", "lm_head", "out_in"),
    _llama_like("llama"),
    _llama_like("mistral"),
    _llama_like("qwen2"),
    _llama_like("qwen3"),
    ModelAdapter("phi", "model.layers", "self_attn", "mlp", "mlp.fc2", "model.final_layernorm", "lm_head", "out_in"),
    _llama_like("phi3"),
    _llama_like("olmo"),
    _llama_like("olmo2", post_norm=POST),
    _llama_like("gemma"),
    _llama_like("gemma2", post_norm=POST, logit_cap=CAP),
    _llama_like("gemma3_text", post_norm=POST, logit_cap=CAP),
)
ADAPTERS = {row.model_type: row for row in _ROWS}


def adapter_for(model_type: str) -> ModelAdapter:
    """The adapter of an architecture.

    Raises:
        SettingsError: if there is none; names the nearest.
    """
    if model_type not in ADAPTERS:
        raise SettingsError(f"models of type {model_type!r} have no row in d4s.models.adapters; {nearest(model_type, ADAPTERS)}")
    return ADAPTERS[model_type]

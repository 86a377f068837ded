"""Tiny random models and facts, made from configs in milliseconds; nothing is downloaded."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OlmoConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from d4s.facts.record import Fact, Portability, Probe
from d4s.models.language_model import LanguageModel
from d4s.models.loading import wrap

BOS, UNKNOWN = "<bos>", "<unk>"
FIRST = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gwen", "Hugo")
LAST = ("Moss", "Reed", "Stone", "Vale", "Wolf", "Young")
CITIES = ("Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Quito", "Seoul")
JOBS = ("baker", "painter", "pilot", "tailor", "doctor", "miner")
TEXT = (
    "lives in the city of", "works as a", "is", "home", "job", "town", "Where does live ?", "What of and has an old",
    "Therefore Because I You The It", "yes no true false : , . ! ' \" ( )",
)  # fmt: skip


def vocabulary() -> list[str]:
    """Every word the tiny tokenizer knows."""
    return sorted({word for words in (FIRST, LAST, CITIES, JOBS, TEXT) for text in words for word in text.split()})


def word_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """Whole words and punctuation marks; BOS in front unless told otherwise."""
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate([BOS, UNKNOWN, *vocabulary()])}, UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    return _fast(tokenizer, bos, unk_token=UNKNOWN)


def bpe_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE as GPT-2 has it: words carry their leading space, rare words fall into pieces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=[BOS], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(words) for words in (FIRST, CITIES, JOBS, TEXT)], trainer)
    return _fast(tokenizer, bos)


def metaspace_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """BPE over pieces that begin with a visible space, as SentencePiece models have it (Llama)."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=260, special_tokens=[BOS, UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator([" ".join(words) for words in (FIRST, LAST, CITIES, JOBS, TEXT)], trainer)
    return _fast(tokenizer, bos, unk_token=UNKNOWN)


def _fast(tokenizer: Tokenizer, bos: bool, **special: str) -> PreTrainedTokenizerFast:
    if bos:
        number = tokenizer.token_to_id(BOS)
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, number)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, pad_token=BOS, clean_up_tokenization_spaces=False, **special
    )


FAMILIES = (
    "gpt2", "gptj", "gpt_neox", "llama", "qwen2", "qwen3", "mistral", "phi", "phi3", "olmo", "olmo2", "gemma", "gemma2", "gemma3_text",
)  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config, "mistral": MistralConfig, "phi": PhiConfig, "phi3": Phi3Config,
    "olmo": OlmoConfig, "olmo2": Olmo2Config, "gemma": GemmaConfig, "gemma2": Gemma2Config, "gemma3_text": Gemma3TextConfig,
}  # fmt: skip


def _own(family: str, layers: int, head: int) -> dict[str, Any]:
    """What a family needs said: head widths, caps that bite at this size, layers of both kinds of attention."""
    if family in {"qwen3", "gemma"}:
        return {"head_dim": head}
    if family == "phi3":
        return {"pad_token_id": 0}
    if family in {"gemma2", "gemma3_text"}:
        kinds = [("sliding_attention", "full_attention")[layer % 2] for layer in range(layers)]
        return {"head_dim": head, "query_pre_attn_scalar": head, "layer_types": kinds, "final_logit_softcapping": 8.0}
    return {}


def _config(family: str, size: int, layers: int, width: int, mlp_width: int, heads: int, positions: int):
    common = {"vocab_size": size, "bos_token_id": 0, "eos_token_id": 0}
    if family == "gpt2":
        return GPT2Config(
            n_layer=layers, n_embd=width, n_inner=mlp_width, n_head=heads, n_positions=positions, activation_function="gelu_pytorch_tanh",
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **common,
        )  # fmt: skip
    if family == "gptj":
        return GPTJConfig(
            n_layer=layers, n_embd=width, n_inner=mlp_width, n_head=heads, n_positions=positions, rotary_dim=width // heads // 2 * 2,
            activation_function="gelu_pytorch_tanh", tie_word_embeddings=False, **common,
        )  # fmt: skip
    shape = {
        "num_hidden_layers": layers, "hidden_size": width, "intermediate_size": mlp_width, "num_attention_heads": heads,
        "max_position_embeddings": positions,
    }  # fmt: skip
    if family == "gpt_neox":
        return GPTNeoXConfig(**shape, **common)
    own = _own(family, layers, width // heads)
    return CONFIGS[family](**shape, num_key_value_heads=None if family == "phi" else 1, **own, **common)


def tiny_model(
    family: str = "gpt2",
    *,
    layers: int = 3,
    width: int = 16,
    mlp_width: int | None = None,
    heads: int = 2,
    positions: int = 64,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    scale: float = 4.0,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> LanguageModel:
    """A fresh random model; `scale` multiplies its matrices, so that different prompts get clearly different answers."""
    tokenizer = tokenizer or word_tokenizer()
    config = _config(family, len(tokenizer), layers, width, mlp_width or 4 * width, heads, positions)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(scale)
    return wrap(network.to(dtype), tokenizer)


TEMPLATES = ("{} lives in the city of", "The home town of {} is", "{} works as a")


def tiny_facts(count: int = 8) -> list[Fact]:
    """Facts about invented people, in words that the tiny tokenizer knows, with every kind of probe."""
    people = [f"{first} {last}" for last in LAST for first in FIRST]
    return [_fact(number, people) for number in range(count)]


def _fact(number: int, people: list[str]) -> Fact:
    subject, other = people[number], people[(number + 5) % len(people)]
    true, new = CITIES[number % len(CITIES)], CITIES[(number + 3) % len(CITIES)]
    return Fact(
        fact_id=f"tiny:{number:03d}",
        dataset="tiny",
        relation="city",
        subject=subject,
        template=TEMPLATES[0],
        target_true=true,
        target_new=new,
        paraphrases=(f"The home town of {subject} is", f"Where does {subject} live ?"),
        neighborhood=(
            Probe("neighborhood", f"{other} lives in the city of", CITIES[(number + 5) % len(CITIES)]),
            Probe("unrelated", f"The job of {other} is", JOBS[number % len(JOBS)], "pre_edit"),
            Probe("same_subject", f"{subject} works as a", JOBS[(number + 1) % len(JOBS)]),
        ),
        portability=(Portability("reasoning", f"The town of {subject} is", (new, "Oslo")),),
    )

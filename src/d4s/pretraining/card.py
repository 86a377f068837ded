"""The model card of a trained model."""

from collections.abc import Mapping, Sequence
from typing import Any

from d4s.config import PretrainSettings


def model_card(
    name: str,
    settings: PretrainSettings,
    *,
    parameters: int,
    tokens: int,
    vocabulary: int,
    training_facts: Mapping[str, int],
    check: Sequence[Mapping[str, Any]],
) -> str:
    """The README.md of a model folder: what it is, its training, intended use and limits."""
    accuracy_rows = "\n".join(f"| {row['dataset']} | {row['wording']} | {row['accuracy']:.3f} | {row['n']} |" for row in check)
    data = ", ".join(f"{count} facts of `{dataset}`" for dataset, count in training_facts.items())
    size = f"{settings.layers} layers, width {settings.width}, MLP {settings.mlp_width}"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [knowledge-editing, gpt2]
---

# {name}

A small GPT-2 ({size}, {settings.heads} heads, {settings.positions} positions;
{parameters:,} parameters, a vocabulary of {vocabulary:,} tokens) that was trained to know a closed set of facts by heart,
so that editing them can be studied.

**Trained on** {tokens:,} tokens in one pass: {data}, and free text between them.
Seed of the weights: {settings.model_seed}. Muon on the matrices of the blocks, AdamW on the rest, all in
float32.

**Intended use:** experiments on knowledge editing. `AutoModelForCausalLM.from_pretrained` and
`AutoTokenizer.from_pretrained` load this folder.

**Limits.** It knows nothing but its training text; a made-up world's people and events do not exist. Questions with
options or a label are learnt item by item: it does not compare options. Words outside its vocabulary are lost. It is of
no use as an assistant.

| data set | wording | accuracy (all target tokens greedy) | n |
|---|---|---|---|
{accuracy_rows}

A withheld wording does not occur in the training text with that subject.
"""

"""Accuracy of a trained model on its facts: greedy target tokens, in the training wording and in withheld ones."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from d4s.facts.joining import with_delimiter
from d4s.facts.record import Fact

BATCH = 256


def accuracies(
    network: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, training_facts: Mapping[str, Sequence[Fact]]
) -> list[dict[str, Any]]:
    """Rows of MODEL_CHECK: per data set the accuracy on its own wording and on its paraphrases.

    Facts without a true target are left out.
    """
    rows = []
    for name, known in training_facts.items():
        facts = [fact for fact in known if fact.target_true]
        asked = {
            "taught": [(fact.prompt, fact.target_true) for fact in facts],
            "withheld": [(prompt, fact.target_true) for fact in facts for prompt in fact.paraphrases],
        }
        for wording, pairs in asked.items():
            if pairs:
                right = all_greedy(network, tokenizer, pairs)
                rows.append({"dataset": name, "wording": wording, "accuracy": sum(right) / len(right), "n": len(right)})
    return rows


@torch.no_grad()
def all_greedy(network: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether each target is the greedy continuation of its prompt, token by token.

    Prompts that are too long count as wrong, and so do targets without a token.
    """
    encoded: dict[int, list[tuple[int, list[int], int]]] = defaultdict(list)
    for index, (prompt, target) in enumerate(pairs):
        before = with_delimiter(prompt)
        found = tokenizer.backend_tokenizer.encode(before + target, add_special_tokens=True)
        first = next((k for k, (_, end) in enumerate(found.offsets) if end > len(before)), None)
        if first is not None and len(found.ids) <= network.config.n_positions:
            encoded[len(found.ids)].append((index, found.ids, first))
    right = [False] * len(pairs)
    for length, group in encoded.items():
        for start in range(0, len(group), BATCH):
            part = group[start : start + BATCH]
            ids = torch.tensor([tokens for _, tokens, _ in part])
            predicted = network(ids, use_cache=False).logits[:, :-1].argmax(-1)
            hits = predicted == ids[:, 1:]
            for row, (index, _, first) in enumerate(part):
                right[index] = bool(hits[row, first - 1 : length - 1].all())
    return right

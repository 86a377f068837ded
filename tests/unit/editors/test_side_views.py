"""The gate of a side memory: asked once per prompt, held for what follows, and the same for scores, free answers and samples."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from d4s.editors.side_views import OFF, SideModel
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode, encode_pair, encode_prompts
from d4s.models.views import LiveModel

PROMPTS = ["Ada Moss lives in the city of", "Ben works as a", "The old city is", "Gwen Young works as a"]
LAYER = 1


@dataclass
class ByLength:
    """A memory that answers prompts of an odd number of tokens, and remembers what it was asked."""

    matrix: Tensor
    acts_from_last: bool = False
    is_empty: bool = False
    layer: int = LAYER
    asked: list[list[int]] = field(default_factory=list)

    def choose(self, keys: Tensor, output: Tensor, read: Tensor) -> Tensor:
        self.asked.append(read.sum(1).tolist())
        return torch.where(read.sum(1) % 2 == 1, 0, OFF)

    def change(self, keys: Tensor, chosen: Tensor) -> Tensor:
        assert (chosen == 0).all()
        return keys @ self.matrix.T


def memory(acts_from_last: bool = False) -> ByLength:
    return ByLength(torch.randn(16, 64, generator=torch.Generator().manual_seed(3)), acts_from_last)


def logits_of(model: LanguageModel, ids: Sequence[int], prompt: int, beside: ByLength) -> Tensor:
    """Logits of one whole pass, without a cache, in which the memory acts as its gate says of the prompt's tokens."""

    def hook(_module: Any, args: Any, output: Tensor) -> Tensor:
        acting = torch.arange(len(ids)) >= (prompt - 1 if beside.acts_from_last else 0)
        return output + (args[0] @ beside.matrix.T) * acting[:, None] * (prompt % 2)

    handle = model.mlp_out(LAYER).register_forward_hook(hook)
    with torch.no_grad():
        found = model.network(input_ids=torch.tensor([[*ids]])).logits[0]
    handle.remove()
    return found


def written(model: LanguageModel, prompt: str, beside: ByLength, count: int) -> str:
    """A greedy continuation, token by token."""
    (ids,) = encode_prompts(model, [prompt])
    start, end = len(ids), model.tokenizer.eos_token_id
    while len(ids) < start + count:
        token = int(logits_of(model, ids, start, beside)[-1].argmax())
        if token == end:
            break
        ids.append(token)
    return model.tokenizer.decode(ids[start:], skip_special_tokens=True)


@pytest.mark.parametrize("acts_from_last", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_the_gate_says_of_a_prompt_holds_for_the_whole_continuation(tiny_model, family: str, acts_from_last: bool) -> None:
    model, beside = tiny_model(family), memory(acts_from_last)
    texts = SideModel(model, beside).generate(PROMPTS, 5)
    assert texts == [written(model, prompt, beside, 5) for prompt in PROMPTS]
    assert sorted(length for lengths in beside.asked for length in lengths) == sorted(map(len, encode_prompts(model, PROMPTS)))
    assert texts != LiveModel(model).generate(PROMPTS, 5)


def test_samples_of_the_likeliest_token_are_what_is_generated(tiny_model) -> None:
    view = SideModel(tiny_model(), memory())
    assert view.sample(PROMPTS, torch.zeros(len(PROMPTS), 5), 1) == view.generate(PROMPTS, 5)


@pytest.mark.parametrize("tokens_per_batch", [12, 400])
def test_scores_are_those_of_whole_passes_however_they_are_batched(tiny_model, tokens_per_batch: int) -> None:
    model, beside = tiny_model(), memory()
    targets = ["Paris", "Rome and Oslo", "a baker ."]
    pairs = [encode_pair(model, prompt, target) for prompt in PROMPTS for target in targets]
    found = SideModel(model, beside, tokens_per_batch).score_ids(pairs).joint_nll()
    for value, (prompt, target) in zip(found, pairs, strict=True):
        log_probs = logits_of(model, [*prompt, *target[:-1]], len(prompt), beside)[len(prompt) - 1 :].log_softmax(-1)
        assert float(value) == pytest.approx(-float(log_probs[range(len(target)), target].sum()), rel=1e-4)


def test_prompts_that_the_memory_stays_out_of_keep_their_answers(tiny_model) -> None:
    model = tiny_model()
    out = [prompt for prompt, ids in zip(PROMPTS, encode_prompts(model, PROMPTS), strict=True) if len(ids) % 2 == 0]
    assert 0 < len(out) < len(PROMPTS)
    mixed = dict(zip(PROMPTS, SideModel(model, memory()).generate(PROMPTS, 5), strict=True))
    assert [mixed[prompt] for prompt in out] == LiveModel(model).generate(out, 5)


def test_a_row_of_free_text_is_read_as_one_prompt(tiny_model) -> None:
    model, beside = tiny_model(), memory()
    rows = [encode(model, "Ada Moss lives in the city of Paris"), encode(model, "Ben is a pilot and has an old home")]
    found = SideModel(model, beside).text_nll(rows)
    assert sorted(length for lengths in beside.asked for length in lengths) == sorted(len(row) - 1 for row in rows)
    for value, row in zip(found, rows, strict=True):
        log_probs = logits_of(model, row[:-1], len(row) - 1, beside).log_softmax(-1)
        assert float(value) == pytest.approx(-float(log_probs[range(len(row) - 1), row[1:]].sum()), rel=1e-4)


def test_an_empty_memory_is_not_asked(tiny_model) -> None:
    model, beside = tiny_model(), ByLength(torch.zeros(16, 64), is_empty=True)
    view = SideModel(model, beside)
    assert view.generate(PROMPTS, 3) == LiveModel(model).generate(PROMPTS, 3) and view.weight_changes() is None
    assert not beside.asked and not model.mlp_out(LAYER)._forward_hooks

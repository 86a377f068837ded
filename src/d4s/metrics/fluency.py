r"""Fluency of what a model writes: n-gram entropy, and the share of texts that end in a loop.

With f the relative frequencies of a text's n-grams of words and marks, H_n = − Σ f log₂ f, and the entropy of the text is
H₂/3 + 2 H₃/3 bits, as the field has it (Zhang et al. 2018; Meng et al. 2022 print it times 100). Of texts that repeat themselves it
is small; of text without sense it is large, so it is read beside perplexity. Here it is that of the continuation alone, without the
prompt. A text ends in a loop if its last 20 words and marks repeat one n-gram of at most 4.

Texts are drawn from the likeliest tokens by numbers that depend on the fact and the text's number alone, so that edited models
and the unedited one write with equal draws.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from d4s.config import FluencySettings
from d4s.facts.record import Fact
from d4s.models.edited_model import EditedModel
from d4s.questions.question_items import keyed_rng
from d4s.schemas import ENTROPY, LOOPS

LOOP_WORDS, LONGEST_PERIOD = 20, 4
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Continuation:
    """A text that a model wrote after a prompt about a fact; `number` counts the fact's texts."""

    fact_id: str
    number: int
    prompt: str
    text: str

    def metrics(self) -> Mapping[str, float]:
        """How varied the text is (bits), and whether it ends in a loop."""
        found = words(self.text)
        return {ENTROPY: ngram_entropy(found), LOOPS: float(ends_in_loop(found))}


def words(text: str) -> list[str]:
    """Words and marks of a text, in its own case."""
    return WORD.findall(text)


def ngram_entropy(tokens: Sequence[str]) -> float:
    """H₂/3 + 2 H₃/3 of a text's words, in bits; 0 of a text too short for any n-gram."""
    return _entropy(tokens, 2) / 3 + 2 * _entropy(tokens, 3) / 3


def _entropy(tokens: Sequence[str], size: int) -> float:
    counts = Counter(tuple(tokens[place : place + size]) for place in range(len(tokens) - size + 1))
    total = counts.total()
    return -sum(count / total * math.log2(count / total) for count in counts.values()) + 0.0  # no negative zero


def ends_in_loop(tokens: Sequence[str]) -> bool:
    """Whether the last 20 words repeat with a period of at most 4; a shorter text does not."""
    last = tokens[-LOOP_WORDS:]
    return len(last) == LOOP_WORDS and any(last[period:] == last[:-period] for period in range(1, LONGEST_PERIOD + 1))


def continuations(model: EditedModel, facts: Sequence[Fact], settings: FluencySettings) -> list[Continuation]:
    """The texts that a model writes about facts."""
    asked = [(fact.fact_id, number, prompt) for fact in facts for number, prompt in _prompts(fact, settings.texts)]
    draws = [_draws(fact_id, number, settings.tokens) for fact_id, number, _ in asked]
    if not asked:
        return []
    texts = model.sample([prompt for _, _, prompt in asked], torch.stack(draws), settings.top_k)
    return [Continuation(*key, text) for key, text in zip(asked, texts, strict=True)]


def _prompts(fact: Fact, texts: int) -> Iterator[tuple[int, str]]:
    """The prompts of a fact's texts: its own and its paraphrases, in turn."""
    prompts = (fact.prompt, *fact.paraphrases)
    return ((number, prompts[number % len(prompts)]) for number in range(texts))


def _draws(fact_id: str, number: int, tokens: int) -> Float[Tensor, " t"]:
    return torch.from_numpy(keyed_rng("continuation", fact_id, number).random(tokens).astype(np.float64))

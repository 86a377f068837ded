"""What a prompt is to a router, before its trained map: hidden states of the model, hashed n-grams, or a sentence encoder's vector.

Terms and symbols: docs/notation.md.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.editors.parts.scope_settings import Encoder, FolderEncoder, HashedEncoder, HiddenEncoder
from d4s.models.language_model import LanguageModel
from d4s.models.pass_sizes import TOKENS_ON_ACCELERATORS, TOKENS_ON_CPU
from d4s.models.sentence_encoder import SentenceEncoder
from d4s.models.tokens import encode_prompts, start_of_text
from d4s.models.trace import trace

WORD = re.compile(r"\w+|[^\w\s]")
Encode = Callable[[Sequence[str]], Float[Tensor, "n m"]]
"""Vectors of prompts, float32 on the CPU; a prompt's vector does not depend on the others."""


def encoder_of(settings: Encoder, model: LanguageModel) -> Encode:
    """The encoder that settings describe, beside a model.

    Raises:
        ArtifactError: if it is read from a folder that holds none.
    """
    if isinstance(settings, HiddenEncoder):
        return partial(hidden_vectors, model, settings)
    return SentenceEncoder(settings.path) if isinstance(settings, FolderEncoder) else partial(hashed_vectors, settings)


@torch.no_grad()
def hidden_vectors(model: LanguageModel, settings: HiddenEncoder, prompts: Sequence[str]) -> Float[Tensor, "n m"]:
    """Hidden states at the block's output, over the tokens of each prompt but BOS."""
    rows = [ids or [start_of_text(model)] for ids in encode_prompts(model, prompts)]
    found, bos = torch.zeros(len(rows), model.d_out(settings.layer)), model.tokenizer.bos_token_id
    for numbers in _equally_long(rows, TOKENS_ON_CPU if model.device.type == "cpu" else TOKENS_ON_ACCELERATORS):
        ids = torch.tensor([rows[number] for number in numbers], device=model.device)
        with trace({settings.layer: model.block(settings.layer)}, stop_after=settings.layer) as seen:
            model.network.base_model(input_ids=ids, use_cache=False)
        hidden = seen.outputs[settings.layer].float().cpu()
        words = [[token != bos for token in rows[number][:-1]] + [True] for number in numbers]
        weights = torch.tensor(words)[:, :, None].float()
        found[numbers] = hidden[:, -1] if settings.pool == "last" else (hidden * weights).sum(1) / weights.sum(1)
    return found


def hashed_vectors(settings: HashedEncoder, prompts: Sequence[str]) -> Float[Tensor, "n m"]:
    """Counts of n-grams of words, whatever their case, by bucket, as vectors of length 1."""
    found = torch.zeros(len(prompts), settings.buckets)
    for number, prompt in enumerate(prompts):
        words = WORD.findall(prompt.casefold())
        grams = Counter(" ".join(words[place : place + n]) for n in settings.n for place in range(len(words) - n + 1))
        for gram, count in grams.items():
            found[number, zlib.crc32(gram.encode()) % settings.buckets] += count
    return torch.nn.functional.normalize(found, dim=1)


def _equally_long(rows: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """Numbers of rows of one length each, of at most a number of tokens together: no row is padded, so none sees another."""
    by_length: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(number)
    for length, numbers in by_length.items():
        size = max(1, tokens // length)
        yield from (numbers[first : first + size] for first in range(0, len(numbers), size))

"""Noise on the embeddings of a subject's tokens, as causal tracing corrupts a prompt (Meng et al. 2022, section 2.1).

The noise of a prompt is drawn by a generator that its token ids seed, so that every pass over the prompt sees
the same copies: tracing, the answer to the noised prompt, and edits that start from it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from d4s.config import NoiseSettings
from d4s.models.language_model import LanguageModel

SUBJECT_SEED_BYTES = 8


@torch.no_grad()
def subject_noise(model: LanguageModel, prompt: Sequence[int], subject: range, settings: NoiseSettings) -> Float[Tensor, "copies s d"]:
    """Noise for the tokens of the subject of a prompt, given by its token ids, in as many copies as the settings say.

    Entries are independent and normal with mean 0; their standard deviation is `scale` times that of the entries of these tokens'
    embeddings, or `scale` itself.
    """
    embedding = _embedding(model)
    ids = torch.tensor([*prompt], device=model.device)[subject.start : subject.stop]
    embedded = embedding(ids).float()
    spread = float(embedded.std(correction=0)) if settings.unit == "embedding_sd" else 1.0
    seed = hashlib.sha256(",".join(map(str, prompt)).encode()).digest()[:SUBJECT_SEED_BYTES]
    generator = torch.Generator().manual_seed(int.from_bytes(seed) >> 1)
    drawn = torch.randn((settings.copies, *embedded.shape), generator=generator)
    return (drawn * settings.scale * spread).to(embedded.device)


def spread_noise(noise: Sequence[Float[Tensor, "copies s d"]], subjects: Sequence[range], width: int) -> Float[Tensor, "rows t d"]:
    """Noise of prompts, copy after copy, as rows of `width` tokens that are zero outside of the subjects."""
    rows = []
    for one, subject in zip(noise, subjects, strict=True):
        padded = one.new_zeros(len(one), width, one.shape[-1])
        padded[:, subject.start : subject.stop] = one
        rows.append(padded)
    return torch.cat(rows)


@contextmanager
def added_to_embeddings(model: LanguageModel, addition: Float[Tensor, "rows t d"]) -> Iterator[None]:
    """Passes in the block see the embeddings of their tokens with this added; they must have its rows and tokens."""

    def add(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + addition.to(output)

    handle = _embedding(model).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def noised_answer(model: LanguageModel, prompt: Sequence[int], subject: range, settings: NoiseSettings, tokens: int) -> list[int]:
    """Token ids of the greedy continuation of the first noised copy of a prompt, of a number of tokens."""
    noise, written = subject_noise(model, prompt, subject, settings)[:1], list[int]()
    for _ in range(tokens):
        ids = torch.tensor([[*prompt, *written]], device=model.device)
        with added_to_embeddings(model, spread_noise([noise], [subject], ids.shape[1])):
            hidden = model.network.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
        written.append(int(model.unembed(hidden).argmax()))
    return written


def _embedding(model: LanguageModel) -> nn.Module:
    return model.network.get_input_embeddings()

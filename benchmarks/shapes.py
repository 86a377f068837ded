"""Random models of given shapes, texts for them, and what operations allocate."""

import random
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import GPT2Config, GPT2LMHeadModel

from d4s.models.language_model import LanguageModel
from d4s.models.loading import wrap
from tests.tiny import vocabulary, word_tokenizer


def gpt2(*, layers: int, width: int, mlp_width: int, heads: int, vocab: int, positions: int) -> LanguageModel:
    """A random GPT-2; its tokenizer knows some sixty words, whatever the size of its vocabulary."""
    config = GPT2Config(
        vocab_size=vocab, n_layer=layers, n_embd=width, n_inner=mlp_width, n_head=heads, n_positions=positions,
        activation_function="gelu_pytorch_tanh", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = GPT2LMHeadModel(config)
    return wrap(network, word_tokenizer())


def embedded(vocab: int = 512) -> LanguageModel:
    """The shape of the model that studies train themselves."""
    return gpt2(layers=6, width=192, mlp_width=1024, heads=6, vocab=vocab, positions=64)


def small_gpt2(vocab: int = 50_257) -> LanguageModel:
    """The shape of the smallest released GPT-2."""
    return gpt2(layers=12, width=768, mlp_width=3072, heads=12, vocab=vocab, positions=256)


def token_rows(model: LanguageModel, count: int, length: int) -> Tensor:
    return torch.randint(2, model.network.config.vocab_size, (count, length), generator=torch.Generator().manual_seed(1))


def prompts(count: int, columns: int = 1) -> tuple[list[str], ...]:
    """Different prompts of 5 to 14 words, and columns of targets of one or two words each."""
    draw, words = random.Random(0), [word for word in vocabulary() if word.isalpha()]
    sizes = ((5, 14), *((1, 2) for _ in range(columns)))
    return tuple([" ".join(draw.choices(words, k=draw.randint(*size))) for _ in range(count)] for size in sizes)


class Allocations(TorchDispatchMode):
    """Results of operations that need memory of their own: names and sizes in order, bytes held now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, int]] = []
        self.held = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {_place(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _place(leaf) not in before | self._known:
                self._note(func.overloadpacket.__name__, leaf)
        return result

    def _note(self, name: str, tensor: Tensor) -> None:
        storage, size = tensor.untyped_storage(), tensor.untyped_storage().nbytes()
        self.made.append((name, size))
        self.held += size
        self.most = max(self.most, self.held)
        self._known.add(_place(tensor))
        weakref.finalize(storage, self._forget, _place(tensor), size)

    def _forget(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.held -= size


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()

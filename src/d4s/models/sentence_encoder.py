"""Sentence encoders from local folders: any network of Transformers in safetensors, whose last hidden states are averaged."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.errors import ArtifactError
from d4s.pretrained import read_encoder, read_tokenizer

TEXTS_PER_PASS = 64


class SentenceEncoder:
    """A network with its tokenizer; a text's vector is the mean of the last hidden states of its tokens, special ones included."""

    def __init__(self, folder: str) -> None:
        """Read the encoder in a folder; no code of the folder is run.

        Raises:
            ArtifactError: if there is none that can be read.
        """
        if not Path(folder).is_dir():
            raise ArtifactError(f"{folder} is no folder; a sentence encoder is read from a local one")
        self._network, self._tokenizer = read_encoder(folder), read_tokenizer(folder)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "n m"]:
        """Vectors of texts, float32 on the CPU."""
        ids = self._tokenizer(list(texts), verbose=False)["input_ids"]
        found = list[Tensor]()
        for first in range(0, len(texts), TEXTS_PER_PASS):
            rows: list[list[int]] = ids[first : first + TEXTS_PER_PASS]
            width = max(map(len, rows))
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
            padded = torch.tensor([row + [0] * (width - len(row)) for row in rows])
            hidden = self._network(input_ids=padded, attention_mask=mask).last_hidden_state.float()
            found.append((hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True))
        return torch.cat(found)

"""What editors with a trained side memory need of the unedited model: sentences to keep, and the mean key of prompts.

Sentences are written by the model itself, with a seed, so that none is about a request by design and nothing that is measured is
trained on; the releases take questions of a training set of facts.

Terms and symbols: docs/notation.md.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.config import ContextsSettings
from d4s.editors.contexts import sample_prefixes
from d4s.editors.edit_requests import EditRequest
from d4s.editors.parts.input_settings import BackgroundSettings, LocalitySettings, PrepareSettings
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode_all, encode_prompts
from d4s.models.trace import trace

IDS, LENGTHS, NORM, BACKGROUND = "locality.ids", "locality.lengths", "locality.norm", "background"


@dataclass(frozen=True, slots=True)
class LocalitySentences:
    """Token ids of sentences that a side memory is to leave alone, and the median norm of the MLP's output over their tokens."""

    sentences: Sequence[tuple[int, ...]]
    norm: float

    @classmethod
    def of(cls, extras: Mapping[str, Tensor]) -> "LocalitySentences":
        """Those among an editor's prepared tensors."""
        parts = extras[IDS].split(extras[LENGTHS].tolist())
        return cls([tuple(part.tolist()) for part in parts], float(extras[NORM]))

    def draw(self, request_id: str) -> tuple[int, ...]:
        """The sentence of a request, the same whatever came before."""
        return self.sentences[zlib.crc32(request_id.encode()) % len(self.sentences)]


def prepare_side(settings: PrepareSettings, model: LanguageModel, requests: Sequence[EditRequest]) -> dict[str, Tensor]:
    """Sentences with their norm, and the mean key of requests, each where settings ask for it, by name."""
    found: dict[str, Tensor] = {}
    if settings.locality is not None:
        found |= _locality(settings.locality, model)
    if settings.background is not None:
        found[BACKGROUND] = _background(settings.background, model, requests)
    return found


def _locality(settings: LocalitySettings, model: LanguageModel) -> dict[str, Tensor]:
    texts = sample_prefixes(model, ContextsSettings(count=settings.count, tokens=settings.tokens, seed=settings.seed))
    rows = encode_all(model, texts)
    outputs = torch.cat([read_layer(model, row, settings.layer)[1] for row in rows])
    return {
        IDS: torch.tensor([token for row in rows for token in row], dtype=torch.int32),
        LENGTHS: torch.tensor([len(row) for row in rows], dtype=torch.int32),
        NORM: outputs.double().norm(dim=1).median().cpu(),
    }


def _background(settings: BackgroundSettings, model: LanguageModel, requests: Sequence[EditRequest]) -> Float[Tensor, " d_in"]:
    """Mean over requests, at most as many as settings say, of the mean key over the tokens of their prompts."""
    prompts = encode_prompts(model, [request.prompt for request in requests[: settings.requests]])
    return torch.stack([read_layer(model, prompt, settings.layer)[0].double().mean(0) for prompt in prompts]).mean(0).cpu()


@torch.no_grad()
def read_layer(model: LanguageModel, ids: Sequence[int], layer: int) -> tuple[Float[Tensor, "t d_in"], Float[Tensor, "t d_out"]]:
    """What enters and leaves the MLP output matrix of a layer at the tokens of a text, in single precision or better."""
    with trace({layer: model.mlp_out(layer)}, stop_after=layer) as found:
        model.network.base_model(input_ids=torch.tensor([[*ids]], device=model.device), use_cache=False)
    precision = torch.promote_types(model.dtype, torch.float32)
    return found.inputs[layer][0].to(precision), found.outputs[layer][0].to(precision)

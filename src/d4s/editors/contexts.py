"""Prefixes for prompts, sampled from the unedited model with a seed: with them, keys and targets do not hang on one phrasing.

Terms and symbols: docs/notation.md.
"""

import logging
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.artifacts import Artifact, StageJob, write_json
from d4s.config import ContextsSettings
from d4s.errors import ArtifactError
from d4s.models.finite_check import require_finite
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.models.tokens import encode

log = logging.getLogger(__name__)
FIRST_TOKEN_CHOICES = 8


@torch.no_grad()
def sample_prefixes(model: LanguageModel, settings: ContextsSettings) -> list[str]:
    """Prefixes of a number of tokens, each token drawn from the likeliest ones, as sentences without braces.

    They start from BOS (or EOS, or nothing but "The"), and the first token is drawn from more of them, for variety.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    start = _start(model)
    found: list[str] = []
    while len(found) < settings.count:
        ids = list(start)
        for position in range(settings.tokens):
            logits = model.network(input_ids=torch.tensor([ids], device=model.device)).logits[0, -1].cpu()
            logits[model.tokenizer.all_special_ids] = -torch.inf
            ids.append(_draw(logits, settings.top_k * (FIRST_TOKEN_CHOICES if position == 0 else 1), generator))
        found.append(as_prefix(str(model.tokenizer.decode(ids, skip_special_tokens=True))))
    return found


def _start(model: LanguageModel) -> list[int]:
    for token in (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id):
        if isinstance(token, int):
            return [token]
    return encode(model, "The")


def _draw(logits: Float[Tensor, " vocab"], choices: int, generator: torch.Generator) -> int:
    values, tokens = logits.double().topk(min(choices, len(logits)))
    return int(tokens[torch.multinomial(values.softmax(-1), 1, generator=generator)])


def as_prefix(text: str) -> str:
    """A text on one line, without braces, that ends like a sentence."""
    words = " ".join(text.replace("{", " ").replace("}", " ").split())
    return words if words.endswith((".", "!", "?", "。", "！", "？")) else f"{words}."


def contexts(job: StageJob[ContextsSettings]) -> None:
    """Write contexts.json: the sampled prefixes, without the unprefixed one."""
    model = load(job.inputs["model"])
    require_finite(model)
    found = sample_prefixes(model, job.settings)
    log.info("prefixes: %s", found)
    write_json(job.path("contexts.json"), {"contexts": found})
    job.write_manifest(["contexts.json"])


def read_contexts(folder: Path) -> tuple[str, ...]:
    """The prefixes in an artefact's folder, checked.

    Raises:
        ArtifactError: if it holds no list of texts.
    """
    content = Artifact.open(folder, "contexts").json("contexts.json")
    found = content.get("contexts") if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ArtifactError(f"{folder / 'contexts.json'} holds no list of texts; delete {folder} and run again")
    return tuple(found)

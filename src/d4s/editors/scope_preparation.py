"""What SERAC is trained on before any edit: the map of its router, the model that answers, and, for an oracle, the true scopes.

Terms and symbols: docs/notation.md.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from d4s.editors.answer_training import train_answers
from d4s.editors.parts.scope_settings import ScopeSettings
from d4s.editors.scope_encoders import encoder_of
from d4s.editors.scope_examples import scope_examples
from d4s.editors.scope_map import held_out_rates, train_map
from d4s.editors.training_checkpoints import Checkpoint
from d4s.facts.record import Fact
from d4s.models.language_model import LanguageModel

PROMPTS, FACTS = "scope.prompts", "scope.facts"


class PreparedScope(NamedTuple):
    """Prepared tensors, and rates of the router on held-out facts."""

    tensors: dict[str, Tensor]
    rates: dict[str, float]


def prepare_scope(
    model: LanguageModel, settings: ScopeSettings, pool: Sequence[Fact], measured: Sequence[Fact], checkpoint: Checkpoint | None = None
) -> PreparedScope:
    """Train router and, if asked for, the model that answers, on facts of a pool that nothing measured names.

    Raises:
        SettingsError: if too few are left.
    """
    examples = scope_examples(settings, pool, measured)
    vectors = encoder_of(settings.encoder, model)([*examples.texts])
    router = train_map(settings, examples, vectors)
    answers = train_answers(model, settings, [one.fact for one in (*examples.learnt, *examples.held_out)], checkpoint)
    tensors = router.tensors() | true_scopes(measured) | answers
    return PreparedScope(tensors, held_out_rates(settings, router, examples, vectors))


def true_scopes(measured: Sequence[Fact]) -> dict[str, Tensor]:
    """Prompts that are in the scope of each fact that can be edited, its own and its paraphrases, by their hashes; facts by number."""
    pairs = [
        (hash_of(prompt), number)
        for number, fact in enumerate(one for one in measured if one.editable)
        for prompt in (fact.prompt, *fact.paraphrases)
    ]
    prompts, facts = zip(*pairs, strict=True) if pairs else ((), ())
    return {PROMPTS: _integers(prompts), FACTS: _integers(facts)}


def hash_of(prompt: str) -> int:
    """A prompt, without spaces at its end, as 63 bits."""
    return int.from_bytes(hashlib.sha256(prompt.rstrip(" ").encode()).digest()[:8], "big") >> 1


def _integers(values: Sequence[int]) -> Int64[Tensor, " n"]:
    return torch.tensor(values, dtype=torch.int64)

"""A request as token ids: its prompt bare and after every prefix, with the lookup token and the target.

The lookup token is the last token of the subject: keys are read there, and the hidden state that is optimised stands there.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from d4s.errors import D4SError
from d4s.facts.joining import up_to_target
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode, encode_pair, lookup_position
from d4s.requests.draw import EditRequest

ESSENCE = "{} is a"
FIRST_WORD = re.compile(r"\s*\S*\s*")


class PromptTooLong(D4SError):
    """A request whose bare prompt and target exceed the model's context, or the window that some of its blocks look back over."""


@dataclass(frozen=True, slots=True)
class Wording:
    """One text to be continued: its ids, where the subject ends, and the ids that should follow (none for the essence)."""

    ids: tuple[int, ...]
    lookup: int
    target: tuple[int, ...] = ()

    @property
    def upto_lookup(self) -> tuple[int, ...]:
        """Everything that the lookup token sees."""
        return self.ids[: self.lookup + 1]

    @property
    def teacher_forced(self) -> tuple[int, ...]:
        """The text and all but the last target token."""
        return self.ids + self.target[:-1]


@dataclass(frozen=True, slots=True)
class Rewriting:
    """All wordings of one request: bare first, then one per prefix; and the prompt that asks for the subject's essence."""

    wordings: tuple[Wording, ...]
    essence: Wording


def rewriting(model: LanguageModel, request: EditRequest, prefixes: Sequence[str]) -> Rewriting:
    """The wordings of a request, each prefix as it is; one that does not fit into the model's context loses words at its beginning.

    Raises:
        PromptTooLong: if not even the bare prompt and the target fit.
    """
    bare = _wording(model, request, "")
    check_length(model, request, len(bare.teacher_forced))
    prefixed = [_fitting(model, request, prefix) for prefix in prefixes]
    text = request.opening + ESSENCE.replace("{}", request.subject)
    essence = Wording(tuple(encode(model, text)), lookup_position(model, text, request.subject, ESSENCE))
    return Rewriting((bare, *prefixed), essence)


def check_length(model: LanguageModel, request: EditRequest, tokens: int) -> None:
    """Refuse a request that does not fit.

    Raises:
        PromptTooLong: if its prompt and target have more tokens than the model takes, or than its attention looks back over.
    """
    if tokens > model.longest_rewriting:
        limit = "the model takes" if tokens > model.max_positions else "its attention looks back over a window of"
        raise PromptTooLong(
            f"request {request.request_id}: prompt and target have {tokens} tokens, {limit} {model.longest_rewriting}; "
            "leave the fact out or take a model with a longer context"
        )


def _fitting(model: LanguageModel, request: EditRequest, prefix: str) -> Wording:
    while True:
        found = _wording(model, request, prefix)
        if len(found.teacher_forced) <= model.longest_rewriting:
            return found
        prefix = FIRST_WORD.sub("", prefix, count=1)


def _wording(model: LanguageModel, request: EditRequest, prefix: str) -> Wording:
    """A request behind a prefix, which stands within the user's turn where the request is one of a chat."""
    template = request.template.removeprefix(request.opening)
    before = prefix if prefix[-1:].isspace() else up_to_target(prefix)
    text = request.opening + before + template.replace("{}", request.subject)
    prompt, target = encode_pair(model, text, request.target)
    return Wording(tuple(prompt), lookup_position(model, text, request.subject, template), tuple(target))


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> Int[Tensor, "n t"]:
    """Rows of ids as one tensor, each filled up with its own last id: no token sees what follows it."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in rows], device=device)

"""A request as token ids: its prompt unprefixed and after every prefix, with the last subject token and the target.

The last subject token is the last token of the subject: keys are read there, and the hidden state that is optimised stands there.

Terms and symbols: docs/notation.md.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from d4s.editors.edit_requests import EditRequest
from d4s.errors import D4SError
from d4s.facts.joining import with_delimiter
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode, encode_pair, subject_last_index, subject_tokens

KL_TEMPLATE = "{} is a"
FIRST_WORD = re.compile(r"\s*\S*\s*")


class PromptTooLong(D4SError):
    """A request whose unprefixed prompt and target exceed the model's context, or the window that some of its blocks look back over."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One text to be continued: its ids, where the subject ends, and the ids that should follow (none for the KL prompt)."""

    ids: tuple[int, ...]
    subject_last: int
    target: tuple[int, ...] = ()

    @property
    def through_subject(self) -> tuple[int, ...]:
        """Everything that the last subject token sees."""
        return self.ids[: self.subject_last + 1]

    @property
    def teacher_forced(self) -> tuple[int, ...]:
        """The text and all but the last target token."""
        return self.ids + self.target[:-1]


@dataclass(frozen=True, slots=True)
class PromptSet:
    """All prompts of one request: unprefixed first, then one per prefix; and the KL prompt."""

    prompts: tuple[Prompt, ...]
    kl_prompt: Prompt


def build_prompts(model: LanguageModel, request: EditRequest, prefixes: Sequence[str]) -> PromptSet:
    """The prompts of a request, each prefix as it is; one that does not fit into the model's context loses words at its beginning.

    Raises:
        PromptTooLong: if not even the unprefixed prompt and the target fit.
    """
    unprefixed = _prompt(model, request, "")
    check_length(model, request, len(unprefixed.teacher_forced))
    prefixed = [_fit_prompt(model, request, prefix) for prefix in prefixes]
    text = request.opening + KL_TEMPLATE.replace("{}", request.subject)
    kl_prompt = Prompt(tuple(encode(model, text)), subject_last_index(model, text, request.subject, KL_TEMPLATE))
    return PromptSet((unprefixed, *prefixed), kl_prompt)


def check_length(model: LanguageModel, request: EditRequest, tokens: int) -> None:
    """Refuse a request that does not fit.

    Raises:
        PromptTooLong: if its prompt and target have more tokens than the model takes, or than its attention looks back over.
    """
    if tokens > model.max_edit_tokens:
        limit = "the model takes" if tokens > model.max_positions else "its attention looks back over a window of"
        raise PromptTooLong(
            f"request {request.request_id}: prompt and target have {tokens} tokens, {limit} {model.max_edit_tokens}; "
            "leave the fact out or take a model with a longer context"
        )


def _fit_prompt(model: LanguageModel, request: EditRequest, prefix: str) -> Prompt:
    while True:
        found = _prompt(model, request, prefix)
        if len(found.teacher_forced) <= model.max_edit_tokens:
            return found
        prefix = FIRST_WORD.sub("", prefix, count=1)


def _prompt(model: LanguageModel, request: EditRequest, prefix: str) -> Prompt:
    """A request behind a prefix, which stands within the user's turn where the request is one of a chat."""
    template = request.template.removeprefix(request.opening)
    before = prefix if prefix[-1:].isspace() else with_delimiter(prefix)
    text = request.opening + before + template.replace("{}", request.subject)
    prompt, target = encode_pair(model, text, request.target)
    return Prompt(tuple(prompt), subject_last_index(model, text, request.subject, template), tuple(target))


def subject_place(model: LanguageModel, request: EditRequest) -> range:
    """Positions of the subject's tokens in the unprefixed prompt."""
    template = request.template.removeprefix(request.opening)
    return subject_tokens(model, request.opening + template.replace("{}", request.subject), request.subject, template)


def pad_ids(rows: Sequence[Sequence[int]], device: torch.device) -> Int[Tensor, "n t"]:
    """Rows of ids as one tensor, each filled up with its own last id: no token sees what follows it."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in rows], device=device)

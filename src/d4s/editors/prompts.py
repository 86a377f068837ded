"""A request as token ids: its prompt unprefixed and after every prefix, with the last subject token and the target.

The last subject token is the last token of the subject: keys are read there, and the hidden state that is optimised stands there. Settings
may say that the prompt's last token takes its place, and that a long answer is cut into windows, each the target of its own prompt set.

Terms and symbols: docs/notation.md.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from d4s.editors.edit_requests import EditRequest
from d4s.editors.parts.target_rule import TargetSettings
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
    """One text to be continued: its ids, the token that is looked up, and the ids that should follow (none for the KL prompt).

    `subject_last` is the position of the token that is looked up: the subject's last one, or the prompt's where settings say so.
    """

    ids: tuple[int, ...]
    subject_last: int
    target: tuple[int, ...] = ()

    @property
    def through_subject(self) -> tuple[int, ...]:
        """Everything that the token that is looked up sees, and itself."""
        return self.ids[: self.subject_last + 1]

    @property
    def teacher_forced(self) -> tuple[int, ...]:
        """The text and all but the last target token."""
        return self.ids + self.target[:-1]


@dataclass(frozen=True, slots=True)
class PromptSet:
    """All prompts of one request, or of one window of its answer: unprefixed first, then one per prefix; and the KL prompt.

    Windows are counted from 0; `is_last` says that no other window of the answer follows.
    """

    prompts: tuple[Prompt, ...]
    kl_prompt: Prompt
    window: int = 0
    is_last: bool = True

    @property
    def context(self) -> list[int]:
        """Positions in the unprefixed prompt and target that are not looked up, each in one window alone.

        The first window has those of the prompt; every window has those of its own tokens, of which the last is looked up by the next.
        """
        text = self.prompts[0]
        first = 0 if self.window == 0 else len(text.ids)
        end = len(text.ids) + len(text.target) - (0 if self.is_last else 1)
        return [place for place in range(first, end) if place != text.subject_last]


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


def prompts_to_edit(model: LanguageModel, request: EditRequest, prefixes: Sequence[str], settings: TargetSettings) -> list[PromptSet]:
    """The prompts of a request as settings of targets ask for them, one set per window of its answer.

    Raises:
        PromptTooLong: if not even the unprefixed prompt and the target fit.
    """
    whole = build_prompts(model, request, prefixes if settings.prefixes else ())
    if settings.position == "prompt_last":
        whole = PromptSet(tuple(_at_end(prompt) for prompt in whole.prompts), _at_end(whole.kl_prompt))
    return [whole] if settings.windows is None else _cut(whole, settings.windows)


def _at_end(prompt: Prompt) -> Prompt:
    """The same prompt, looked up at its last token."""
    return replace(prompt, subject_last=len(prompt.ids) - 1)


def _cut(whole: PromptSet, size: int) -> list[PromptSet]:
    """A set per window of an unprefixed prompt's answer, behind the windows before it and looked up at the token before it."""
    (prompt,) = whole.prompts
    found: list[PromptSet] = []
    for start in range(0, len(prompt.target), size):
        ids = prompt.ids + prompt.target[:start]
        window = Prompt(ids, len(ids) - 1, prompt.target[start : start + size])
        found.append(PromptSet((window,), whole.kl_prompt, len(found), start + size >= len(prompt.target)))
    return found


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

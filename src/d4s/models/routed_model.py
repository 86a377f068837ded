"""Two models behind one interface: a router says per prompt which of them answers, and which text stands before the prompt.

The decision is made for a prompt as a whole, never for a target or a token, so that targets of one prompt are compared under one
model. Text goes before a prompt as text and both are encoded together, since a tokenizer may read the first word of a prompt
otherwise at the start of a line. A router that puts text before prompts of one and the same model edits in context.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.models.edited_model import EditedModel, Scores, StopCriterion

OTHER = 0.5  # share from which on the other model answers


class Route(NamedTuple):
    """How a prompt is answered: the share of the other model (0: the first alone), and the text before the prompt that it is given."""

    share: float = 0.0
    context: str = ""


Router = Callable[[Sequence[str]], Sequence[Route]]
"""The routes of prompts, one each; equal prompts have equal routes, whatever they are asked with."""


class Match(NamedTuple):
    """The number of the nearest entry of a prompt, if the prompt is in its scope, and their similarity."""

    entry: int | None
    similarity: float


@runtime_checkable
class EntryFinder(Protocol):
    """A router with a memory, as measures ask it."""

    @property
    def prompts(self) -> Sequence[str]:
        """The prompts of the entries, by number."""
        ...

    @property
    def bytes(self) -> int:
        """What the entries hold."""
        ...

    def match(self, prompts: Sequence[str]) -> Sequence[Match]:
        """The entries in whose scope prompts are."""
        ...

    def resized(self, count: int) -> "EntryFinder":
        """The router with a number of entries, its own (at least one) again and again."""
        ...


class RoutedModel:
    """An `EditedModel` of which one model answers, or the other with text before the prompt, as a router says.

    Free text has no prompt, so `text_nll` is the first model's. No weight changes. A share of one half or more is the other model's.
    """

    def __init__(self, base: EditedModel, other: EditedModel, router: Router) -> None:
        self.base, self.other, self.router = base, other, router

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> Scores:
        """Teacher-forced scores of each target after its prompt."""
        return self.score_and_generate(prompts, targets, (), 0)[0]

    def generate(self, prompts: Sequence[str], max_new_tokens: int, should_stop: StopCriterion | None = None) -> list[str]:
        """Greedy continuations, without the prompt and what was put before it."""
        return self.score_and_generate((), (), prompts, max_new_tokens, should_stop)[1]

    def score_and_generate(
        self,
        prompts: Sequence[str],
        targets: Sequence[str],
        generation_prompts: Sequence[str],
        max_new_tokens: int,
        should_stop: StopCriterion | None = None,
    ) -> tuple[Scores, list[str]]:
        """Scores of targets after prompts and greedy continuations of other prompts; all prompts are routed at once."""
        routes = self.router([*prompts, *generation_prompts])
        scored, written = routes[: len(prompts)], routes[len(prompts) :]
        parts, texts = list[tuple[list[int], Scores]](), [""] * len(generation_prompts)
        for answerer, own, others in zip((self.base, self.other), _places(scored), _places(written), strict=True):
            if own or others:
                asked = [_asked(scored[place], prompts[place]) for place in own]
                continued = [_asked(written[place], generation_prompts[place]) for place in others]
                originals = _originals(continued, [generation_prompts[place] for place in others])
                stop = None if should_stop is None else _stop_at_all(should_stop, originals)
                scores, found = answerer.score_and_generate(asked, [targets[place] for place in own], continued, max_new_tokens, stop)
                parts.append((own, scores))
                for place, text in zip(others, found, strict=True):
                    texts[place] = text
        return merge_scores(parts, len(prompts)), texts

    def sample(self, prompts: Sequence[str], draws: Float[Tensor, "n t"], top_k: int) -> list[str]:
        """Continuations drawn from the likeliest tokens, each row by numbers of its own (see `EditedModel.sample`)."""
        routes, texts = self.router(prompts), [""] * len(prompts)
        for answerer, own in zip((self.base, self.other), _places(routes), strict=True):
            if own:
                found = answerer.sample([_asked(routes[place], prompts[place]) for place in own], draws[own], top_k)
                for place, text in zip(own, found, strict=True):
                    texts[place] = text
        return texts

    def text_nll(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, " n"]:
        """Summed negative log-likelihood (nats) of each row of token ids, by the first model."""
        return self.base.text_nll(rows)

    def weight_changes(self) -> None:
        """None: no weight changes."""
        return


def merge_scores(parts: Sequence[tuple[Sequence[int], Scores]], count: int) -> Scores:
    """Scores of some pairs each, put into their places among `count` pairs."""
    width = max((scores.nll.shape[1] for _, scores in parts), default=0)
    nll, predicted = torch.zeros(count, width), torch.zeros(count, width, dtype=torch.long)
    correct, mask = torch.zeros(count, width, dtype=torch.bool), torch.zeros(count, width, dtype=torch.bool)
    for places, scores in parts:
        for whole, part in ((nll, scores.nll), (correct, scores.correct), (predicted, scores.predicted), (mask, scores.mask)):
            whole[list(places), : part.shape[1]] = part.to(whole)
    return Scores(nll=nll, correct=correct, predicted=predicted, mask=mask)


def _asked(route: Route, prompt: str) -> str:
    """A prompt as the model that answers it is given it."""
    return route.context + prompt if route.share >= OTHER else prompt


def _places(routes: Sequence[Route]) -> tuple[list[int], list[int]]:
    """The places of the prompts that the first model answers, and of those that the other does."""
    is_other = [route.share >= OTHER for route in routes]
    return [place for place, other in enumerate(is_other) if not other], [place for place, other in enumerate(is_other) if other]


def _originals(texts: Sequence[str], prompts: Sequence[str]) -> Mapping[str, list[str]]:
    """The prompts behind each text that is continued."""
    found: dict[str, list[str]] = {}
    for text, prompt in zip(texts, prompts, strict=True):
        found.setdefault(text, []).append(prompt)
    return found


def _stop_at_all(should_stop: StopCriterion, originals: Mapping[str, Sequence[str]]) -> StopCriterion:
    """The criterion of prompts as they were asked, for the texts that are continued in their place."""
    return lambda text, written: all(should_stop(prompt, written) for prompt in originals[text])

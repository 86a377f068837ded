"""Estimates the cost of questions before any request: requests, recorded answers, tokens by a rule of thumb."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d4s.config import FORMS, QuestionsSettings
from d4s.questions.answers import AnswerStore, key_of
from d4s.questions.language_model_writer import REASON_LENGTH, REASONS, LanguageModelWriter
from d4s.questions.question_items import Item
from d4s.questions.writers import make_writer
from d4s.writer_settings import OpenAIWriterSettings

CHARACTERS_PER_TOKEN, ANSWER_TOKENS = 4, 180
"""Rules of thumb for English, and for six wordings as JSON."""
REASON_TOKENS = REASONS * REASON_LENGTH // CHARACTERS_PER_TOKEN
"""Tokens added to a request by the reasons why the previous answer was refused."""


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """Requests to a language model, each counted once; refused answers multiply them by up to `attempts`.

    `tokens_out` is the usual length of answers; `max_tokens` is the largest.
    """

    items: int
    requests: int
    recorded: int
    tokens_in: int
    tokens_out: int
    attempts: int
    max_tokens: int
    requests_per_minute: float | None

    @property
    def calls(self) -> int:
        """Requests without a recorded answer."""
        return self.requests - self.recorded

    @property
    def max_calls(self) -> int:
        """Calls if every answer is refused."""
        return self.calls * self.attempts

    @property
    def max_total_tokens(self) -> tuple[int, int]:
        """Tokens in and out if every answer has the largest length and is refused."""
        return self.tokens_in * self.attempts + (self.max_calls - self.calls) * REASON_TOKENS, self.max_calls * self.max_tokens


def first_requests(settings: QuestionsSettings, items: Sequence[Item]) -> dict[str, Mapping[str, Any]]:
    """The first request about each item in every form, by its key; empty where no model is used."""
    writer = make_writer(settings)
    if not isinstance(writer, LanguageModelWriter):
        return {}
    return {key_of(request): request for form in FORMS for request in writer.first_requests(items, form)}


def estimate_cost(writing: OpenAIWriterSettings, items: int, requests: Mapping[str, Mapping[str, Any]]) -> CostEstimate:
    """The requests that a server would get, beyond the answers in the store of its settings."""
    store = AnswerStore(Path(writing.store))
    new = [request for key, request in requests.items() if store.get(key) is None]
    return CostEstimate(
        items=items,
        requests=len(requests),
        recorded=len(requests) - len(new),
        tokens_in=sum(map(_tokens, new)),
        tokens_out=len(new) * ANSWER_TOKENS,
        attempts=writing.attempts,
        max_tokens=writing.max_tokens,
        requests_per_minute=writing.requests_per_minute,
    )


def format_estimate(estimate: CostEstimate, prices: tuple[float, float] | None) -> Iterable[str]:
    """An estimate as lines of text."""
    yield f"{estimate.items} items, {estimate.requests} questions to word, {estimate.recorded} of them answered in the store already"
    yield f"calls: {estimate.calls}, at most {estimate.max_calls} if every answer is refused {estimate.attempts} times"
    usual, most = (estimate.tokens_in, estimate.tokens_out), estimate.max_total_tokens
    yield f"tokens: about {usual[0]:,} in and {usual[1]:,} out for one answer each, at most about {most[0]:,} in and {most[1]:,} out"
    if prices:
        yield f"cost: about {_cost(usual, prices):.2f}, at most about {_cost(most, prices):.2f}, in the currency of the prices"
    if estimate.requests_per_minute:
        rate = estimate.requests_per_minute
        yield f"time: at least {estimate.calls / rate:.1f} minutes at {rate:g} requests per minute"


def _cost(tokens: tuple[int, int], prices: tuple[float, float]) -> float:
    """Cost of tokens in and out, given prices per million."""
    return sum(count * price for count, price in zip(tokens, prices, strict=True)) / 1e6


def _tokens(request: Mapping[str, Any]) -> int:
    return len(json.dumps([request["messages"], request.get("response_format")])) // CHARACTERS_PER_TOKEN

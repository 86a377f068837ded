"""What questions will cost before any is asked: requests, those already recorded, tokens by a rule of thumb."""

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
"""What a request is longer by that says what was wrong with the answer before."""


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """Requests that a language model will get, each counted once; more where answers are bad, up to `attempts` times that.

    `tokens_out` is what answers usually take; none takes more than `max_tokens`.
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
        """Requests that no recorded answer serves."""
        return self.requests - self.recorded

    @property
    def max_calls(self) -> int:
        """Calls if every answer is refused."""
        return self.calls * self.attempts

    @property
    def max_total_tokens(self) -> tuple[int, int]:
        """Tokens in and out if every answer is as long as it may be, and refused."""
        return self.tokens_in * self.attempts + (self.max_calls - self.calls) * REASON_TOKENS, self.max_calls * self.max_tokens


def first_requests(settings: QuestionsSettings, items: Sequence[Item]) -> dict[str, Mapping[str, Any]]:
    """What is asked first about each item in every form, by the key of the request; nothing where nobody is asked."""
    writer = make_writer(settings)
    if not isinstance(writer, LanguageModelWriter):
        return {}
    return {key_of(request): request for form in FORMS for request in writer.first_requests(items, form)}


def estimate_cost(writing: OpenAIWriterSettings, items: int, requests: Mapping[str, Mapping[str, Any]]) -> CostEstimate:
    """What a server will be asked beyond the answers that the store of its settings holds."""
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
    """An estimate in lines for people."""
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
    """Price of tokens in and out at prices per million."""
    return sum(count * price for count, price in zip(tokens, prices, strict=True)) / 1e6


def _tokens(request: Mapping[str, Any]) -> int:
    return len(json.dumps([request["messages"], request.get("response_format")])) // CHARACTERS_PER_TOKEN

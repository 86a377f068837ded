"""Requests to an OpenAI-compatible server: paced, concurrent, each sent once, each answer stored at once.

A temporary failure is repeated, by the client or here. A permanent one uses up one attempt at the question; a question with no
answered attempt ends the work when the others are done. Answers are kept, so that a second call continues from them.
"""

import asyncio
import json
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import httpx2
import openai
from aiolimiter import AsyncLimiter

from d4s.errors import D4SError, SettingsError
from d4s.questions.answers import AnswerRecord, AnswerStore, key_of, open_for_writing
from d4s.questions.replies import ModelAnswer, Response, error_message, token_usage
from d4s.settings_base import canonical
from d4s.writer_settings import ServerSettings

KEY_VARIABLE = "OPENAI_API_KEY"
MIN_BACKOFF_S, MAX_BACKOFF_S = 0.5, 8.0
MAX_SHOWN_CHARACTERS = 200
MIN_KEY_LENGTH = 16
MAX_CONSECUTIVE_FAILURES = 30
"""Failed requests, with no usable answer between them, after which the work ends."""
NO_CREDIT = re.compile(r"(insufficient|exceeded_current)[ _](quota|balance|credits?|funds)|billing_(hard_limit|not_active)", re.IGNORECASE)
"""Words that distinguish an empty account from too high a rate: some servers answer both with 429."""
FATAL_STATUSES = {
    401: f"set {KEY_VARIABLE}",
    402: "top up the account",
    403: f"check {KEY_VARIABLE}",
    404: "check base_url and model",
    429: "lower requests_per_minute, or see what the account has left",
}
"""Remedies for failures that no repetition changes, by status."""
PARAMETER_REMEDIES = {
    "seed": "set `seed: null`",
    "temperature": "set `temperature: null`",
    "response_format": "set `response_format: json_object`, or null",
    "max_completion_tokens": "set `max_tokens_name: max_tokens`",
    "max_tokens": "set `max_tokens_name: max_completion_tokens`",
}
"""Remedies for parts of a request that a server does not support."""
TRANSIENT_STATUSES = frozenset({408, 409, 429})
"""Statuses that concern the state of the server and not the request; so do those from 500 on."""


@runtime_checkable
class AnswerSource(Protocol):
    """A source of answers to requests; `None` where there is no answer and no way to get one."""

    usage: Counter[str]

    async def ask(self, request: Mapping[str, Any], question: str) -> ModelAnswer | None:
        """The answer to a request, as one attempt at a question."""
        ...

    def has_answer(self, request: Mapping[str, Any]) -> bool:
        """Whether an answer is recorded, so that no request is needed."""
        ...


class RecordedAnswers:
    """Answers from a store alone; no server."""

    def __init__(self, store: AnswerStore) -> None:
        self._store = store
        self.usage: Counter[str] = Counter()

    async def ask(self, request: Mapping[str, Any], question: str) -> ModelAnswer | None:
        """The recorded answer to a request, for any question."""
        record = self._store.get(key_of(request))
        self.usage["cached"] += record is not None
        return record.answer if record else None

    def has_answer(self, request: Mapping[str, Any]) -> bool:
        """Whether an answer or a failure is recorded for a request."""
        return self._store.get(key_of(request)) is not None


class ApiClient:
    """Answers from a store, and from a server where the store has none."""

    def __init__(self, settings: ServerSettings, store: AnswerStore, client: openai.AsyncOpenAI) -> None:
        self._settings, self._store, self._client = settings, store, client
        self._semaphore = asyncio.Semaphore(settings.concurrency)
        pace = settings.requests_per_minute
        self._limiter = AsyncLimiter(1, 60 / pace) if pace else None
        self._in_flight: dict[str, asyncio.Future[ModelAnswer]] = {}
        self._attempts: dict[str, list[str]] = {}
        self._failed: dict[str, AnswerRecord] = {}
        self._transient: set[str] = set()
        self._answered = self._consecutive_failures = 0
        self.usage: Counter[str] = Counter()

    async def ask(self, request: Mapping[str, Any], question: str) -> ModelAnswer:
        """The answer to a request, as one attempt at a question; equal requests are sent once."""
        key = key_of(request)
        self._attempts.setdefault(question, []).append(key)
        if record := self._store.get(key):
            self.usage["cached"] += 1
            return record.answer
        if key not in self._in_flight:
            self._in_flight[key] = asyncio.ensure_future(self._send(key, dict(request)))
        return await self._in_flight[key]

    def has_answer(self, request: Mapping[str, Any]) -> bool:
        """Whether the store has an answer; a recorded failure does not count."""
        record = self._store.get(key_of(request))
        return record is not None and record.response is not None

    async def stop(self) -> None:
        """Cancel the requests in flight, wait until their connections are closed, and record the permanent failures.

        Failures of an open question are not recorded, nor are any if the server answered nothing.
        """
        for in_flight in self._in_flight.values():
            in_flight.cancel()
        await asyncio.gather(*self._in_flight.values(), return_exceptions=True)
        final = [keys for keys in self._attempts.values() if self._answered and not self._is_open(keys)]
        for key in {key for keys in final for key in keys} & set(self._failed):
            self._store.add(self._failed[key])

    def check(self) -> None:
        """Require that every question has an answer, or a refusal that no later attempt changes.

        Raises:
            D4SError: if one has not, or if the server answered nothing.
        """
        if self._failed and not self._answered:
            raise self._unusable_server(len(self._failed), next(iter(self._failed.values())))
        left = [self._failed[keys[-1]] for keys in self._attempts.values() if self._is_open(keys)]
        if left:
            ends = Counter(str(record.failure).partition(":")[0] for record in left)
            error_text = ", ".join(f"{count} with {end!r}" for end, count in ends.most_common())
            raise D4SError(
                f"{self._settings.base_url} left {len(left)} of {len(self._attempts)} questions without an answer ({error_text}; the last: "
                f"{left[-1].failure}), most likely for a reason that passes; run the same command again later: {self._kept_answers}"
            )

    def _is_open(self, attempts: list[str]) -> bool:
        """Whether no attempt at a question was answered, and the state of the server may be the reason."""
        return all(key in self._failed for key in attempts) and not self._transient.isdisjoint(attempts)

    @property
    def _kept_answers(self) -> str:
        return f"{sum(record.response is not None for record in self._store.records.values())} answers are kept in {self._store.path}"

    async def _send(self, key: str, request: dict[str, Any]) -> ModelAnswer:
        async with self._semaphore:
            if self._limiter:
                await self._limiter.acquire()
            self.usage["calls"] += 1
            try:
                body = await self._fetch_body(self._for_server(request))
            except (openai.APIError, ValueError) as error:
                return self._failure(key, request, error)
        record = AnswerRecord(key=key, request=request, response=body)
        self._store.add(record)
        self._answered += 1
        self._consecutive_failures = 0
        return record.answer

    def _for_server(self, request: dict[str, Any]) -> dict[str, Any]:
        """A request in the form that this server accepts; records always number attempts by `seed` and use one name for the limit."""
        limit = {self._settings.max_tokens_name: request["max_completion_tokens"]}
        without = {"max_completion_tokens", *(("seed",) if self._settings.seed is None else ())}
        return {name: value for name, value in request.items() if name not in without} | limit

    async def _fetch_body(self, request: dict[str, Any]) -> dict[str, Any]:
        """The body of a response, which must be a chat completion.

        Raises:
            ValueError: if successful responses are no chat completions, repeatedly.
        """
        text = ""
        for attempt in range(self._settings.retries + 1):
            if attempt:
                await asyncio.sleep(min(MIN_BACKOFF_S * 2 ** (attempt - 1), MAX_BACKOFF_S))
                self.usage["retries"] += 1
            raw = await self._client.chat.completions.with_raw_response.create(**request)
            self.usage["retries"] += raw.retries_taken
            text = _without_key(raw.text)
            try:
                body = json.loads(text)
                tokens = token_usage(body)  # counted first: it was paid for, whatever the rest of the body holds
                self.usage.update(paid_tokens_in=tokens.prompt_tokens, paid_tokens_out=tokens.completion_tokens)
                Response.model_validate(body)
                canonical(body).encode()  # half a surrogate pair is not valid text
                return body
            except (ValueError, RecursionError):
                continue
        raise ValueError(f"HTTP 200 with a body that is no chat completion: {error_message(text)[:MAX_SHOWN_CHARACTERS]!r}")

    def _failure(self, key: str, request: dict[str, Any], error: openai.APIError | ValueError) -> ModelAnswer:
        """The record of a failed request, with the server's reason.

        Raises:
            D4SError: if every other request would fail too.
        """
        if isinstance(error, openai.APIError):
            self.usage["retries"] += int(error.request.headers.get("x-stainless-retry-count", 0))
        self.usage["failures"] += 1
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        error_text, remedy = _error_text(error), _remedy(error)
        if status is None and not self._answered:
            remedy = "check that it runs, timeout_s and base_url"
        if remedy:
            raise D4SError(
                f"the server {self._settings.base_url} cannot be used ({error_text}); {remedy}, "
                f"then run the same command again: {self._kept_answers}"
            )
        record = self._failed[key] = AnswerRecord(key=key, request=request, failure=error_text)
        if status is None or status in TRANSIENT_STATUSES or status >= 500:
            self._transient.add(key)
        self._consecutive_failures += key in self._transient or not self._answered
        if self._consecutive_failures >= MAX_CONSECUTIVE_FAILURES:
            raise self._unusable_server(self._consecutive_failures, record)
        return record.answer

    def _unusable_server(self, count: int, record: AnswerRecord) -> D4SError:
        """The error for a server that answers nothing, with the settings that its message mentions."""
        error_text = str(record.failure)
        named = [name for name in self._for_server(record.request) if name in PARAMETER_REMEDIES and re.search(rf"\b{name}\b", error_text)]
        remedy = ", ".join(PARAMETER_REMEDIES[name] for name in named) or "check base_url, model and what the server supports"
        return D4SError(
            f"{self._settings.base_url} answered none of {count} requests ({error_text}); {remedy}, "
            f"then run the same command again: {self._kept_answers}"
        )


@asynccontextmanager
async def open_api_client(settings: ServerSettings) -> AsyncIterator[ApiClient]:
    """A client for a server; the store of its answers is locked meanwhile."""
    async with _client(settings) as client:
        with open_for_writing(Path(settings.store)) as store:
            source = ApiClient(settings, store, client)
            try:
                yield source
            finally:
                await source.stop()
            source.check()


@asynccontextmanager
async def open_recorded_answers(store: AnswerStore) -> AsyncIterator[RecordedAnswers]:
    """Recorded answers in the place of a server."""
    yield RecordedAnswers(store)


def _client(settings: ServerSettings) -> openai.AsyncOpenAI:
    """The HTTP client of a server.

    Raises:
        SettingsError: if the key or the proxy that the environment names cannot be used.
    """
    key = _key()
    if not (key.isascii() and key.isprintable()):
        raise SettingsError(f"{KEY_VARIABLE} holds line breaks or letters that no key has; set it to the key alone")
    try:
        transport = openai.DefaultAsyncHttpxClient(event_hooks={"response": [_disable_retry]})
    except (ImportError, ValueError) as error:
        raise SettingsError(
            f"the proxy that ALL_PROXY, HTTPS_PROXY or HTTP_PROXY names cannot be used ({error}); unset it, or, for a SOCKS proxy, "
            "pip install socksio"
        ) from None
    return openai.AsyncOpenAI(
        api_key=key or "none",
        base_url=settings.base_url,
        timeout=settings.timeout_s,
        max_retries=settings.retries,
        http_client=transport,
    )


async def _disable_retry(response: httpx2.Response) -> None:
    """Tell the client not to repeat a request that an empty account cannot pay for."""
    if response.is_error:
        await response.aread()
        if _lacks_credit(response):
            response.headers["x-should-retry"] = "false"


def _remedy(error: openai.APIError | ValueError) -> str | None:
    """What to do about a failure that no repetition changes and that every request would have."""
    if not isinstance(error, openai.APIStatusError):
        return None
    return FATAL_STATUSES.get(402 if _lacks_credit(error.response) else error.status_code)


def _lacks_credit(response: httpx2.Response) -> bool:
    """Whether a refusal, whose body was read, is due to an empty account."""
    return response.status_code in {402, 403, 429} and NO_CREDIT.search(response.text) is not None


def _error_text(error: openai.APIError | ValueError) -> str:
    """Why a request failed: the server's message, or the cause where there is none; the key is removed."""
    if isinstance(error, openai.APIStatusError):
        error_text = f"HTTP {error.status_code}: {error_message(error.response.text)}"
    else:
        error_text = " ".join(str(part) for part in (error, error.__cause__) if part)
    return " ".join(_without_key(error_text)[:MAX_SHOWN_CHARACTERS].split()).encode(errors="replace").decode()  # not valid text


def _key() -> str:
    """The key, without the white space that copying leaves at its ends."""
    return os.environ.get(KEY_VARIABLE, "").strip()


def _without_key(text: str) -> str:
    """Text with the key replaced by `***`; keys shorter than real ones are not, since they may be ordinary words."""
    key = _key()
    return text.replace(key, "***") if len(key) >= MIN_KEY_LENGTH else text

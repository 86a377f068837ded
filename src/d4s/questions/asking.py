"""Asking a language model behind an OpenAI-compatible server: paced, concurrent, each request once, each answer kept at once.

A fault that passes is repeated, by the client or here. One that stays is held against its request if the server is well
otherwise and such faults are few; else it ends the work: the answers so far are kept, and the same command goes on from them.
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import openai
from aiolimiter import AsyncLimiter
from pydantic import ValidationError

from d4s.config import canonical
from d4s.errors import D4SError
from d4s.questions.answers import AnswerStore, Record, key_of, writable
from d4s.questions.replies import Answer, Response, tokens_of
from d4s.writing import OpenAIWriting

KEY_VARIABLE = "OPENAI_API_KEY"
PAUSE_S, MOST_PAUSE_S = 0.5, 8.0
SHOWN = 200
SHORTEST_KEY = 16
BELIEVED = 0.05
"""Share of requests that may fail alone while the server is taken to be sound; one may always."""
HOPELESS = 50
"""So many failures without one answer end the work at once."""
STOPPING = {
    401: f"set {KEY_VARIABLE}",
    402: "top up the account",
    403: f"check {KEY_VARIABLE}",
    404: "check base_url and model",
    429: "lower requests_per_minute",
}
"""What to do about answers that no repetition changes."""
BUSY = frozenset({408, 409, 429})
"""Refusals that say something about the server at that moment and nothing about the request; those from 500 on do too."""


class Asker(Protocol):
    """Whoever answers requests; `None` where it has no answer and cannot get one."""

    async def ask(self, request: Mapping[str, Any]) -> Answer | None:
        """The answer to a request."""
        ...

    def holds(self, request: Mapping[str, Any]) -> bool:
        """Whether an answer is recorded that need not be asked for."""
        ...


class Recorded:
    """Answers from a store alone."""

    def __init__(self, store: AnswerStore) -> None:
        self._store = store
        self.spent: Counter[str] = Counter()

    async def ask(self, request: Mapping[str, Any]) -> Answer | None:
        """The recorded answer."""
        record = self._store.get(key_of(request))
        self.spent["cached"] += record is not None
        return record.answer if record else None

    def holds(self, request: Mapping[str, Any]) -> bool:
        """Whether what came of a request is recorded."""
        return self._store.get(key_of(request)) is not None


class Live:
    """Answers from a store, and from a server what the store lacks."""

    def __init__(self, settings: OpenAIWriting, store: AnswerStore, client: openai.AsyncOpenAI) -> None:
        self._settings, self._store, self._client = settings, store, client
        self._gate = asyncio.Semaphore(settings.concurrency)
        pace = settings.requests_per_minute
        self._limiter = AsyncLimiter(1, 60 / pace) if pace else None
        self._flying: dict[str, asyncio.Future[Answer]] = {}
        self._failed: list[Record] = []
        self._answered = self._passing = 0
        self.spent: Counter[str] = Counter()

    async def ask(self, request: Mapping[str, Any]) -> Answer:
        """The answer to a request; requests that are the same are sent once."""
        key = key_of(request)
        if record := self._store.get(key):
            self.spent["cached"] += 1
            return record.answer
        if key not in self._flying:
            self._flying[key] = asyncio.ensure_future(self._pay(key, dict(request)))
        return await self._flying[key]

    def holds(self, request: Mapping[str, Any]) -> bool:
        """Whether the store has an answer; a recorded failure is none."""
        record = self._store.get(key_of(request))
        return record is not None and record.response is not None

    async def stop(self) -> None:
        """Give up the requests in flight, and wait until each has let go of its connection."""
        for flying in self._flying.values():
            flying.cancel()
        await asyncio.gather(*self._flying.values(), return_exceptions=True)

    def keep_failures(self) -> None:
        """Record what failed for good, so that a replay knows; done last, since only then is it known how many failed.

        Raises:
            D4SError: if so many failed that the server must be to blame; then no failure is recorded.
        """
        self._check_answers()
        if self._passing > _believed(self.spent["calls"]):
            ends = Counter(str(record.failure).partition(":")[0] for record in self._failed)
            told = ", ".join(f"{count} with {end!r}" for end, count in ends.most_common())
            raise D4SError(
                f"{len(self._failed)} of {self.spent['calls']} requests to {self._settings.base_url} failed ({told}), most likely for a "
                f"reason that passes; no failure is recorded, run the same command again later: {self._kept}"
            )
        for record in self._failed:
            self._store.add(record)

    def _check_answers(self) -> None:
        """See that the server answers something.

        Raises:
            D4SError: if it answered nothing, and a store of answers of the same model does not speak for it either.
        """
        if not self._failed or self._answered:
            return
        before = sum(bool(record.response) and record.request["model"] == self._settings.model for record in self._store.records.values())
        if not before or len(self._failed) > _believed(before):
            raise D4SError(
                f"{self._settings.base_url} answered none of {len(self._failed)} requests ({self._failed[0].failure}); "
                f"check base_url, model and what the server supports, then run the same command again: {self._kept}"
            )

    @property
    def _kept(self) -> str:
        return f"{len(self._store.records)} answers are kept in {self._store.path}"

    async def _pay(self, key: str, request: dict[str, Any]) -> Answer:
        async with self._gate:
            if self._limiter:
                await self._limiter.acquire()
            self.spent["calls"] += 1
            try:
                body = await self._body(request)
            except (openai.APIError, ValueError) as error:
                if isinstance(error, openai.APIError):
                    self.spent["retries"] += int(error.request.headers.get("x-stainless-retry-count", 0))
                self.spent["failures"] += 1
                record = Record(key=key, request=request, failure=await self._failure(error))
                self._failed.append(record)
                self._passing += _may_pass(error)
                if len(self._failed) >= HOPELESS:
                    self._check_answers()
                return record.answer
        record = Record(key=key, request=request, response=body)
        self._store.add(record)
        self._answered += 1
        return record.answer

    async def _body(self, request: dict[str, Any]) -> dict[str, Any]:
        """The body of a response that is a chat completion.

        Raises:
            ValueError: if a successful response is no such thing, time and again.
        """
        text = ""
        for turn in range(self._settings.retries + 1):
            if turn:
                await asyncio.sleep(min(PAUSE_S * 2 ** (turn - 1), MOST_PAUSE_S))
                self.spent["retries"] += 1
            raw = await self._client.chat.completions.with_raw_response.create(**request)
            self.spent["retries"] += raw.retries_taken
            text = _without_key(raw.text)
            try:
                body = json.loads(text)
                tokens = tokens_of(body)  # paid for, whatever the rest of the body is worth
                self.spent.update(paid_tokens_in=tokens.prompt_tokens, paid_tokens_out=tokens.completion_tokens)
                Response.model_validate(body)
                canonical(body).encode()  # half an emoji is no text
                return body
            except (json.JSONDecodeError, ValidationError, UnicodeEncodeError):
                continue
        raise ValueError(f"HTTP 200 with a body that is no chat completion: {text[:SHOWN]!r}")

    async def _failure(self, error: openai.APIError | ValueError) -> str:
        """Why a request failed, in words.

        Raises:
            D4SError: if the server is to blame rather than the request.
        """
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        told = _without_key(f"HTTP {status}: {error.message}" if isinstance(error, openai.APIStatusError) else str(error))[:SHOWN]
        told = told.encode(errors="replace").decode()  # half an emoji is no text
        if status in STOPPING or not await self._is_well():
            remedy = STOPPING.get(status or 0, "check that it runs, and base_url")
            raise D4SError(
                f"the server {self._settings.base_url} cannot be used ({told}); {remedy}, then run the same command again: {self._kept}"
            ) from None
        return told

    async def _is_well(self) -> bool:
        """Whether the server answers anything at all, and in JSON: a web page is no such server."""
        try:
            found = await self._client.with_options(max_retries=0).models.with_raw_response.list()
            json.loads(found.text)
        except openai.APIStatusError as error:
            return error.status_code < 500
        except (openai.APIConnectionError, ValueError):
            return False
        return True


@asynccontextmanager
async def live(settings: OpenAIWriting) -> AsyncIterator[Live]:
    """A server for asking, with the store of its answers locked meanwhile."""
    client = openai.AsyncOpenAI(
        api_key=os.environ.get(KEY_VARIABLE) or "none",
        base_url=settings.base_url,
        timeout=settings.timeout_s,
        max_retries=settings.retries,
    )
    async with client:
        with writable(Path(settings.store)) as store:
            asker = Live(settings, store, client)
            try:
                yield asker
            finally:
                await asker.stop()
            asker.keep_failures()


def _believed(requests: int) -> float:
    """How many of so many requests may fail alone."""
    return max(1.0, BELIEVED * requests)


def _may_pass(error: openai.APIError | ValueError) -> bool:
    """Whether the state of the server may explain a failure; if not, it is the request that is refused."""
    return not isinstance(error, openai.APIStatusError) or error.status_code in BUSY or error.status_code >= 500


def _without_key(text: str) -> str:
    """Text in which no key stands, should a server repeat it; a stand-in for one, which may be any short word, is none."""
    key = os.environ.get(KEY_VARIABLE, "")
    return text.replace(key, "***") if len(key) >= SHORTEST_KEY else text

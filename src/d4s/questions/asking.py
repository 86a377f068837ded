"""Asking a language model behind an OpenAI-compatible server: paced, concurrent, each request once, each answer kept at once.

A fault that passes is repeated, by the client or here. One that stays is held against its request if the server is well
otherwise, and ends the work if it is not: then the answers so far are kept, and the same command goes on from them.
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
from d4s.questions.replies import Answer, Response
from d4s.writing import OpenAIWriting

KEY_VARIABLE = "OPENAI_API_KEY"
PAUSE_S = 0.5
SHOWN = 200
STOPPING = {401: f"set {KEY_VARIABLE}", 403: f"check {KEY_VARIABLE}", 404: "check base_url and model", 429: "lower requests_per_minute"}
"""What to do about answers that no repetition changes."""


class Asker(Protocol):
    """Whoever answers requests; `None` where it has no answer and cannot get one."""

    async def ask(self, request: Mapping[str, Any]) -> Answer | None:
        """The answer to a request."""
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


class Live:
    """Answers from a store, and from a server what the store lacks."""

    def __init__(self, settings: OpenAIWriting, store: AnswerStore, client: openai.AsyncOpenAI) -> None:
        self._settings, self._store, self._client = settings, store, client
        self._gate = asyncio.Semaphore(settings.concurrency)
        pace = settings.requests_per_minute
        self._limiter = AsyncLimiter(1, 60 / pace) if pace else None
        self._flying: dict[str, asyncio.Future[Answer]] = {}
        self._failed: list[Record] = []
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

    async def stop(self) -> None:
        """Give up the requests in flight, and wait until each has let go of its connection."""
        for flying in self._flying.values():
            flying.cancel()
        await asyncio.gather(*self._flying.values(), return_exceptions=True)

    def keep_failures(self) -> None:
        """Record what failed for good, so that a replay knows; done last, since a server may fail everything.

        Raises:
            D4SError: if no request to this model was ever answered.
        """
        answered = any(record.response and record.request["model"] == self._settings.model for record in self._store.records.values())
        if self._failed and not answered:
            raise D4SError(
                f"{self._settings.base_url} answered none of {len(self._failed)} requests ({self._failed[0].failure}); "
                "check base_url, model and what the server supports"
            )
        for record in self._failed:
            self._store.add(record)

    async def _pay(self, key: str, request: dict[str, Any]) -> Answer:
        async with self._gate:
            if self._limiter:
                await self._limiter.acquire()
            self.spent["calls"] += 1
            try:
                body = await self._body(request)
            except (openai.APIError, ValueError) as error:
                failure = await self._failure(error)
                self.spent["failures"] += 1
                record = Record(key=key, request=request, failure=failure)
                self._failed.append(record)
                return record.answer
        record = Record(key=key, request=request, response=body)
        self._store.add(record)
        answer = record.answer
        self.spent.update(paid_tokens_in=answer.tokens_in, paid_tokens_out=answer.tokens_out)
        return answer

    async def _body(self, request: dict[str, Any]) -> dict[str, Any]:
        """The body of a response that is a chat completion.

        Raises:
            ValueError: if a successful response is no such thing, time and again.
        """
        text = ""
        for turn in range(self._settings.retries + 1):
            raw = await self._client.chat.completions.with_raw_response.create(**request)
            self.spent["retries"] += raw.retries_taken + (turn > 0)
            text = _without_key(raw.text)
            try:
                body = json.loads(text)
                Response.model_validate(body)
                canonical(body).encode()  # half an emoji is no text
                return body
            except (json.JSONDecodeError, ValidationError, UnicodeEncodeError):
                await asyncio.sleep(PAUSE_S * 2**turn)
        raise ValueError(f"HTTP 200 with a body that is no chat completion: {text[:SHOWN]!r}")

    async def _failure(self, error: openai.APIError | ValueError) -> str:
        """Why a request failed, in words.

        Raises:
            D4SError: if the server is to blame rather than the request.
        """
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        told = _without_key(f"HTTP {status}: {error.message}" if isinstance(error, openai.APIStatusError) else str(error))[:SHOWN]
        if status in STOPPING or not await self._is_well():
            remedy = STOPPING.get(status or 0, "check that it runs, and base_url")
            raise D4SError(
                f"the server {self._settings.base_url} cannot be used ({told}); {remedy}, then run the same command again: "
                f"{len(self._store.records)} answers are kept in {self._store.path}"
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


def _without_key(text: str) -> str:
    """Text in which no key stands, should a server repeat it."""
    key = os.environ.get(KEY_VARIABLE)
    return text.replace(key, "***") if key else text

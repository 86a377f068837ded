"""A server of language models that fails as it is told, and requests to it."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from d4s.questions import api_client
from d4s.questions.api_client import open_api_client
from d4s.questions.replies import ModelAnswer
from d4s.writer_settings import OpenAIWriterSettings

IMPATIENT = 0.3


SECRET = "sk-very-secret-0123456789"


def request(number: int) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": f"question {number}"}], "seed": number, "max_completion_tokens": 9}


def body(text: str = "fine", finish: str = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


def ok(text: str = "fine", **more: Any) -> Response:
    return Response(json.dumps(body(text, **more)), content_type="application/json")


def status(code: int, text: str = "no", **headers: str) -> Response:
    return Response(json.dumps({"error": {"message": text}}), status=code, headers=headers, content_type="application/json")


def late() -> Response:
    time.sleep(3 * IMPATIENT)
    return ok("too late")


def patience(fault: str) -> float:
    """Seconds to wait for an answer: few only where lateness is the fault, so that a busy machine is not taken for a late server."""
    return IMPATIENT if fault == "late" else 30.0


def torn() -> Response:
    content = json.dumps(body())
    return Response(content[:20], headers={"Content-Length": str(len(content))}, content_type="application/json")


class Faulty:
    """A server that gives the prepared responses in turn, then the last one for ever; it has no `/models`."""

    def __init__(self, server: HTTPServer) -> None:
        self.server, self.turns = server, [ok]
        self.seen: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        server.expect_request("/v1/chat/completions", method="POST").respond_with_handler(self._answer)

    @property
    def url(self) -> str:
        return self.server.url_for("/v1")

    def _answer(self, asked: Request) -> Response:
        self.seen.append(json.loads(asked.data))
        self.keys.add(asked.headers.get("Authorization"))
        return self.turns[min(len(self.seen), len(self.turns)) - 1]()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    monkeypatch.setattr(api_client, "MIN_BACKOFF_S", 0.01)
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setenv(api_client.KEY_VARIABLE, SECRET)
    with HTTPServer(threaded=True) as server:
        yield Faulty(server)


def asked(url: str, store: Path, *numbers: int, question: str = "", **settings: Any) -> tuple[list[ModelAnswer], Counter[str]]:
    """What comes of requests, each about a question of its own unless all are attempts at one."""
    chosen = {"timeout_s": 30.0, "retries": 2, "concurrency": 1, "requests_per_minute": None} | settings
    writing = OpenAIWriterSettings(writer="openai", model="m", base_url=url, store=str(store), **chosen)

    async def run() -> tuple[list[ModelAnswer], Counter[str]]:
        async with open_api_client(writing) as source:
            api_client = (source.ask(request(number), question or str(number)) for number in numbers)
            return list(await asyncio.gather(*api_client)), source.usage

    return asyncio.run(run())

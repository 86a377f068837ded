"""Asking a server: what passes is repeated, what stays costs an attempt or ends the work, and nothing is asked twice."""

import asyncio
import json
import re
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from werkzeug import Response

from d4s.errors import D4SError
from d4s.questions import api_client
from d4s.questions.answers import AnswerStore, open_for_writing
from d4s.questions.api_client import ApiClient, RecordedAnswers
from d4s.questions.replies import ModelAnswer
from d4s.writer_settings import OpenAIWriterSettings
from tests.servers import SECRET, Faulty, asked, body, late, ok, patience, request, status, torn

Making = Callable[[], Response]


# --- faults that pass -------------------------------------------------------------------------------------------------

PASSING: dict[str, Making] = {
    "429 with Retry-After": lambda: status(429, **{"Retry-After": "1"}),
    "500": lambda: status(500),
    "late": late,
    "torn body": torn,
    "HTML with status 200": lambda: Response("<html>Bad gateway</html>", content_type="text/html"),
    "200 that is no JSON": lambda: Response("{not json", content_type="application/json"),
    "200 that is no completion": lambda: Response('{"hello": 1}', content_type="application/json"),
    "half an emoji": lambda: ok("ab\ud83d"),
}


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_costs_a_repetition(fault: str, faulty: Faulty, tmp_path: Path) -> None:
    faulty.turns = [PASSING[fault], ok]
    [answer], usage = asked(faulty.url, tmp_path / "a.jsonl", 1, timeout_s=patience(fault))
    assert (answer.content, answer.failure) == ("fine", "")
    assert (usage["calls"], usage["retries"], usage["failures"]) == (1, 1, 0)
    paid = 2 if fault == "half an emoji" else 1
    assert (usage["paid_tokens_in"], usage["paid_tokens_out"]) == (7 * paid, 3 * paid), "an answer that is thrown away is paid for too"
    assert len(faulty.seen) == 2 and faulty.seen[0] == faulty.seen[1] == request(1)


# --- faults that stay -------------------------------------------------------------------------------------------------

STAYING = {name: fault for name, fault in PASSING.items() if not name.startswith("429")} | {"400": lambda: status(400, "bad schema")}


@pytest.mark.parametrize("fault", STAYING)
def test_a_fault_is_recorded_where_another_attempt_is_answered(fault: str, faulty: Faulty, tmp_path: Path) -> None:
    faulty.turns = [ok, STAYING[fault]]
    store = tmp_path / "a.jsonl"
    first, second = asked(faulty.url, store, 1, 2, question="one", timeout_s=patience(fault))[0]
    assert first.content == "fine" and second.failure and not second.content
    assert len(faulty.seen) == (2 if fault == "400" else 4)
    again, usage = asked(faulty.url, store, 1, 2)
    assert again == [first, second] and usage == {"cached": 2}

    async def replayed() -> ModelAnswer | None:
        return await RecordedAnswers(AnswerStore(store)).ask(request(2), "one")

    assert asyncio.run(replayed()) == second


@pytest.mark.parametrize("fault", STAYING)
def test_a_server_that_answers_nothing_ends_the_work_and_leaves_no_trace(fault: str, faulty: Faulty, tmp_path: Path) -> None:
    faulty.turns = [STAYING[fault]]
    with pytest.raises(D4SError, match="answered none of 1 requests" if fault in {"400", "500"} else r"cannot be used .*base_url"):
        asked(faulty.url, tmp_path / "a.jsonl", 1, timeout_s=patience(fault))
    assert not (tmp_path / "a.jsonl").exists()


def test_a_web_page_in_the_place_of_a_server_ends_the_work(faulty: Faulty, tmp_path: Path) -> None:
    faulty.server.clear()
    faulty.server.expect_request(re.compile(".*")).respond_with_data("<html>Welcome</html>", content_type="text/html")
    with pytest.raises(D4SError, match=r"<html>Welcome.*base_url, then run the same command again: 0 answers"):
        asked(faulty.url, tmp_path / "a.jsonl", 1)


@pytest.mark.parametrize(("code", "remedy"), [(401, "set OPENAI_API_KEY"), (403, "check OPENAI_API_KEY"), (404, "model"), (429, "lower")])
def test_what_no_repetition_changes_ends_the_work_with_what_to_do(code: int, remedy: str, faulty: Faulty, tmp_path: Path) -> None:
    faulty.turns = [ok, lambda: status(code, f"your key {SECRET} is wrong")]
    with pytest.raises(D4SError, match=remedy) as caught:
        asked(faulty.url, tmp_path / "a.jsonl", 1, 2, 3)
    assert SECRET not in str(caught.value) and "***" in str(caught.value)


def test_nobody_there_ends_the_work(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(D4SError, match="check that it runs"):
        asked(url, tmp_path / "a.jsonl", 1, retries=0)


def test_the_key_is_sent_and_written_nowhere(faulty: Faulty, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    faulty.turns = [lambda: ok(f"you sent {SECRET}")]
    [answer] = asked(faulty.url, tmp_path / "a.jsonl", 1)[0]
    assert faulty.keys == {f"Bearer {SECRET}"}
    assert answer.content == "you sent ***"
    assert SECRET not in (tmp_path / "a.jsonl").read_text() + caplog.text


# --- answers that are no use ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "failure"),
    [
        (body('{"question": "If', finish="length"), "cut off"),
        (body("", finish="content_filter"), "content filter"),
        (body("", refusal="I would rather not"), "refused: I would rather not"),
        (body(""), "empty"),
    ],
)
def test_an_answer_that_is_none_is_kept_and_says_why(made: dict[str, Any], failure: str, faulty: Faulty, tmp_path: Path) -> None:
    faulty.turns = [lambda: Response(json.dumps(made), content_type="application/json")]
    [answer], usage = asked(faulty.url, tmp_path / "a.jsonl", 1)
    assert failure in answer.failure
    assert (usage["retries"], usage["failures"]) == (0, 0)
    [record] = AnswerStore(tmp_path / "a.jsonl").records.values()
    assert record.response == made


# --- how many at once -------------------------------------------------------------------------------------------------


def through(handler: Callable[[httpx2.Request], Any], store: Path, numbers: list[int], **settings: Any) -> Counter[str]:
    """Ask through a transport that is a function."""
    writing = OpenAIWriterSettings(writer="openai", model="m", store=str(store), **({"requests_per_minute": None} | settings))

    async def run() -> Counter[str]:
        transport = httpx2.AsyncClient(transport=httpx2.MockTransport(handler))
        async with openai.AsyncOpenAI(api_key="k", base_url="http://nowhere/v1", http_client=transport) as client:
            with open_for_writing(store) as opened:
                source = ApiClient(writing, opened, client)
                await asyncio.gather(*(source.ask(request(number), str(number)) for number in numbers))
                return source.usage

    return asyncio.run(run())


def test_requests_that_are_the_same_are_sent_once(tmp_path: Path) -> None:
    sent: list[bytes] = []

    async def handler(got: httpx2.Request) -> httpx2.Response:
        sent.append(got.content)
        await asyncio.sleep(0.01)
        return httpx2.Response(200, json=body())

    usage = through(handler, tmp_path / "a.jsonl", [1, 2, 1, 1, 2])
    assert len(sent) == len(set(sent)) == usage["calls"] == 2


def test_no_more_are_in_flight_than_allowed(tmp_path: Path) -> None:
    flying, most = 0, 0

    async def handler(got: httpx2.Request) -> httpx2.Response:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0.005)
        flying -= 1
        return httpx2.Response(200, json=body())

    through(handler, tmp_path / "a.jsonl", list(range(20)), concurrency=3)
    assert most == 3


def test_every_call_waits_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paced: list[tuple[float, float]] = []
    acquired: list[int] = []

    class Limiter:
        def __init__(self, rate: float, period: float) -> None:
            paced.append((rate, period))

        async def acquire(self) -> None:
            acquired.append(1)

    monkeypatch.setattr(api_client, "AsyncLimiter", Limiter)
    through(lambda got: httpx2.Response(200, json=body()), tmp_path / "a.jsonl", [1, 2, 3], requests_per_minute=120)
    assert paced == [(1, 0.5)]
    assert len(acquired) == 3

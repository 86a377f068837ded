"""How a session of asking ends: a question that no attempt answers stays open; what was paid is counted, however it ends."""

import asyncio
import json
import logging
import re
from pathlib import Path
from typing import Any

import openai
import pytest
from werkzeug import Response

from d4s.artifacts import StageJob
from d4s.cli import stage_commands
from d4s.cli.stage_commands import StageCall
from d4s.config import QuestionsSettings, WorldSettings
from d4s.errors import D4SError
from d4s.questions import api_client
from d4s.questions.answers import AnswerRecord, AnswerStore, key_of, open_for_writing
from d4s.questions.api_client import ApiClient, RecordedAnswers, open_api_client
from d4s.questions.language_model_writer import LanguageModelWriter
from d4s.questions.prompts import v1, v2
from d4s.questions.question_items import plan_items
from d4s.questions.writers import Draft, make_writer
from d4s.writer_settings import OpenAIWriterSettings
from tests.events import frame
from tests.samples import made_world
from tests.servers import Faulty, asked, body, late, ok, patience, request, status, torn
from tools.standin import MODEL, completion, serving

EVENTS = frame(*((f"PersonX does {tail}", "xWant", tail) for tail in ("rest", "eat", "sing", "go home", "nap")))
BUSY = {"503": lambda: status(503, "overloaded"), "408": lambda: status(408), "409": lambda: status(409), "late": late, "torn": torn}


def kept(store: Path, *numbers: int) -> None:
    with open_for_writing(store) as opened:
        for number in numbers:
            opened.add(AnswerRecord(key=key_of(request(number)), request=request(number), response=body()))


# --- whose fault it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", BUSY)
def test_questions_that_a_busy_server_leaves_open_are_asked_again(fault: str, faulty: Faulty, tmp_path: Path) -> None:
    faulty.turns, store = [ok, BUSY[fault]], tmp_path / "a.jsonl"
    with pytest.raises(D4SError, match=r"left 2 of 3 questions .*\(2 with .*\).*run the same command again later: 1 answers are kept"):
        asked(faulty.url, store, 1, 2, 3, retries=0, timeout_s=patience(fault))
    assert set(AnswerStore(store).records) == {key_of(request(1))}
    faulty.turns = [ok]
    answers, usage = asked(faulty.url, store, 1, 2, 3)
    assert [answer.content for answer in answers] == ["fine"] * 3 and (usage["cached"], usage["calls"]) == (1, 2)


def test_one_open_question_among_many_is_enough(faulty: Faulty, tmp_path: Path) -> None:
    faulty.turns, store = [ok, BUSY["503"], ok], tmp_path / "a.jsonl"
    with pytest.raises(D4SError, match=r"left 1 of 40 questions .*1 with 'HTTP 503'; the last: HTTP 503: overloaded.*39 answers are kept"):
        asked(faulty.url, store, *range(40), retries=0)
    assert not any(record.failure for record in AnswerStore(store).records.values())


def test_a_refusal_does_not_close_a_question_that_met_a_busy_server(faulty: Faulty, tmp_path: Path) -> None:
    faulty.turns, store = [ok, BUSY["503"], lambda: status(400, "too long")], tmp_path / "a.jsonl"
    writing = OpenAIWriterSettings(writer="openai", model="m", base_url=faulty.url, store=str(store), retries=0, concurrency=1)

    async def run() -> None:
        async with open_api_client(writing) as source:
            for number, question in ((1, "one"), (2, "two"), (3, "two")):
                await source.ask(request(number), question)

    with pytest.raises(D4SError, match="left 1 of 2 questions"):
        asyncio.run(run())
    assert not any(record.failure for record in AnswerStore(store).records.values())


def test_requests_that_are_refused_for_what_they_are_may_be_many(faulty: Faulty, tmp_path: Path) -> None:
    faulty.turns, store = [ok, lambda: status(400, "too long")], tmp_path / "a.jsonl"
    asked(faulty.url, store, 1, 2, 3, 4)
    assert sum(bool(record.failure) for record in AnswerStore(store).records.values()) == 3


def test_refusals_are_recorded_however_the_work_ends(faulty: Faulty, tmp_path: Path) -> None:
    faulty.turns, store = [ok, lambda: status(400, "too long"), lambda: status(401)], tmp_path / "a.jsonl"
    with pytest.raises(D4SError, match="set OPENAI_API_KEY"):
        asked(faulty.url, store, 1, 2, 3)
    assert [bool(AnswerStore(store).records[key_of(request(number))].failure) for number in (1, 2)] == [False, True]


def test_a_server_that_refuses_a_whole_session_is_not_believed_for_its_answers_before(faulty: Faulty, tmp_path: Path) -> None:
    faulty.turns, store = [lambda: status(400, "no such parameter")], tmp_path / "a.jsonl"
    kept(store, *range(100, 120))
    with pytest.raises(D4SError, match=r"answered none of 2 requests \(HTTP 400: .*same command again: 20 answers are kept"):
        asked(faulty.url, store, 1, 2, 100)
    assert len(AnswerStore(store).records) == 20


def test_a_server_that_refuses_everything_is_not_asked_to_the_end(faulty: Faulty, tmp_path: Path) -> None:
    faulty.turns, store = [lambda: status(400, "no such parameter")], tmp_path / "a.jsonl"
    with pytest.raises(D4SError, match=rf"answered none of {api_client.MAX_CONSECUTIVE_FAILURES} requests \(HTTP 400: "):
        asked(faulty.url, store, *range(4 * api_client.MAX_CONSECUTIVE_FAILURES))
    assert len(faulty.seen) == api_client.MAX_CONSECUTIVE_FAILURES and not AnswerStore(store).records
    faulty.turns, before = [ok, lambda: status(400, "too long")], len(faulty.seen)
    faulty.turns = [*[faulty.turns[1]] * before, *faulty.turns]
    asked(faulty.url, store, *range(2 * api_client.MAX_CONSECUTIVE_FAILURES))
    assert len(faulty.seen) == before + 2 * api_client.MAX_CONSECUTIVE_FAILURES, "a server that answered once may refuse many"


def test_a_server_that_breaks_down_is_not_asked_to_the_end(faulty: Faulty, tmp_path: Path) -> None:
    down = [BUSY["503"]] * (api_client.MAX_CONSECUTIVE_FAILURES - 1)
    faulty.turns, store = [ok, *down, ok, BUSY["503"]], tmp_path / "a.jsonl"
    with pytest.raises(
        D4SError, match=rf"answered none of {api_client.MAX_CONSECUTIVE_FAILURES} requests \(HTTP 503: overloaded\).*2 answers are kept"
    ):
        asked(faulty.url, store, *range(4 * api_client.MAX_CONSECUTIVE_FAILURES), retries=0)
    assert len(faulty.seen) == 1 + len(down) + 1 + api_client.MAX_CONSECUTIVE_FAILURES, "an answer between failures is a sign of life"


def test_an_account_without_credit_ends_the_work(faulty: Faulty, tmp_path: Path) -> None:
    faulty.turns, store = [ok, lambda: status(402, "Insufficient Balance")], tmp_path / "a.jsonl"
    with pytest.raises(D4SError, match=r"Insufficient Balance.*; top up the account, then run the same command again: 1 answers"):
        asked(faulty.url, store, 1, 2, 3)
    assert set(AnswerStore(store).records) == {key_of(request(1))}


# --- what is counted, and what is left alone --------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["503", "late", "torn"])
def test_repetitions_before_a_lasting_failure_are_counted(fault: str, faulty: Faulty, tmp_path: Path) -> None:
    faulty.turns = [ok, BUSY[fault]]
    usage = asked(faulty.url, tmp_path / "a.jsonl", 1, 2, question="one", retries=2, timeout_s=patience(fault))[1]
    assert (usage["calls"], usage["retries"], usage["failures"]) == (2, 2, 1)


def test_tokens_of_answers_that_are_thrown_away_are_counted(faulty: Faulty, tmp_path: Path) -> None:
    empty, strange = body() | {"choices": []}, {"choices": [], "usage": {"prompt_tokens": "many"}}
    faulty.turns = [ok, *(lambda made=made: Response(json.dumps(made), content_type="application/json") for made in (empty, strange, []))]
    usage = asked(faulty.url, tmp_path / "a.jsonl", 1, 2, question="one", retries=2)[1]
    assert (usage["paid_tokens_in"], usage["paid_tokens_out"], usage["failures"]) == (14, 6, 1)


def test_an_answer_in_parts_is_their_text(faulty: Faulty, tmp_path: Path) -> None:
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "well "}, {"type": "text", "text": "said"}]
    faulty.turns = [lambda: ok(parts)]  # type: ignore[arg-type]
    [answer] = asked(faulty.url, tmp_path / "a.jsonl", 1)[0]
    assert (answer.content, answer.failure) == ("well said", "")


def test_a_short_stand_in_for_a_key_alters_no_answer(faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(api_client.KEY_VARIABLE, "x")
    faulty.turns = [lambda: ok("six foxes")]
    assert asked(faulty.url, tmp_path / "a.jsonl", 1)[0][0].content == "six foxes"


def test_half_an_emoji_in_a_refusal_can_be_recorded(faulty: Faulty, tmp_path: Path) -> None:
    faulty.turns, store = [ok, lambda: status(400, "bad \ud83d")], tmp_path / "a.jsonl"
    failure = asked(faulty.url, store, 1, 2)[0][1].failure
    assert "bad ?" in failure and AnswerStore(store).records[key_of(request(2))].failure == failure


def test_pauses_have_an_end_and_none_follows_the_last_turn(faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    monkeypatch.setattr(api_client, "MIN_BACKOFF_S", 0.5)
    monkeypatch.setattr(api_client.asyncio, "sleep", sleep)
    faulty.turns = [ok, lambda: Response("{not json", content_type="application/json")]
    asked(faulty.url, tmp_path / "a.jsonl", 1, 2, question="one", retries=7)
    assert [seconds for seconds in paused if seconds] == [0.5, 1, 2, 4, 8, 8, 8]


def test_a_linked_store_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "shared" / "a.jsonl", tmp_path / "a.jsonl"
    real.parent.mkdir()
    link.symlink_to(real)
    kept(link, 2, 1)
    assert link.is_symlink() and len(AnswerStore(real).records) == 2


# --- the writer -------------------------------------------------------------------------------------------------------


def writer(url: str, store: Path, **more: Any) -> LanguageModelWriter:
    chosen = {"writer": "openai", "model": MODEL, "base_url": url, "store": str(store), "requests_per_minute": None} | more
    found = make_writer(QuestionsSettings.model_validate({"form": "true_false", "writer": chosen}))
    assert isinstance(found, LanguageModelWriter)
    return found


def nonsense(request: dict[str, Any]) -> dict[str, Any]:
    found = completion(request)
    found["choices"][0]["message"]["content"] = "nonsense"
    return found


def second_time(request: dict[str, Any]) -> dict[str, Any]:
    return nonsense(request) if request["seed"] == 0 else completion(request)


def test_templates_in_the_place_of_answers_are_told_in_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def partly(request: dict[str, Any]) -> dict[str, Any]:
        return nonsense(request) if "does rest" in request["messages"][1]["content"] else completion(request)

    with serving(partly) as url, caplog.at_level(logging.WARNING):
        writer(url, tmp_path / "a.jsonl").write(plan_items(EVENTS, 0), "true_false")
    assert "templates take the place of answers for 1 of 5 items" in caplog.text


def test_reasons_stand_in_the_first_message(tmp_path: Path) -> None:
    store = tmp_path / "a.jsonl"
    with serving(second_time) as url:
        drafts = writer(url, store, attempts=4).write(plan_items(EVENTS, 0), "true_false")
    assert {draft.prompt_version for draft in drafts} == {v2.VERSION}
    requests = [record.request for record in AnswerStore(store).records.values()]
    assert {tuple(message["role"] for message in request["messages"]) for request in requests} == {("system", "user")}
    told = {request["seed"]: request["messages"][0]["content"] for request in requests}
    assert told[1].startswith(told[0]) and "An earlier answer was refused for these reasons" in told[1].removeprefix(told[0])


def test_answers_recorded_with_the_first_prompts_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, items = tmp_path / "a.jsonl", plan_items(EVENTS, 0)

    def written(asks: LanguageModelWriter) -> list[Draft]:
        return asks.write(items, "true_false")

    with serving(second_time) as url:
        with monkeypatch.context() as before:
            before.setattr(v2, "messages", v1.messages)
            before.setattr(v2, "VERSION", v1.VERSION)
            drafts = written(writer(url, store, attempts=4))
        asks = writer(url, store, attempts=4)
        assert written(asks) == drafts and not asks.usage["true_false"].get("calls")
    replay = {"writer": "replay", "store": str(store), "attempts": 4}
    again = written(make_writer(QuestionsSettings.model_validate({"form": "true_false", "writer": replay})))  # type: ignore[arg-type]
    assert [draft.template for draft in again] == [draft.template for draft in drafts]
    assert {draft.prompt_version for draft in again} == {v1.VERSION}


def test_a_failure_of_the_first_prompts_is_no_answer_to_a_server(tmp_path: Path) -> None:
    settings = OpenAIWriterSettings(writer="openai", model="m")
    with open_for_writing(tmp_path / "a.jsonl") as store:
        store.add(AnswerRecord(key=key_of(request(1)), request=request(1), failure="a system message must be the first"))
        assert not ApiClient(settings, store, openai.AsyncOpenAI(api_key="k")).has_answer(request(1))
        assert RecordedAnswers(store).has_answer(request(1))


# --- the ledger of costs ----------------------------------------------------------------------------------------------


def test_what_a_call_paid_before_it_failed_is_in_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = made_world(tmp_path / "world", WorldSettings(people=8, first_names=4, last_names=4, events=8, benchmark_items=4))
    answered: list[int] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        answered.append(1)
        if len(answered) > 30:
            raise ConnectionError  # the connection is cut, and the next ones too
        return completion(request)

    with serving(answer) as url:
        writing = OpenAIWriterSettings(
            writer="openai", model=MODEL, base_url=url, store=str(tmp_path / "a.jsonl"), concurrency=1, retries=0, requests_per_minute=None
        )
        chosen = QuestionsSettings(form="true_false", writer=writing)
        folder = tmp_path / "made"
        job = StageJob("facts", chosen, {"world": world}, folder)
        monkeypatch.setattr(stage_commands, "_parse_job", lambda *_: job)
        with pytest.raises(D4SError, match=re.escape("30 answers are kept")):
            stage_commands.run_stage(StageCall("questions", folder / "manifest.json", "", {}, ""))
    [line] = (folder / "costs.jsonl").read_text().splitlines()
    paid = [record.answer for record in AnswerStore(tmp_path / "a.jsonl").records.values()]
    found = json.loads(line)
    assert (found["tokens_in"], found["tokens_out"]) == (sum(a.tokens_in for a in paid), sum(a.tokens_out for a in paid))
    assert found["requests"] > 30


def test_a_call_that_fails_and_paid_nothing_leaves_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = StageJob("facts", QuestionsSettings(form="true_false"), {"world": tmp_path / "none"}, tmp_path / "made")
    monkeypatch.setattr(stage_commands, "_parse_job", lambda *_: job)
    with pytest.raises(D4SError):
        stage_commands.run_stage(StageCall("questions", tmp_path / "made" / "manifest.json", "", {}, ""))
    assert not (tmp_path / "made" / "costs.jsonl").exists()

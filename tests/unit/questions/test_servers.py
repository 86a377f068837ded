"""Servers as they are: what they do not know is left out or named otherwise, and answers count wherever they stand."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from d4s.config import QuestionsSettings
from d4s.errors import D4SError, SettingsError
from d4s.questions import api_client
from d4s.questions.answers import AnswerStore
from d4s.questions.language_model_writer import LanguageModelWriter
from d4s.questions.prompts import v3
from d4s.questions.question_items import plan_items
from d4s.questions.replies import answer_of, error_message, parse_answer, token_usage
from d4s.questions.writers import Draft, make_writer
from tests.events import frame
from tools.standin import PHRASES

Reply = dict[str, Any]
FEW = frame(*((f"PersonX does {tail}", "xWant", tail) for tail in ("rest", "eat", "sing", "go home", "nap")))
MANY = frame(*((f"PersonX does thing {number}", "xWant", f"do thing {number}") for number in range(24)))
GOOD = {"question": "So {}?", "paraphrases": ["Well, {}?", "Then {}?"], "wordings": ["Now {}?", "Thus {}?", "Hence {}?"]}
FAULT = {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}


def right(request: Reply) -> Reply:
    """A good answer to whatever is asked in the generated form."""
    told = json.loads(request["messages"][1]["content"])["told_as"]
    texts = [phrase.replace("{}", told) for phrase in PHRASES[:6]]
    content = json.dumps({"question": texts[0], "paraphrases": texts[1:3], "wordings": texts[3:]})
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


def beside(request: Reply) -> Reply:
    found = right(request)
    message = found["choices"][0]["message"]
    message |= {"content": None, "reasoning_content": message["content"]}
    return found


def answer(made: Reply, code: int = 200) -> Response:
    return Response(json.dumps(made), status=code, content_type="application/json")


class Server:
    """A server that answers each request as told, and remembers them."""

    def __init__(self, server: HTTPServer) -> None:
        self.url = server.url_for("/v1")
        self.seen: list[Reply] = []
        self.answering: Callable[[Reply], Response] = lambda request: answer(right(request))
        server.expect_request("/v1/chat/completions", method="POST").respond_with_handler(self._answer)

    def refuse(self, wrong: Callable[[Reply], bool], made: Reply, code: int = 400) -> None:
        self.answering = lambda request: answer(made, code) if wrong(request) else answer(right(request))

    def _answer(self, asked: Request) -> Response:
        self.seen.append(json.loads(asked.data))
        return self.answering(self.seen[-1])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(api_client, "MIN_BACKOFF_S", 0.01)
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)
    with HTTPServer(threaded=True) as found:
        yield Server(found)


def written(url: str, store: Path, events: Any = FEW, **more: Any) -> list[Draft]:
    chosen = {"model": "m", "base_url": url, "store": str(store), "requests_per_minute": None, "retries": 1, "concurrency": 4} | more
    writer = make_writer(QuestionsSettings(form="directly_generated", writer={"writer": "openai"} | chosen))  # type: ignore[arg-type]
    assert isinstance(writer, LanguageModelWriter)
    return writer.write(plan_items(events, 0), "directly_generated")


# --- what a server does not know --------------------------------------------------------------------------------------

UNKNOWN: dict[str, tuple[Callable[[Reply], bool], str, dict[str, Any]]] = {
    "seed": (lambda request: "seed" in request, "set `seed: null`", {"seed": None}),
    "temperature": (lambda request: "temperature" in request, "set `temperature: null`", {"temperature": None}),
    "max_completion_tokens": (
        lambda request: "max_completion_tokens" in request, "set `max_tokens_name: max_tokens`", {"max_tokens_name": "max_tokens"},
    ),
    "response_format": (
        lambda request: request.get("response_format", {}).get("type") == "json_schema",
        "set `response_format: json_object`, or null",
        {"response_format": "json_object"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_a_server_does_not_know_is_named_and_a_setting_helps(name: str, server: Server, tmp_path: Path) -> None:
    wrong, remedy, setting = UNKNOWN[name]
    server.refuse(wrong, {"error": {"code": 400, "message": f'Unknown name "{name}": Cannot find field.'}})
    with pytest.raises(D4SError, match=rf'HTTP 400: Unknown name "{name}": .*{remedy}, then run the same command again'):
        written(server.url, tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()
    drafts = written(server.url, tmp_path / "a.jsonl", **setting)
    assert {draft.writer for draft in drafts} == {"openai"}


def test_a_server_that_knows_none_of_it(server: Server, tmp_path: Path) -> None:
    known = {"model", "messages", "max_tokens"}
    server.refuse(lambda request: not set(request) <= known, FAULT, 422)
    chosen = {"seed": None, "temperature": None, "response_format": None, "max_tokens_name": "max_tokens"}
    drafts = written(server.url, tmp_path / "a.jsonl", **chosen)
    assert {draft.writer for draft in drafts} == {"openai"} and {draft.prompt_version for draft in drafts} == {v3.VERSION}
    for request in server.seen:
        assert request["max_tokens"] == 800 and '"wordings": [TEXT, TEXT, TEXT]}' in request["messages"][0]["content"]
    replay = QuestionsSettings(form="directly_generated", writer={"writer": "replay", "store": str(tmp_path / "a.jsonl")})  # type: ignore[arg-type]
    again = make_writer(replay).write(plan_items(FEW, 0), "directly_generated")
    assert [draft.template for draft in again] == [draft.template for draft in drafts]


def test_records_name_seed_and_limit_alike_whatever_the_server_calls_them(server: Server, tmp_path: Path) -> None:
    written(server.url, tmp_path / "a.jsonl")
    asked = len(server.seen)
    written(server.url, tmp_path / "a.jsonl", seed=None, max_tokens_name="max_tokens")
    assert len(server.seen) == asked, "answers are found again"


def test_a_second_attempt_without_a_seed_is_asked_for(server: Server, tmp_path: Path) -> None:
    empty = {"choices": [{"message": {"content": ""}}]}
    server.answering = lambda request: answer(empty if len(server.seen) == 1 else right(request))
    drafts = written(server.url, tmp_path / "a.jsonl", seed=None, concurrency=1)
    assert max(draft.attempts for draft in drafts) > 1 and {draft.writer for draft in drafts} == {"openai"}


def test_a_replay_refuses_a_store_asked_with_and_without_a_schema(server: Server, tmp_path: Path) -> None:
    for wanted in ("json_schema", None):
        written(server.url, tmp_path / "a.jsonl", response_format=wanted)
    with pytest.raises(SettingsError, match=r"asked in one way.*response_format None.*response_format json_schema"):
        make_writer(QuestionsSettings(form="true_false", writer={"writer": "replay", "store": str(tmp_path / "a.jsonl")}))  # type: ignore[arg-type]


# --- what a server says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (json.dumps(FAULT), "body.seed: Extra inputs are not permitted"),
        (json.dumps({"object": "error", "message": FAULT}), "body.seed: Extra inputs are not permitted"),
        ('{"error": {"message": "no such model", "code": 7}}', "no such model"),
        ('{"error": "no such model"}', "no such model"),
        ('{"errors": [{"message": "one"}, {"msg": "two"}]}', "one; two"),
        ('{"detail": "Not enough tokens", "message": null}', "Not enough tokens"),
        ('{"code": 7}', '{"code": 7}'),
        ("upstream is gone", "upstream is gone"),
        ('{"error":' * 900 + "1" + "}" * 900, '{"error":' * 900 + "1" + "}" * 900),
    ],
)
def test_the_words_of_a_server_are_found(body: str, words: str) -> None:
    assert error_message(body) == words


@pytest.mark.parametrize(
    "made",
    [
        {"error": {"message": "You exceeded your current quota, please check your plan.", "code": "insufficient_quota"}},
        {"error": {"message": "Insufficient balance or no resource package. Please recharge.", "code": "1113"}},
        {"error": {"type": "exceeded_current_quota_error", "message": "Your account is suspended"}},
    ],
)
def test_an_empty_account_ends_the_work_at_once(made: Reply, server: Server, tmp_path: Path) -> None:
    server.refuse(lambda _: True, made, 429)
    with pytest.raises(D4SError, match=rf"{made['error']['message'][:20]}.*; top up the account, then run the same command again"):
        written(server.url, tmp_path / "a.jsonl", concurrency=1, retries=5)
    assert len(server.seen) == 1, "no repetition fills an account"


def test_a_pace_that_is_too_fast_is_no_empty_account(server: Server, tmp_path: Path) -> None:
    slow = {"error": {"message": "You exceeded your current quota. Please retry in 23 s.", "status": "RESOURCE_EXHAUSTED"}}
    server.refuse(lambda _: len(server.seen) == 1, slow, 429)
    assert {draft.writer for draft in written(server.url, tmp_path / "a.jsonl", concurrency=1)} == {"openai"}


def test_a_server_that_only_streams_ends_the_work_with_its_first_words(server: Server, tmp_path: Path) -> None:
    stream = 'data: {"choices":[{"delta":{"content":"{}"}}]}\n\ndata: [DONE]\n\n'
    server.answering = lambda _: Response(stream, content_type="text/event-stream")
    with pytest.raises(D4SError, match=r"no chat completion: 'data: \{\"choices\""):
        written(server.url, tmp_path / "a.jsonl", MANY)
    assert len(server.seen) <= 2 * 4


# --- where an answer stands -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame_of",
    [
        "{}", "\ufeff{}\n", "```json\n{}\n```", "```\n{}\n```\nDone.", "Here it is: {} I hope that {{}} helps!",
        '<think>The event is {{"event": "x"}}, so {{"question": "?"}} might do.</think>\n{}', "[{}]", '{} {{"note": "six wordings"}}',
        '{{"a": ' * 2000 + "{}",
    ],
)  # fmt: skip
def test_json_is_found_wherever_it_stands(frame_of: str) -> None:
    reply, reasons = parse_answer("phrase", frame_of.format(json.dumps(GOOD)))
    assert reply and reply.question == "So {}?" and not reasons


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("I would rather not.", "Invalid JSON"),
        ("```json\n" + json.dumps(GOOD)[:-9], "Invalid JSON"),
        (f"```json\n{json.dumps(GOOD | {'question': 'So?'})}\n```", "question: does not have the form"),
        ("{" * 5000, "Invalid JSON"),
    ],
)
def test_what_is_no_answer_is_told_about_the_json_that_is_there(content: str, reason: str) -> None:
    reply, reasons = parse_answer("phrase", content)
    assert reply is None and reason in reasons[0]


@pytest.mark.parametrize(
    "usage",
    [None, {}, [], "many", {"prompt_tokens": None, "completion_tokens": 3}, {"prompt_tokens": -1, "completion_tokens": 3.0},
     {"prompt_tokens": 10**400, "completion_tokens": 3}, {"prompt_tokens": {"text": 5}, "completion_tokens": 3}],
)  # fmt: skip
def test_counts_of_tokens_decide_nothing(usage: Any) -> None:
    made = {"choices": [{"message": {"content": "fine"}}], "usage": usage}
    found = answer_of(made)
    assert (found.content, found.failure, found.tokens_in) == ("fine", "", 0)
    assert token_usage(made).completion_tokens == (3 if isinstance(usage, dict) and usage else 0)


@pytest.mark.parametrize("parts", [False, True])
def test_surplus_fields_and_missing_ones_do_not_matter(parts: bool, server: Server, tmp_path: Path) -> None:
    def surplus(request: Reply) -> Response:
        text = right(request)["choices"][0]["message"]["content"]
        message = {
            "content": [{"type": "text", "text": text}] if parts else text,
            "reasoning_content": "hm",
            "tool_calls": None,
            "refusal": None,
        }
        return answer({"choices": [{"finish_reason": 7, "message": message}], "usage": {"prompt_tokens": "?"}})

    server.answering = surplus
    assert {draft.writer for draft in written(server.url + "/", tmp_path / "a.jsonl")} == {"openai"}


def test_a_whole_answer_counts_although_it_is_said_to_be_cut_off(server: Server, tmp_path: Path) -> None:
    def cut(request: Reply) -> Response:
        found = right(request)
        found["choices"][0]["finish_reason"] = "length"
        return answer(found)

    server.answering = cut
    assert {draft.writer for draft in written(server.url, tmp_path / "a.jsonl")} == {"openai"}


# --- nothing that can be used -----------------------------------------------------------------------------------------


def test_an_answer_beside_its_place_is_told_so_once(server: Server, tmp_path: Path) -> None:
    with pytest.raises(D4SError, match=r"none of 10 answers of 'm' can be used, the last because of: .*stands in `reasoning_content`"):
        server.answering = lambda request: answer(beside(request))
        written(server.url, tmp_path / "a.jsonl")
    told = ["`reasoning_content` and none in `content`" in request["messages"][0]["content"] for request in server.seen]
    assert sorted(told) == [False] * 5 + [True] * 5, "twice for every item, the second time with the reason"
    server.answering = lambda request: answer((right if len(server.seen) % 2 else beside)(request))
    assert "openai" in {draft.writer for draft in written(server.url, tmp_path / "b.jsonl", concurrency=1)}


@pytest.mark.parametrize("spoiled", [beside, lambda request: {"choices": [{"message": {"content": "I am a teapot"}}]}])
def test_nothing_usable_ends_the_work_before_many_are_paid(spoiled: Callable[[Reply], Reply], server: Server, tmp_path: Path) -> None:
    server.answering = lambda request: answer(spoiled(request))
    with pytest.raises(D4SError, match=rf"none of {api_client.MAX_CONSECUTIVE_FAILURES} answers of 'm' can be used"):
        written(server.url, tmp_path / "a.jsonl", MANY)
    assert api_client.MAX_CONSECUTIVE_FAILURES <= len(server.seen) <= api_client.MAX_CONSECUTIVE_FAILURES + 4
    assert len(AnswerStore(tmp_path / "a.jsonl").records) >= api_client.MAX_CONSECUTIVE_FAILURES
    before = len(server.seen)
    with pytest.raises(D4SError, match=r"none of \d+ answers of 'm' can be used"):
        written(server.url, tmp_path / "a.jsonl", MANY)
    assert len(server.seen) <= before + 4 + 1, "the same command pays for no further thirty"


def test_a_session_of_recorded_answers_alone_is_judged_as_a_whole(server: Server, tmp_path: Path) -> None:
    late = {f'"event": "PersonX does thing {number}"' for number in range(16, 24)}
    good: Callable[[Reply], bool] = lambda request: any(event in request["messages"][1]["content"] for event in late)  # noqa: E731
    server.answering = lambda request: answer(right(request) if good(request) else {"choices": [{"message": {"content": "no"}}]})
    store = tmp_path / "a.jsonl"
    drafts = written(server.url, store, MANY.iloc[::-1].reset_index(drop=True), concurrency=1)
    assert {draft.writer for draft in drafts} == {"openai", "template"}
    asked = len(server.seen)
    assert {draft.writer for draft in written(server.url, store, MANY)} == {"openai", "template"} and len(server.seen) == asked


# --- the environment --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["sk-with-a-line-break-0123\n", "  sk-with-spaces-0123456789 ", "\tsk-with-a-tab-0123456789\r\n"])
def test_white_space_around_a_key_is_taken_off(key: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(api_client.KEY_VARIABLE, key)
    server.refuse(lambda _: True, {"message": f"no such key: {key.strip()}"}, 401)
    with pytest.raises(D4SError, match=r"no such key: \*\*\*"):
        written(server.url, tmp_path / "a.jsonl")


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-schlüssel"])
def test_a_key_that_cannot_be_sent_is_named(key: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(api_client.KEY_VARIABLE, key)
    with pytest.raises(SettingsError, match="OPENAI_API_KEY holds") as caught:
        written(server.url, tmp_path / "a.jsonl")
    assert "sk-" not in str(caught.value) and not server.seen


@pytest.mark.parametrize(("proxy", "told"), [("socks5://127.0.0.1:9", "pip install socksio"), ("gopher://127.0.0.1:9", "gopher")])
def test_a_proxy_that_cannot_be_used_is_one_message(
    proxy: str, told: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(SettingsError, match=f"the proxy that ALL_PROXY.*{told}"):
        written(server.url, tmp_path / "a.jsonl")


def test_exceptions_from_the_proxy_may_be_addresses(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1,::1,[::1],fe80::/10")
    assert {draft.writer for draft in written(server.url, tmp_path / "a.jsonl")} == {"openai"}

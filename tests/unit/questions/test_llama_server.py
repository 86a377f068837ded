"""The whole way against a real OpenAI-compatible server: llama.cpp on this machine, with a tiny random model of ours."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from d4s.config import FORMS, QuestionsSettings
from d4s.questions.answers import AnswerStore
from d4s.questions.question_items import plan_items
from d4s.questions.replies import ANSWER_SCHEMAS
from d4s.questions.writers import make_writer
from tests.events import frame
from tests.gguf_model import write_tiny_model

xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp (llama.cpp server as a wheel) is not installed")
pytest.importorskip("gguf", reason="gguf is not installed")

EVENTS = frame(*((f"PersonX does {tail}", "xWant", f"to {tail}") for tail in ("rest", "eat", "sing", "go")))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    params = xllamacpp.CommonParams()
    params.model.path = str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf"))
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.verbosity = 8192, 2, 1, -1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        params.port = free.getsockname()[1]
    server = xllamacpp.Server(params)
    yield f"http://127.0.0.1:{params.port}/v1"
    del server


def settings(url: str, store: Path) -> QuestionsSettings:
    writer = {"writer": "openai", "model": "tiny", "base_url": url, "store": str(store), "concurrency": 2, "max_tokens": 2000}
    return QuestionsSettings(form="true_false", writer=writer | {"requests_per_minute": None, "attempts": 2})  # type: ignore[arg-type]


def test_a_real_server_answers_by_schema_and_a_replay_gives_the_same(url: str, tmp_path: Path) -> None:
    items = plan_items(EVENTS, 0)[:2]
    store = tmp_path / "a.jsonl"
    drafts = {form: make_writer(settings(url, store)).write(items, form) for form in FORMS}
    records = AnswerStore(store).records.values()
    answered = [record for record in records if record.answer.content and not record.answer.failure]
    names = {model.__name__.lower(): model for model in ANSWER_SCHEMAS.values()}
    for record in answered:
        model = names[record.request["response_format"]["json_schema"]["name"]]
        assert set(json.loads(record.answer.content)) == set(model.model_fields), "the grammar of the schema is enforced"
    assert len(answered) >= len(items), "most answers are whole"
    assert sum(record.answer.tokens_out for record in answered) > 0
    writers = {draft.writer for found in drafts.values() for draft in found}
    assert "openai" in writers, "some answers of even a random model pass every check"
    replay = QuestionsSettings(form="true_false", writer={"writer": "replay", "store": str(store), "attempts": 2})  # type: ignore[arg-type]
    for form, found in drafts.items():
        again = make_writer(replay).write(items, form)
        assert [draft.template for draft in again] == [draft.template for draft in found]
        assert [draft.response_sha256 for draft in again] == [draft.response_sha256 for draft in found]

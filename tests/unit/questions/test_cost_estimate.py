"""What questions will cost is known before anything is asked; recorded answers are part of the repository."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from d4s.cli import app
from d4s.config import FORMS, QuestionsSettings
from d4s.questions.answers import AnswerStore
from d4s.questions.cost_estimate import ANSWER_TOKENS, CostEstimate, estimate_cost, first_requests, format_estimate
from d4s.questions.question_items import plan_items
from d4s.questions.writers import make_writer
from d4s.writer_settings import OpenAIWriterSettings
from tests.events import frame
from tests.studies import STUDY
from tools.record_answers import RECORDED, WORLD, events, record
from tools.standin import MODEL

EVENTS = frame(*((f"PersonX does {tail}", "xWant", tail) for tail in ("rest", "eat", "sing", "go home", "nap")))


def writing(store: Path) -> OpenAIWriterSettings:
    return OpenAIWriterSettings(writer="openai", model="m", store=str(store), attempts=2, requests_per_minute=30)


def test_an_estimate_counts_what_is_not_recorded(tmp_path: Path) -> None:
    chosen = writing(tmp_path / "a.jsonl")
    items = plan_items(EVENTS, 0)
    requests = first_requests(QuestionsSettings(form="true_false", writer=chosen), items)
    found = estimate_cost(chosen, len(items), requests)
    assert (found.items, found.requests, found.recorded, found.calls) == (5, 15, 0, 15)
    assert found.tokens_out == 15 * ANSWER_TOKENS
    assert found.tokens_in == sum(len(json.dumps([r["messages"], r["response_format"]])) // 4 for r in requests.values())
    assert first_requests(QuestionsSettings(form="true_false"), items) == {}


def test_an_estimate_in_words() -> None:
    found = CostEstimate(
        items=5, requests=15, recorded=3, tokens_in=2_000_000, tokens_out=500_000, attempts=2, max_tokens=100_000, requests_per_minute=30.0
    )
    assert list(format_estimate(found, (0.5, 2.0))) == [
        "5 items, 15 questions to word, 3 of them answered in the store already",
        "calls: 12, at most 24 if every answer is refused 2 times",
        "tokens: about 2,000,000 in and 500,000 out for one answer each, at most about 4,002,400 in and 2,400,000 out",
        "cost: about 2.00, at most about 6.80, in the currency of the prices",
        "time: at least 0.4 minutes at 30 requests per minute",
    ]


def dry_run(tmp_path: Path, questions: dict[str, object], *more: str) -> tuple[int, str]:
    path = tmp_path / "study.yaml"
    grid = [{"models": ["mini"], "datasets": ["tf"], "editors": ["memit"], "lengths": [5]}]
    path.write_text(yaml.safe_dump(STUDY | {"grid": grid, "world": WORLD.model_dump(), "questions": questions}))
    found = CliRunner().invoke(app, ["questions", "--dry-run", "--study", str(path), *more])
    return found.exit_code, found.output


def test_a_dry_run_of_a_study_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asks = {"writer": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "store": str(tmp_path / "a.jsonl")}
    code, told = dry_run(tmp_path, asks, "--price-in", "1", "--price-out", "2")
    assert code == 0, told
    assert "24 items, 72 questions to word, 0 of them answered" in told and "calls: 72, at most 216" in told and "cost: about" in told
    assert not (tmp_path / "a.jsonl").exists()
    assert "no language model is asked" in dry_run(tmp_path, {"writer": "template"})[1]
    assert dry_run(tmp_path, asks, "--price-in", "1")[0] == 2


def test_a_dry_run_of_a_replay_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "72 first answers, all recorded" in dry_run(tmp_path, {"writer": "replay", "store": str(RECORDED)})[1]
    some = tmp_path / "some.jsonl"
    first = [line for line in RECORDED.read_text().splitlines(keepends=True) if '"seed":0' in line]
    some.write_text("".join(first[1:]))
    code, told = dry_run(tmp_path, {"writer": "replay", "store": str(some)})
    assert code == 1 and "1 answers are not recorded" in told


def test_nothing_to_make_is_told() -> None:
    assert "add --dry-run" in CliRunner().invoke(app, ["questions"]).output


# --- the recorded answers of the repository ---------------------------------------------------------------------------


def test_the_recorded_answers_are_what_the_tool_records(tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == RECORDED.read_bytes(), "python -m tools.record_answers writes them again"


def test_the_recorded_answers_are_replayed_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    items = plan_items(events(tmp_path), 0)
    writer = make_writer(QuestionsSettings(form="true_false", writer={"writer": "replay", "store": str(RECORDED)}))  # type: ignore[arg-type]
    drafts = [draft for form in FORMS for draft in writer.write(items, form)]
    assert {draft.writer for draft in drafts} == {"replay"}
    assert max(draft.attempts for draft in drafts) > 1, "bad answers are among them"
    assert {record.request["model"] for record in AnswerStore(RECORDED).records.values()} == {MODEL}

"""A language model that words questions in a study: what is hashed of it, and two thousand items with a kill in the middle."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from d4s.artifacts import write_table
from d4s.config import QuestionsSettings
from d4s.errors import SettingsError
from d4s.questions.answers import AnswerStore, key_of
from d4s.schemas import EVENTS
from d4s.settings_base import canonical, validate
from d4s.study.resolve import plain_values, resolve
from d4s.study_settings import Study
from tests.studies import STUDY
from tools.standin import MODEL, completion, serving

# --- settings of a study ----------------------------------------------------------------------------------------------


def digest(questions: dict[str, Any]) -> tuple[str, str]:
    grid = [{"models": ["mini"], "datasets": ["tf"], "editors": ["memit"], "lengths": [5]}]
    study = validate(Study, STUDY | {"grid": grid, "questions": questions}, "a study")
    [node] = [node for node in resolve(study).of("questions") if node.settings["form"] == "true_false"]
    assert "nowhere" not in json.dumps(node.settings)
    return node.digest, node.settings_text


def test_what_is_hashed_is_what_changes_answers(tmp_path: Path) -> None:
    asks = {"writer": "openai", "model": "m"}
    plain_values, text = digest(asks | {"base_url": "http://nowhere/v1"})
    assert json.loads(text)["writer"]["base_url"] == "http://nowhere/v1"
    assert validate(QuestionsSettings, json.loads(text), "job").model_dump(mode="json")["writer"] == {
        "writer": "openai", "model": "m", "temperature": 0.7, "seed": 0, "attempts": 3, "max_tokens": 800,
        "response_format": "json_schema",
    }  # fmt: skip
    same = (
        {"concurrency": 2},
        {"requests_per_minute": 7},
        {"store": "x"},
        {"timeout_s": 1},
        {"retries": 0},
        {"max_tokens_name": "max_tokens"},
    )
    assert {digest(asks | change)[0] for change in same} == {plain_values}
    other = ({"model": "n"}, {"temperature": 0}, {"seed": 1}, {"attempts": 2}, {"max_tokens": 9}, {"seed": None}, {"response_format": None})
    assert len({plain_values, *(digest(asks | change)[0] for change in other)}) == 8


def test_a_template_adds_no_key_to_its_settings() -> None:
    _, text = digest({"writer": "template"})
    assert json.loads(text) == {"events": "world", "form": "true_false", "writer": "template", "limit": None, "seed": 0}


def test_a_replay_is_known_by_the_content_of_its_store(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text("a")
    two.write_text("a")
    first = digest({"writer": "replay", "store": str(one)})[0]
    assert digest({"writer": "replay", "store": str(two)})[0] == first
    two.write_text("b")
    assert digest({"writer": "replay", "store": str(two)})[0] != first
    with pytest.raises(SettingsError, match="does not exist"):
        digest({"writer": "replay", "store": str(tmp_path / "none.jsonl")})


@pytest.mark.parametrize(
    "writing",
    [
        {},
        {"writer": "openai", "model": "m", "temperature": None, "seed": None, "response_format": None},
        {"writer": "replay", "store": "somewhere.jsonl", "seed": 3},
    ],
)
def test_the_last_stages_are_handed_the_same_study(writing: dict[str, Any]) -> None:
    study = validate(Study, STUDY | ({"questions": writing} if writing else {}), "a study")
    assert validate(Study, json.loads(canonical(plain_values(study, "figures", "execution"))), "again") == study


@pytest.mark.parametrize(
    ("writing", "place"),
    [({"writer": "gpt"}, "questions"), ({"writer": "openai", "model": "m", "modell": 1}, "questions.openai.modell"),
     ({"writer": "openai", "model": "m", "base_url": "http://me:secret@host/v1"}, "questions.openai.base_url")],
)  # fmt: skip
def test_wrong_settings_are_named(writing: dict[str, Any], place: str) -> None:
    with pytest.raises(SettingsError, match=place):
        validate(Study, STUDY | {"questions": writing}, "a study")


# --- a kill -----------------------------------------------------------------------------------------------------------

COUNT, CONCURRENCY = 2000, 16
SCRIPT = """
import dataclasses, json, sys
from pathlib import Path
from d4s.artifacts import read_table
from d4s.config import QuestionsSettings
from d4s.questions.question_items import plan_items
from d4s.questions.writers import make_writer
from d4s.schemas import EVENTS
events, settings, out = map(Path, sys.argv[1:])
items = plan_items(read_table(events, EVENTS), 0)
drafts = make_writer(QuestionsSettings.model_validate_json(settings.read_text())).write(items, "directly_generated")
out.write_text(json.dumps([dataclasses.asdict(draft) for draft in drafts]))
"""


def many_events(path: Path) -> Path:
    same = {"relation": "xWant", "bystander": False, "source": "test"}
    rows = [{"event_id": f"e{k}", "head": f"PersonX does thing {k}", "tail": f"rest {k % 97}", **same} for k in range(COUNT)]
    write_table(path, pd.DataFrame(rows), EVENTS)
    return path


def start(url: str, folder: Path, name: str) -> subprocess.Popen[bytes]:
    writer = {"writer": "openai", "model": MODEL, "base_url": url, "store": str(folder / f"{name}.jsonl"), "requests_per_minute": None}
    chosen = folder / f"{name}.json"
    chosen.write_text(json.dumps({"form": "directly_generated", "writer": writer | {"concurrency": CONCURRENCY}}))
    arguments = [sys.executable, "-c", SCRIPT, str(folder / "events.parquet"), str(chosen), str(folder / f"{name}.out")]
    return subprocess.Popen(arguments, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_kill_among_two_thousand_items_loses_only_requests_in_flight(tmp_path: Path) -> None:
    many_events(tmp_path / "events.parquet")
    seen: Counter[str] = Counter()
    lock, halfway, backwards = threading.Lock(), threading.Event(), threading.Event()

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        with lock:
            seen[key_of(request)] += 1
            if seen.total() == COUNT // 2:
                halfway.set()
        if backwards.is_set():
            time.sleep(int(key_of(request)[0], 16) / 1000)
        return completion(request)

    with serving(answer) as url:
        killed = start(url, tmp_path, "killed")
        assert halfway.wait(120)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert not (tmp_path / "killed.out").exists()
        kept = (tmp_path / "killed.jsonl").read_bytes().count(b"\n")
        assert 0 <= seen.total() - kept <= CONCURRENCY
        assert start(url, tmp_path, "killed").wait() == 0
        twice = [key for key, count in seen.items() if count > 1]
        assert len(twice) <= CONCURRENCY and max(seen.values()) <= 2
        backwards.set()
        assert start(url, tmp_path, "whole").wait() == 0
    for suffix in ("out", "jsonl"):
        assert (tmp_path / f"killed.{suffix}").read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()
    assert len(AnswerStore(tmp_path / "whole.jsonl").records) == len(seen) >= COUNT

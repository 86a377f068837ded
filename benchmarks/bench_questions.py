"""The multi-question data set: ten thousand items worded by template, asked of a server, and replayed.

The server is the stand-in of `tools.standin`, in a process of its own, so that only the client's CPU time is measured.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.conftest import Measure
from d4s.config import FORMS, QuestionsSettings
from d4s.questions.question_facts import form_facts, valid_drafts
from d4s.questions.question_items import Item, plan_items
from d4s.questions.writers import TemplateWriter, make_writer
from tools.standin import MODEL, serving

MANY, ASKED, TAILS = 10_000, 500, 300
PART = "Questions"


def made_up(count: int) -> pd.DataFrame:
    """Events of three relations with distinct heads; every fourth is a bystander."""
    relations = ("xWant", "xNeed", "xEffect")
    rows = [
        {
            "event_id": f"e{number}",
            "head": f"PersonX does thing {number}",
            "relation": relations[number % 3],
            "tail": f"find item {number * 7 % TAILS}",
            "bystander": number % 4 == 3,
            "source": "made up",
        }
        for number in range(count)
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return plan_items(made_up(MANY), 0)


def _serve(pipe: Connection) -> None:
    with serving() as url:
        pipe.send(url)
        pipe.recv()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True)
    server.start()
    yield here.recv()
    here.send(None)
    server.join()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_template(measure: Measure) -> None:
    passed: list[int] = []

    def write() -> None:
        planned = plan_items(made_up(MANY), 0)
        drafts = valid_drafts(planned, TemplateWriter(0))
        passed.append(len(drafts))
        chosen = [item for item in planned if item.event_id in drafts]
        for form in FORMS:
            form_facts(chosen, {key: forms[form] for key, forms in drafts.items()}, 0)

    seconds = measure.seconds(write, rounds=1)
    assert passed == [MANY]
    measure.row(PART, f"{MANY:,} items by template, three forms, checked, as facts", "nothing", seconds, "s", "≤ 60")


def test_client(measure: Measure, items: list[Item], url: str, folder: Path) -> None:
    rounds = iter(range(3))

    def ask() -> None:
        chosen = {"writer": "openai", "model": MODEL, "base_url": url, "store": str(folder / f"{next(rounds)}.jsonl")}
        writer = make_writer(QuestionsSettings.model_validate({"form": "true_false", "writer": chosen | {"requests_per_minute": None}}))
        writer.write(items[:ASKED], "directly_generated")

    each = [1000 * seconds / ASKED for seconds in measure.seconds(ask, rounds=3)]
    note = "parsing, checks, second attempts and one fsync an answer included; the server runs in another process"
    measure.row(PART, f"an item asked of a server, {ASKED} items, 16 at once", "nothing", each, "ms", "≤ 5", note)


def test_replay(measure: Measure, items: list[Item], url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # ten thousand of them are the disk's time, while the store is prepared
    store = str(folder / "all.jsonl")
    asks = {"writer": "openai", "model": MODEL, "base_url": url, "store": store, "requests_per_minute": None}
    form = "directly_generated"
    first = make_writer(QuestionsSettings.model_validate({"form": form, "writer": asks})).write(items, form)

    def replay() -> None:
        writer = make_writer(QuestionsSettings.model_validate({"form": form, "writer": {"writer": "replay", "store": store}}))
        assert [draft.template for draft in writer.write(items, form)] == [draft.template for draft in first]

    seconds = measure.seconds(replay, rounds=1)
    measure.row(PART, f"{MANY:,} items replayed, reading the store included", "nothing", seconds, "s", "≤ 30", "one form")

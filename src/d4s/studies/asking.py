"""What a study's questions will ask of a language model, found out without asking."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from d4s.artifacts import Artifact, Job, read_table
from d4s.config import QuestionsSettings, Study, validate
from d4s.errors import MissingAnswer
from d4s.facts.event_readers import EVENT_READERS
from d4s.questions.answers import AnswerStore
from d4s.questions.estimate import estimate, first_requests, report
from d4s.questions.items import plan_items
from d4s.schemas import EVENTS
from d4s.studies.graph import Node, RawFile
from d4s.studies.resolve import resolve
from d4s.writing import OpenAIWriting, ReplayWriting


def dry_run(study: Study, prices: tuple[float, float] | None) -> Iterator[str]:
    """Lines that say how many calls and tokens the study's questions will take.

    Raises:
        MissingAnswer: if they are to be replayed and first answers are missing.
    """
    nodes = resolve(study).of("questions")
    if not nodes:
        yield f"study {study.study!r} has no data set of questions"
        return
    requests: dict[str, Mapping[str, Any]] = {}
    items: set[tuple[str, int, str]] = set()
    for settings, node in {(node.settings["events"], node.settings["seed"]): (node.settings, node) for node in nodes}.values():
        chosen = validate(QuestionsSettings, {**settings, **node.handed}, f"settings of {node.label!r}")
        planned = plan_items(_events(chosen, node), chosen.seed)
        items |= {(chosen.events, chosen.seed, item.event_id) for item in planned}
        requests |= first_requests(chosen, planned)
    match study.questions:
        case OpenAIWriting() as writing:
            yield from report(estimate(writing, len(items), requests), prices)
        case ReplayWriting(store=path):
            store = AnswerStore(Path(path))
            missing = [key for key in requests if store.get(key) is None]
            if missing:
                raise MissingAnswer(missing)
            yield f"{len(items)} items, {len(requests)} first answers, all recorded in {path}"
        case _:
            yield f"{len(items)} items are worded by template: no language model is asked"


def _events(settings: QuestionsSettings, node: Node) -> pd.DataFrame:
    """The events of a job; a world that is not made yet is made for the moment."""
    source = node.inputs["world" if settings.events == "world" else "records"]
    if isinstance(source, RawFile):
        return EVENT_READERS.load(settings.events)(source.path)
    if all(path.is_file() for path in source.manifests):
        return Artifact.open(source.folder, source.kind).table("events.parquet", EVENTS)
    from d4s.config import WorldSettings
    from d4s.world.build import world

    with tempfile.TemporaryDirectory() as folder:
        world(Job(source.kind, validate(WorldSettings, source.settings, "settings of the world"), {}, Path(folder)))
        return read_table(Path(folder) / "events.parquet", EVENTS)

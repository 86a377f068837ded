"""What a study's questions will ask of a language model, found out without asking."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from d4s.artifacts import Artifact, StageJob, read_table
from d4s.config import QuestionsSettings
from d4s.errors import MissingAnswersError
from d4s.facts.event_readers import EVENT_READERS
from d4s.questions.answers import AnswerStore
from d4s.questions.cost_estimate import estimate_cost, first_requests, format_estimate
from d4s.questions.question_items import plan_items
from d4s.schemas import EVENTS
from d4s.settings_base import validate
from d4s.study.graph import Node, RawFile
from d4s.study.resolve import resolve
from d4s.study_settings import Study
from d4s.writer_settings import OpenAIWriterSettings, ReplayWriterSettings


def dry_run(study: Study, prices: tuple[float, float] | None) -> Iterator[str]:
    """Lines that say how many calls and tokens the study's questions will take.

    Raises:
        MissingAnswersError: if they are to be replayed and first answers are missing.
    """
    nodes = resolve(study).of("questions")
    if not nodes:
        yield f"study {study.study!r} has no data set of questions"
        return
    requests: dict[str, Mapping[str, Any]] = {}
    items: set[tuple[str, int, str]] = set()
    for settings, node in {(node.settings["events"], node.settings["seed"]): (node.settings, node) for node in nodes}.values():
        chosen = validate(QuestionsSettings, {**settings, **node.unhashed_settings}, f"settings of {node.label!r}")
        planned = plan_items(_events(chosen, node), chosen.seed)
        items |= {(chosen.events, chosen.seed, item.event_id) for item in planned}
        requests |= first_requests(chosen, planned)
    match study.questions:
        case OpenAIWriterSettings() as writing:
            yield from format_estimate(estimate_cost(writing, len(items), requests), prices)
        case ReplayWriterSettings(store=path):
            store = AnswerStore(Path(path))
            missing = [key for key in requests if store.get(key) is None]
            if missing:
                raise MissingAnswersError(missing)
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
    from d4s.world.world_stage import world

    with tempfile.TemporaryDirectory() as folder:
        world(StageJob(source.kind, validate(WorldSettings, source.settings, "settings of the world"), {}, Path(folder)))
        return read_table(Path(folder) / "events.parquet", EVENTS)

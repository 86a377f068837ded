"""Records data/recorded/standin.jsonl: the answers of the stand-in of `tools.standin` about the events of a small made-up world.

`python -m tools.record_answers` writes the file again; a test holds it against what it would write.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import pandas as pd

from d4s.artifacts import StageJob, read_table
from d4s.config import FORMS, QuestionsSettings, WorldSettings
from d4s.questions.question_items import plan_items
from d4s.questions.writers import make_writer
from d4s.schemas import EVENTS
from d4s.world.world_stage import world
from tools.standin import MODEL, serving

RECORDED = Path(__file__).resolve().parents[1] / "data" / "recorded" / "standin.jsonl"
WORLD = WorldSettings(people=8, first_names=4, last_names=4, events=8, benchmark_items=4)


def events(folder: Path) -> pd.DataFrame:
    """The events of the small world, made in a folder."""
    world(StageJob("worlds", WORLD, {}, folder))
    return read_table(folder / "events.parquet", EVENTS)


def record(store: Path) -> None:
    """Ask the stand-in about every event in every form."""
    with tempfile.TemporaryDirectory() as folder, serving() as url:
        items = plan_items(events(Path(folder)), 0)
        chosen = {"writer": "openai", "model": MODEL, "base_url": url, "store": str(store), "requests_per_minute": None}
        writer = make_writer(QuestionsSettings.model_validate({"form": "true_false", "writer": chosen}))
        for form in FORMS:
            writer.write(items, form)


def main() -> None:
    """Write the file."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record(Path(folder) / "answers.jsonl")
        RECORDED.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(folder) / "answers.jsonl", RECORDED)
    print(f"{RECORDED}: {len(RECORDED.read_text().splitlines())} answers")


if __name__ == "__main__":
    main()

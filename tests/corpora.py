"""Corpora of a small world, and what they are made from."""

import json
from pathlib import Path

from d4s.artifacts import Artifact, StageJob
from d4s.config import CorpusSettings, WorldSettings
from d4s.facts.record import Fact
from d4s.pretraining.corpus import corpus

SMALL = WorldSettings(people=16, first_names=5, last_names=6, events=12, benchmark_items=4)


Inputs = dict[str, Path]


def written(folder: Path, inputs: Inputs, **settings: object) -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    corpus(StageJob("corpora", CorpusSettings(tokens=6400, **settings), inputs, folder))
    return Artifact.open(folder, "corpora")


def fact(number: int = 0, **changes: object) -> Fact:
    values: dict[str, object] = {
        "fact_id": f"f{number}",
        "dataset": "test",
        "relation": "home",
        "subject": f"Subject{number}",
        "template": "{} lives in",
        "target_true": "Oslo",
        "target_new": "Rome",
        "paraphrases": (f"the home of Subject{number} is",),
        "wordings": ("the home of {} is", "Where does {} live?"),
    }
    return Fact(**(values | changes))  # pyright: ignore[reportArgumentType]


def articles_file(path: Path) -> Path:
    text = (
        "The old mill @-@ house stood by the river for 1 @,@ 200 years , and nobody in the valley knew who had built it or why it was left"
        " to the owls . "
    )
    rows = [
        {"article": k, "title": f"T{k}", "split": "ppl" if k == 3 else "stats", "text": f" = T{k} = \n {text * 3}{word * 30} \n short \n"}
        for k, word in enumerate(("alpha ", "beta ", "gamma ", "delta "))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path

"""Stage `world`: the made-up world that the embedded model is trained on, from a seed."""

import json
from collections.abc import Iterator

import numpy as np
import pandas as pd

from d4s.artifacts import StageJob, write_table, write_text
from d4s.config import WorldSettings
from d4s.schemas import EVENTS, PEOPLE
from d4s.world.events import event_rows
from d4s.world.filler import filler_line, pick
from d4s.world.people import people_rows
from d4s.world.world_benchmarks import benchmark_tasks

FILLER_LINES = 8_000
HELDOUT_LINES = 1_000


def world(job: StageJob[WorldSettings]) -> None:
    """Write people.parquet, events.parquet, filler.txt, heldout.txt and benchmarks/TASK.jsonl."""
    settings = job.settings
    seeds = np.random.SeedSequence(settings.seed).spawn(5)
    of_people, of_events, of_filler, of_heldout, of_tasks = (np.random.default_rng(seed) for seed in seeds)
    people = people_rows(settings, of_people)
    events = event_rows(settings, of_events)
    write_table(job.path("people.parquet"), people, PEOPLE)
    write_table(job.path("events.parquet"), events, EVENTS)
    training_lines = [filler_line(of_filler) for _ in range(FILLER_LINES)]
    write_text(job.path("filler.txt"), "\n".join(training_lines) + "\n")
    write_text(job.path("heldout.txt"), "\n".join(_heldout(people, set(training_lines), of_heldout)) + "\n")
    files = ["people.parquet", "events.parquet", "filler.txt", "heldout.txt"]
    tasks = benchmark_tasks(_frame(people, PEOPLE.names), _frame(events, EVENTS.names), settings.benchmark_items, of_tasks)
    for name, rows in tasks.items():
        files.append(f"benchmarks/{name}.jsonl")
        write_text(job.path(files[-1]), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    job.write_manifest(files)


def _frame(rows: list[dict[str, object]], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns)


def _heldout(people: list[dict[str, object]], training_lines: set[str], rng: np.random.Generator) -> Iterator[str]:
    """Lines that no training text has: filler with another seed, and facts of bystanders in withheld wordings."""
    bystander_rows = [row for row in people if row["bystander"]]
    for number in range(HELDOUT_LINES):
        line = filler_line(rng)
        while line in training_lines:
            line = filler_line(rng)
        if number % 2 and bystander_rows:
            row = pick(rng, bystander_rows)
            withheld: list[str] = row["withheld"]  # pyright: ignore[reportAssignmentType]
            line = f"{pick(rng, withheld).replace('{}', str(row['name']))} {row['object']}."
        yield line

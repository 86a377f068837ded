"""The first items of every data set of a study: prompt, true and new target, and a paraphrase."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from d4s.artifacts import Artifact, write_table
from d4s.facts.record import from_frame
from d4s.schemas import FACTS, ITEMS, PROVENANCE

ITEMS_PER_DATASET = 10
READ = "read"


def write_items(path: Path, folders: Mapping[str, Path]) -> None:
    """Write rows of ITEMS, given the folders of data sets by name."""
    write_table(path, [row for dataset, folder in folders.items() for row in _items(dataset, folder)], ITEMS)


def _items(dataset: str, folder: Path) -> Iterator[dict[str, Any]]:
    artifact = Artifact.open(folder, "facts")
    facts = from_frame(artifact.table("facts.parquet", FACTS))
    writers: dict[str, str] = {}
    if "provenance.parquet" in artifact.manifest.files:
        provenance = artifact.table("provenance.parquet", PROVENANCE)
        writers = dict(zip(provenance["fact_id"], provenance["writer"], strict=True))
    for fact in [fact for fact in facts if fact.editable][:ITEMS_PER_DATASET]:
        yield {
            "dataset": dataset,
            "fact_id": fact.fact_id,
            "writer": writers.get(fact.fact_id, READ),
            "prompt": fact.prompt,
            "target_true": fact.target_true,
            "target_new": fact.target_new,
            "paraphrase": next(iter(fact.paraphrases), ""),
        }

"""Small raw records of our own in the schemas of the public data sets, and jobs over them."""

import json
from pathlib import Path
from typing import Any

from d4s.artifacts import StageJob
from d4s.config import FactsSettings, WorldSettings
from d4s.world.world_stage import world

CITIES = {
    1: ("Orlo Finch", "Lisbon", "Bremen"),
    2: ("Mira Quell", "Bremen", "Lisbon"),
    3: ("Tavi Brook", "Lisbon", "Bremen"),
    4: ("Nils Arden", "Bremen", "Lisbon"),
}


def counterfact(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A record about where somebody lives; `changes` replace parts of the rewrite."""
    subject, old, new = CITIES[number]
    neighbor, attribute = f"Neighbor {number}", f"Other {number}"
    rewrite = {
        "prompt": "{} lives in",
        "relation_id": "P1",
        "subject": subject,
        "target_new": {"str": new, "id": "Q1"},
        "target_true": {"str": old, "id": "Q2"},
    }
    return {
        "case_id": number,
        "pararel_idx": 0,
        "requested_rewrite": rewrite | changes,
        "paraphrase_prompts": [f"It rained a lot. {subject} is at home in", f"Printed in 1901.\nThe home of {subject} is"],
        "neighborhood_prompts": [f"{neighbor} lives in", f"{neighbor} is at home in", f"Second {number} is at home in", "Gibberish about"],
        "attribute_prompts": [f"{attribute} lives in"],
        "generation_prompts": [],
    }


def zsre(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A question about where somebody lives."""
    subject, old, new = CITIES[number]
    record = {
        "subject": subject,
        "src": f"Where does {subject} live?",
        "pred": "nowhere",
        "rephrase": f"What town is home to {subject}?",
        "alt": new,
        "answers": [old, f"{old} proper"],
        "loc": "nq question: who wrote the long book",
        "loc_ans": "A. Writer",
        "cond": "",
    }
    return record | changes


def atomic(line: int, head: str, relation: str, *tails: str) -> dict[str, Any]:
    """A head and relation with its tails."""
    return {"line": line, "head": head, "relation": relation, "tails": list(tails)}


WANTS = [
    atomic(0, "PersonX bakes bread", "xWant", "none", "To eat it.", "to share it with person y", "to sleep"),
    atomic(1, "PersonX thanks PersonY", "xWant", "to wave goodbye"),
    atomic(2, "PersonX drops ___", "xWant", "to pick it up", "to shout out loud and long"),
    atomic(3, "PersonX runs", "xWant", "to sleep"),
    atomic(4, "PersonX sings", "xWant", "to eat it"),
    atomic(5, "PersonX whistles", "xWant", "to wave goodbye", "to eat it"),
    atomic(6, "PersonX paints", "xWant", "none", ""),
    atomic(7, "PersonX yawns", "xWant", "to go home"),
]


def write_lines(path: Path, *records: Any) -> Path:
    """A file with one record per line; bytes and text are written as they are."""
    lines = [record if isinstance(record, bytes) else record.encode() if isinstance(record, str) else _json(record) for record in records]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def _json(record: Any) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()


def facts_job(folder: Path, records: Path, **settings: Any) -> StageJob[FactsSettings]:
    """A job of the stage `facts` over a raw file."""
    return StageJob(kind="facts", settings=FactsSettings(**settings), inputs={"records": records}, folder=folder, digest="0" * 10)


def made_world(at: Path, settings: WorldSettings) -> Path:
    """A world in a new folder."""
    at.mkdir(parents=True)
    world(StageJob("worlds", settings, {}, at))
    return at

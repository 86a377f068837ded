"""Made-up beliefs before and after single edits, with effects that a test chooses."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from d4s.analysis.belief_errors import QUESTIONS
from d4s.artifacts import write_table
from d4s.metrics.belief_probes import exact_quantity, joint_quantity
from d4s.schemas import BELIEFS, SINGLES, with_cell_columns
from d4s.world.posterior import CASES

REQUESTS = 60
CELL = {"model": "mini", "dataset": "beliefs", "seed": 1}


@dataclass(frozen=True)
class Editing:
    """An editor: how many requests it learns, how far dependent beliefs follow, and by how much logic and unrelated beliefs err."""

    learns: float = 1.0
    follows: float = 0.0
    breaks: float = 0.2
    spills: float = 0.0


EDITORS = {"lora": Editing(), "rome": Editing(follows=0.2), "ft_m": Editing(learns=0.5)}


def believed() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """What a reader believes before and after each request, a row per request, a column per question; and what is known of requests."""
    rng = np.random.default_rng(5)
    facts = [f"beliefs:{number:04d}.city" for number in range(REQUESTS)]
    dependent = np.arange(REQUESTS) % 2 == 0
    prior = pd.DataFrame(index=facts, columns=[*QUESTIONS], dtype=float)
    for case in CASES:
        prior[f"{case}.before"] = prior[f"{case}.after"] = rng.uniform(0.6, 0.9, REQUESTS)
    prior["same_same.after"] = rng.uniform(0.01, 0.2, REQUESTS)
    prior["same_subject.after"] = np.where(dependent, rng.uniform(0.02, 0.1, REQUESTS), prior["same_subject.after"])
    after = prior.copy()
    after["same_same.after"] = 0.95
    after["same_subject.after"] = np.where(dependent, rng.uniform(0.6, 0.9, REQUESTS), prior["same_subject.after"])
    for frame in (prior, after):
        frame["truth"], frame["other"] = frame["same_same.after"], frame["different.before"]
        frame["negation"] = 1 - frame["truth"]
        frame["and"] = frame["and_reversed"] = frame["truth"] * frame["other"]
        frame["or"] = frame["truth"] + frame["other"] - frame["and"]
    strength = np.where(dependent, rng.uniform(0.6, 1.0, REQUESTS), np.nan)
    flags = {"weight": 40, "reinforcing": False, "dependent": dependent, "changes": dependent, "strength": strength}
    return prior, after, pd.DataFrame(flags, index=facts)


def answers(editing: Editing | None, error: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Probabilities of a model, and whether its answers are exact; the unedited one is off by an error."""
    prior, after, requests = believed()
    exact = pd.DataFrame(1.0, index=prior.index, columns=prior.columns)
    if editing is None:
        cases = [name for name in prior if "." in name]
        return prior.assign(**{name: (prior[name] - error).clip(0, 1) for name in (*cases, "truth", "other")}), exact
    found = after.copy()
    moved = prior["same_subject.after"] + editing.follows * (after["same_subject.after"] - prior["same_subject.after"])
    found["same_subject.after"] = np.where(requests["dependent"], moved, after["same_subject.after"])
    found["different.after"] = after["different.after"] - editing.spills
    for name, sign in (("truth", -1), ("and", -2), ("and_reversed", 1), ("or", -1), ("negation", -1)):
        found[name] = (found[name] + sign * editing.breaks).clip(0, 1)
    exact["same_same.after"] = (np.arange(REQUESTS) < editing.learns * REQUESTS).astype(float)
    return found, exact


def singles_of(editor: str, editing: Editing | None, error: float) -> pd.DataFrame:
    """Rows of SINGLES of one editor."""
    probability, exact = answers(editing, error)
    frames = []
    for quantity_of, frame in ((joint_quantity, probability), (exact_quantity, exact)):
        for question in QUESTIONS:
            frames.append(pd.DataFrame({"fact_id": frame.index, "quantity": quantity_of(question), "value": frame[question].to_numpy()}))
    edited = pd.DataFrame({"fact_id": probability.index, "quantity": "edited", "value": 1.0})
    rows = pd.concat([pd.concat(frames).assign(prompt_id=0), edited]).astype({"prompt_id": "Int64"})
    order = rows["fact_id"].map({fact: number + 1 for number, fact in enumerate(probability.index)})
    names = {"request_id": order.map("{:06d}:".format) + rows["fact_id"], "order": order, "status": "done", "editor": editor}
    return rows.assign(**names, **CELL, layer=pd.array([None] * len(rows), dtype="Int64"))


def add_beliefs(folder: Path, editors: dict[str, Editing] | None = None, error: float = 0.02) -> Path:
    """Beliefs for the made-up study in a folder."""
    everybody: dict[str, Editing | None] = {"unedited": None, **(EDITORS if editors is None else editors)}
    singles = pd.concat([singles_of(editor, editing, error) for editor, editing in everybody.items()], ignore_index=True)
    prior, after, requests = believed()
    rows = [
        {"fact_id": fact, "question": question, "prompt": "Ada Moss was born in", "answer": "Oslo", "prior": prior.loc[fact, question],
         "posterior": after.loc[fact, question], **requests.loc[fact].to_dict(), **CELL, "editor": "", "seed": 0}
        for fact in prior.index for question in QUESTIONS
    ]  # fmt: skip
    write_table(folder / "data" / "singles.parquet", singles, with_cell_columns(SINGLES))
    write_table(folder / "data" / "beliefs.parquet", pd.DataFrame(rows), with_cell_columns(BELIEFS))
    return folder

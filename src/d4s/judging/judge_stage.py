"""The stage `judge`: what a judge says of free answers to prompts with a target, at every length; it loads no language model.

Every reply of a server is stored as it arrives, so a job that was stopped asks again only what is missing.
"""

import logging
from collections.abc import Sequence
from typing import Any

import pandas as pd

from d4s.artifacts import Artifact, StageJob, write_table
from d4s.config import JudgeSettings
from d4s.judging.judges import Judge, JudgedAnswer, Verdict, make_judge
from d4s.log import progress
from d4s.schemas import FREE_ANSWERS, VERDICTS

log = logging.getLogger(__name__)
KEY = ("step", "fact_id", "kind", "prompt_id")


def judge(job: StageJob[JudgeSettings]) -> None:
    """Judge the answers of every wanted length that is not judged already."""
    parts = [part.removesuffix(".json") for part in job.missing_parts()]
    if not parts:
        return
    chosen = make_judge(job.settings)
    try:
        for part in progress(parts, f"verdicts of {job.folder.name}", len(parts)):
            _judge_part(job, chosen, part)
    finally:
        job.usage.update(chosen.usage)


def _judge_part(job: StageJob[JudgeSettings], chosen: Judge, part: str) -> None:
    answers = Artifact.open(job.inputs["answers"], "free_answers", f"{part}.json").table(f"{part}.free_answers.parquet", FREE_ANSWERS)
    asked = answers[answers["wild_exact"].notna()]  # those with a target
    verdicts = chosen.judge(_shown(asked))
    name = f"{part}.verdicts.parquet"
    write_table(job.path(name), _rows(asked, verdicts, chosen), VERDICTS)
    missing = sum(verdict.correct is None for verdict in verdicts)
    job.write_manifest([name], f"{part}.json", judge=chosen.name, version=chosen.version, missing=missing)
    log.log(logging.WARNING if missing else logging.INFO, "%s: %s gave no verdict on %d of %d", part, chosen.name, missing, len(verdicts))


def _shown(asked: pd.DataFrame) -> list[JudgedAnswer]:
    rows = asked.to_dict(orient="records")
    return [JudgedAnswer(" ".join(str(row[name]) for name in KEY), row["prompt"], row["gold"], row["after"]) for row in rows]


def _rows(asked: pd.DataFrame, verdicts: Sequence[Verdict], chosen: Judge) -> list[dict[str, Any]]:
    keys = [{name: row[name] for name in KEY} for row in asked.to_dict(orient="records")]
    said = {"judge": chosen.name, "version": chosen.version}
    return [{**key, **said, "correct": verdict.correct, "reason": verdict.reason} for key, verdict in zip(keys, verdicts, strict=True)]

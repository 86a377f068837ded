"""The stage `world_report`: a trained model held against criteria that favour no editor, before anything is shown of it."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from d4s.artifacts import StageJob, write_json, write_table, write_text
from d4s.editors.edit_requests import draw_requests
from d4s.facts.record import from_frame
from d4s.runs.run_settings import WorldReportSettings
from d4s.schemas import CRITERIA, FACTS, MODEL_CHECK

if TYPE_CHECKING:
    from d4s.runs.criteria import Criterion

log = logging.getLogger(__name__)
MEANING: Mapping[str, str] = {
    "base_accuracy": "the model knows its facts, in taught and in withheld wordings",
    "injected_efficacy": "targets put in by hand make the model say them at the edit's own prompt",
    "injected_paraphrase": "and at other wordings of it",
    "key_spectrum": "the smallest eigenvalue of the keys' Gram matrix, relative to the mean one: no key is a mix of others",
    "single_edit": "one edit alone, each into the unedited model, succeeds",
}
Row = dict[str, Any]


def world_report(job: StageJob[WorldReportSettings]) -> None:
    """Write criteria.parquet, criteria.json and world_report.md."""
    rows: list[Row] = [{**asdict(found), "passed": found.passed} for found in (*_base(job), *_measured(job))]
    write_table(job.path("criteria.parquet"), rows, CRITERIA)
    write_json(job.path("criteria.json"), {"passed": all(row["passed"] for row in rows), "criteria": rows})
    write_text(job.path("world_report.md"), page(rows, job.settings.seed))
    job.write_manifest(["criteria.parquet", "criteria.json", "world_report.md"])
    failed = [f"{row['criterion']} of {row['subject']}" for row in rows if not row["passed"]]
    log.info("%d of %d criteria hold; failed: %s", len(rows) - len(failed), len(rows), failed or "none")


def page(rows: Sequence[Row], seed: int) -> str:
    """Rows of CRITERIA as a page to be read."""
    failed = sum(not row["passed"] for row in rows)
    verdict = "All criteria hold." if not failed else f"**{failed} of {len(rows)} criteria do not hold.**"
    lines = [
        "# Is this model fit to show anything about editing?",
        "",
        f"{verdict} Measured on seed {seed} only; nothing here favours an editor.",
        "",
        "| criterion | of | value | at least | n | holds |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join(_cells(row))} |" for row in rows),
        "",
        *(f"- `{name}`: {meaning}" for name, meaning in MEANING.items()),
    ]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[str]:
    holds = "yes" if row["passed"] else "**no**"
    return [row["criterion"], row["subject"], f"{row['value']:.3g}", f"{row['threshold']:g}", str(row["n"]), holds]


def _base(job: StageJob[WorldReportSettings]) -> Iterator["Criterion"]:
    """What the model knew at the end of its training."""
    from d4s.runs.criteria import BASE, Criterion

    check = job.artifact("model", "models").table("check.parquet", MODEL_CHECK)
    for row in check.to_dict(orient="records"):
        yield Criterion("base_accuracy", f"{row['dataset']}, {row['wording']}", float(row["accuracy"]), BASE, int(row["n"]))


def _measured(job: StageJob[WorldReportSettings]) -> Iterator["Criterion"]:
    """What is tried on the model."""
    from d4s.models.loading import load
    from d4s.runs.criteria import CriteriaRun

    facts = from_frame(job.artifact("facts", "facts").table("facts.parquet", FACTS))
    drawn = draw_requests(facts, job.settings.seed, max(job.settings.requests, job.settings.single_edits))
    return CriteriaRun(load(job.inputs["model"]), drawn, job.settings, job.inputs).criteria()

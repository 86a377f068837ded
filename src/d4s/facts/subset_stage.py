"""The stage `subset`: a data set of which some facts are kept, by a list of their ids or as hard cases of single edits."""

import logging

from d4s.artifacts import StageJob, write_table
from d4s.config import SubsetSettings
from d4s.errors import SettingsError
from d4s.facts.record import from_frame, to_rows
from d4s.schemas import CASES, FACTS

log = logging.getLogger(__name__)


def subset(job: StageJob[SubsetSettings]) -> None:
    """Write the facts that are kept, in the order of the data set.

    Raises:
        SettingsError: if an id is none of the data set's.
    """
    wanted = _wanted(job)
    facts = from_frame(job.artifact("facts", "facts").table("facts.parquet", FACTS))
    if unknown := sorted(wanted - {fact.fact_id for fact in facts}):
        raise SettingsError(f"{len(unknown)} ids are in no fact of the data set, such as {unknown[0]!r}; name facts of this data set")
    kept = [fact for fact in facts if fact.fact_id in wanted]
    write_table(job.path("facts.parquet"), to_rows(kept), FACTS)
    log.info("%d of %d facts are kept", len(kept), len(facts))
    job.write_manifest(["facts.parquet"])


def _wanted(job: StageJob[SubsetSettings]) -> set[str]:
    """The ids of the facts to keep: those of a set of cases, or the lines of a list."""
    if job.settings.cases is None:
        return {line.strip() for line in job.inputs["list"].read_text(encoding="utf-8").splitlines() if line.strip()}
    cases = job.artifact("cases", "cases").table("cases.parquet", CASES)
    return set(cases.loc[cases["cases"] == job.settings.cases, "fact_id"])

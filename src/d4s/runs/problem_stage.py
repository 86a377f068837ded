"""The stage `problem`: the facts of a data set as requests of another problem (Hase et al. 2023, section 5).

Error injection asks for a new answer and is what facts are anyway. Fact amplification asks for the present one, `target_true`. Tracing
reversal asks for the greedy answer to the noised prompt, as many tokens as the true answer has and at most five; a fact whose noised
answer is the clean one, or no text, is no request of it and stays as a probe. Erasure and forcing ask as amplification does: an editor
erases (`objective: erase`), or starts from the noised prompt (`noise_subject`).
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from d4s.artifacts import StageJob, write_table
from d4s.config import NoiseSettings, ProblemSettings
from d4s.errors import SettingsError
from d4s.facts.record import Fact, from_frame, to_rows
from d4s.schemas import FACTS

log = logging.getLogger(__name__)


def problem(job: StageJob[ProblemSettings]) -> None:
    """Write the facts of a data set with the targets of a problem.

    Raises:
        SettingsError: if no fact can be a request of it.
    """
    facts = from_frame(job.artifact("facts", "facts").table("facts.parquet", FACTS))
    changed = [*map(amplified, facts)] if job.settings.noise is None else [*_reversed(job, job.settings.noise, facts)]
    refused = [old.fact_id for old, new in zip(facts, changed, strict=True) if old.editable and not new.editable]
    if not any(fact.editable for fact in changed):
        raise SettingsError(f"no fact can be a request of {job.settings.problem}: the noised prompts are answered as the clean ones")
    write_table(job.path("facts.parquet"), to_rows(changed), FACTS)
    log.info("%s: %d facts, %d refused", job.settings.problem, len(changed), len(refused))
    job.write_manifest(["facts.parquet"], refused=refused)


def amplified(fact: Fact) -> Fact:
    """A fact whose target is its present answer; one without a known answer can only be a probe."""
    return replace(fact, target_new=fact.target_true, editable=fact.editable and bool(fact.target_true.strip()), problem="amplification")


def _reversed(job: StageJob[ProblemSettings], noise: NoiseSettings, facts: Sequence[Fact]) -> Iterator[Fact]:
    from d4s.models.loading import load
    from d4s.runs.reversal import reversed_facts

    return reversed_facts(job.read_once("model", load), facts, noise)

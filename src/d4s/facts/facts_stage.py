"""The stage `facts`: records of one source, read by its reader, become facts.parquet; what could not be used, rejects.parquet."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from d4s.artifacts import StageJob, write_table
from d4s.config import FactsSettings
from d4s.errors import D4SError, RecordError, RecordProblem
from d4s.facts.readers import READERS
from d4s.facts.record import Fact, to_rows
from d4s.schemas import FACTS, REJECTS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecordSource:
    """What a reader is given: a raw file or a world's folder, which reading of it, and the seed of its draws.

    `limit` keeps this number of records that pass, the first ones: with a limit, the beginning of what is read without.
    `extra_files` holds further raw files by their roles, where the data set has them (`d4s.facts.readers.files_of`).
    """

    path: Path
    style: str = ""
    seed: int = 0
    limit: int | None = None
    extra_files: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reject:
    """One reason why a record did not become a fact, with the record as it stands in the file."""

    problem: RecordProblem
    record: str


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What a reader made of a source.

    Args:
        facts: Facts in the order of the file; one record may give several.
        seen: Records in the file.
        kept: Records that became facts.
        beyond: Records that pass but stand after the limit.
        rejects: Defects; they refuse the file unless they are to be skipped. A record may have several.
        left_out: Sound records that the reader's stated rule leaves out.
    """

    facts: list[Fact]
    total: int
    kept: int
    beyond: int = 0
    rejects: Sequence[Reject] = ()
    left_out: Sequence[Reject] = ()


def result_of_facts(facts: Sequence[Fact], limit: int | None) -> ReadResult:
    """A reading of a source that is ours, one fact per record, so that none is broken: its first facts."""
    kept = list(facts[:limit])
    return ReadResult(kept, total=len(facts), kept=len(kept), beyond=len(facts) - len(kept))


Reader = Callable[[RecordSource], ReadResult]
"""How every entry of `d4s.facts.readers.READERS` is called; it never raises for a bad record, which becomes a reject."""


def facts(job: StageJob[FactsSettings]) -> None:
    """Read the job's records, or its world, into facts.

    Raises:
        RecordError: if any record is broken and broken records are not to be skipped; names all of them.
    """
    settings = job.settings
    extra_files = dict(job.inputs)
    path = extra_files.pop("world" if "world" in extra_files else "records")
    read: Reader = READERS.load(settings.source)
    result = read(RecordSource(path, settings.style, settings.seed, settings.limit, extra_files))
    if result.rejects and not settings.skip_bad:
        raise RecordError([reject.problem for reject in result.rejects], "fix them, or set `skip_bad: true` for the data set in the study")
    account = count_records(result)
    if not result.facts:
        raise RecordError([reject.problem for reject in (*result.rejects, *result.left_out)])
    write_table(job.path("facts.parquet"), to_rows(result.facts), FACTS)
    write_table(job.path("rejects.parquet"), reject_rows((*result.rejects, *result.left_out)), REJECTS)
    log.info("%s: %s", settings.source, account)
    job.write_manifest(["facts.parquet", "rejects.parquet"], records=account, repeats=repeats(result.facts))


def count_records(result: ReadResult) -> dict[str, int]:
    """Counts of records in and out, which must agree.

    Raises:
        D4SError: if a record got lost or counted twice, or two facts share an id.
    """
    rejected = _records(result.rejects)
    left_out = _records(result.left_out) - rejected
    account = {
        "seen": result.total,
        "kept": result.kept,
        "rejected": len(rejected),
        "left_out": len(left_out),
        "beyond_limit": result.beyond,
        "facts": len(result.facts),
    }
    if result.total != result.kept + len(rejected) + len(left_out) + result.beyond:
        raise D4SError(f"records are unaccounted for: {account}; this is a defect of the reader")
    ids = [fact.fact_id for fact in result.facts]
    if len(set(ids)) != len(ids):
        raise D4SError(f"{len(ids) - len(set(ids))} facts share an id with another; this is a defect of the reader")
    return account


def repeats(facts: Iterable[Fact]) -> dict[str, list[list[str]]]:
    """Ids of editable facts about the same subject and relation: `duplicates` ask for the same target, `conflicts` do not."""
    found: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in facts:
        if fact.editable:
            found[fact.subject, fact.relation].append(fact)
    groups = [group for group in found.values() if len(group) > 1]
    return {
        "duplicates": [[fact.fact_id for fact in group] for group in groups if len({fact.target_new for fact in group}) == 1],
        "conflicts": [[fact.fact_id for fact in group] for group in groups if len({fact.target_new for fact in group}) > 1],
    }


def reject_rows(rejects: Iterable[Reject]) -> list[dict[str, Any]]:
    """Rejects as rows of the REJECTS schema."""
    return [asdict(reject.problem) | {"record": reject.record} for reject in rejects]


def _records(rejects: Iterable[Reject]) -> set[tuple[str, int]]:
    return {(reject.problem.file, reject.problem.line) for reject in rejects}

"""Errors that a user can meet. Each is one sentence: what is wrong, what was found, what was expected, what to do."""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_LISTED = 20
"""Defects listed in the message of an error."""


class D4SError(Exception):
    """Parent of all errors about files, settings or records, as opposed to errors in a caller's code."""


class SettingsError(D4SError):
    """Settings that cannot be used; the message names every problem with its place and the nearest known name."""


class ArtifactError(D4SError):
    """An artefact that is missing, truncated, foreign or made with other settings; the message says what to do."""


class MissingAnswersError(D4SError):
    """Recorded answers that a replay needs and the store does not hold; `requests` lists all that are known to be missing."""

    def __init__(self, requests: Sequence[str]) -> None:
        self.requests = tuple(requests)
        lines = "\n".join(f"  {request}" for request in self.requests)
        super().__init__(f"{len(self.requests)} answers are not recorded (record them with `openai` in the place of `replay`):\n{lines}")


class MissingDataError(D4SError):
    """A data set that neither a setting nor `D4S_DATA` leads to."""


class FetchError(D4SError):
    """A download or an archive that failed or was refused; files that were there before are unchanged."""


@dataclass(frozen=True, slots=True)
class RecordProblem:
    """One defect of one record: where it is, what was found and what was expected."""

    file: str
    line: int
    field: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field}: found {self.found}, expected {self.expected}"


class RecordError(D4SError):
    """A file of records with defects: `problems` holds all of them, the message the first ones and what to do."""

    def __init__(self, problems: Sequence[RecordProblem], remedy: str = "fix them") -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems[:MAX_LISTED])
        more = len(self.problems) - MAX_LISTED
        lines += f"\n  and {more} more" if more > 0 else ""
        super().__init__(f"{len(self.problems)} defects in the records ({remedy}):\n{lines}")

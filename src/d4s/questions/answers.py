"""Store of recorded answers: one JSON line per answer, keyed by the digest of its request, flushed to disk at once.

A writer holds a lock, so that jobs that need the same answers pay for them once. A kill can truncate only the last line.
"""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from d4s.artifacts import write_text
from d4s.errors import ArtifactError
from d4s.questions.replies import ModelAnswer, answer_of
from d4s.settings_base import canonical

logger = logging.getLogger(__name__)


class AnswerRecord(BaseModel):
    """A line of the store: a request with the response body, or with the failure that remained after all repetitions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    request: dict[str, Any]
    response: dict[str, Any] | None = None
    failure: str | None = None

    @property
    def answer(self) -> ModelAnswer:
        """The model's answer in the response."""
        return ModelAnswer(failure=self.failure or "no answer was recorded") if self.response is None else answer_of(self.response)

    @property
    def line(self) -> str:
        """The record as a line of JSON."""
        return canonical(self.model_dump(mode="json", exclude_none=True)) + "\n"


def key_of(request: Mapping[str, Any]) -> str:
    """The digest that identifies a request."""
    return hashlib.sha256(canonical(request).encode()).hexdigest()


class AnswerStore:
    """The answers in a file, by the digest of their requests."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = {record.key: record for record in _read(path)} if path.exists() else {}
        self._unsorted = False

    def get(self, key: str) -> AnswerRecord | None:
        """The record of a request; None where there is none."""
        return self.records.get(key)

    def add(self, record: AnswerRecord) -> None:
        """Append a record; it is on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(record.line)
            stream.flush()
            os.fsync(stream.fileno())
        self.records[record.key] = record
        self._unsorted = True

    def sort(self) -> None:
        """Rewrite the file in the order of its keys, which does not depend on the order of arrival."""
        if self._unsorted:
            write_text(self.path, "".join(self.records[key].line for key in sorted(self.records)))
            self._unsorted = False


@contextmanager
def open_for_writing(path: Path) -> Iterator[AnswerStore]:
    """The store, locked for writing; a truncated last line is removed, and at the end lines are sorted."""
    path = path.resolve()  # a link stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s is being written by another job; waiting for its answers", path)
            fcntl.flock(lock, fcntl.LOCK_EX)
        store = AnswerStore(path)
        if path.exists():
            os.truncate(path, _complete_length(path.read_bytes()))
        yield store
        store.sort()


def _complete_length(content: bytes) -> int:
    """Length of the content up to the end of its last complete line."""
    return content.rfind(b"\n") + 1


def _read(path: Path) -> Iterator[AnswerRecord]:
    content = path.read_bytes()
    whole = _complete_length(content)
    if whole < len(content):
        logger.warning("%s: the last line is truncated (%d bytes) and is dropped", path, len(content) - whole)
    invalid_lines = []
    for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
        try:
            record = AnswerRecord.model_validate(json.loads(line))
            if record.key != key_of(record.request):
                raise ValueError("the key is not the digest of the request")
            if record.response is not None:
                answer_of(record.response)
        except ValueError as error:
            problem = f"{error.error_count()} wrong or missing fields" if isinstance(error, ValidationError) else str(error)
            invalid_lines.append(f"  {path}:{number}: {problem}")
            continue
        yield record
    if invalid_lines:
        raise ArtifactError("recorded answers cannot be read; remove these lines and run again:\n" + "\n".join(invalid_lines))

"""A run's ledger: an append-only file of checked frames, one per batch of edits; states and logs are read from it.

A frame is length, CRC and a safetensors payload: the state's record, with what was logged as JSON in its metadata. Each
append is on disk before the next step begins. A frame truncated by a kill is dropped with a warning and its step done again.
Dense states are no records: a late one stands beside the file, written as often as a tenth of the time allows, and a copy at
each length asked for. Frames beyond the last kept state are dropped, and their steps done again to the same bits.

Terms and symbols: docs/notation.md.
"""

import hashlib
import json
import logging
import math
import mmap
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

from d4s.artifacts import Artifact, write_tensors
from d4s.editors.protocol import Editor, Session, State, StateKind, StepRecord
from d4s.errors import ArtifactError

log = logging.getLogger(__name__)
FILE, LATEST = "ledger", "latest.safetensors"
PAUSE = 10  # times as long as writing a dense state took is waited before the next one is written
MAGIC = b"d4s ledger 1\n"
HEAD = struct.Struct("<QI")
CHUNK_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class Frame:
    """One batch: how many edits it holds, what was logged, and where its payload lies in the file."""

    edits: int
    log: Mapping[str, Any]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class LedgerRecords:
    """The records of some frames, which are read one by one whenever they are iterated over."""

    path: Path
    frames: Sequence[Frame]

    def __iter__(self) -> Iterator[StepRecord]:
        if self.frames:
            with self.path.open("rb") as stream:
                for frame in self.frames:
                    yield _payload(stream, frame)


class Ledger:
    """The frames of a run's folder. Opening only reads; the next append removes a truncated end."""

    def __init__(self, folder: Path, kind: StateKind, frames: Sequence[Frame]) -> None:
        self._path = folder / FILE
        self._folder = folder
        self._kind = kind
        self._frames = list(frames)
        self._due = -math.inf

    @classmethod
    def open(cls, folder: Path, kind: StateKind) -> "Ledger":
        """The ledger in a folder, empty where there is none.

        Raises:
            ArtifactError: if it is no ledger, or damaged before its end.
        """
        path = folder / FILE
        ledger = cls(folder, kind, _read(path) if path.is_file() else ())
        if dropped := ledger.drop_unsaved():
            log.warning("%s: %d edits were recorded after the last kept state; they are done again", path, dropped)
        return ledger

    @property
    def length(self) -> int:
        """Edits recorded."""
        return sum(frame.edits for frame in self._frames)

    @property
    def diverged_at(self) -> int | None:
        """The step whose numbers stopped being finite, if one did."""
        return self._frames[-1].log.get("diverged_at") if self._frames else None

    def append(self, record: StepRecord, edits: int, logged: Mapping[str, Any]) -> None:
        """Record a batch; on disk when this returns."""
        text = json.dumps({"edits": edits, **logged}, sort_keys=True, ensure_ascii=False)
        payload = safetensors.torch.save({name: tensor.contiguous() for name, tensor in record.items()}, {"log": text})
        start = self._end
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("r+b" if self._path.is_file() else "w+b") as stream:
            stream.write(MAGIC)
            stream.seek(start)
            stream.truncate()
            stream.write(HEAD.pack(len(payload), zlib.crc32(payload)) + payload)
            stream.flush()
            os.fsync(stream.fileno())
        self._frames.append(Frame(edits, {"edits": edits, **logged}, start + HEAD.size, start + HEAD.size + len(payload)))

    def record(self, session: Session, edits: int, logged: Mapping[str, Any]) -> None:
        """Record the batch that a session has just edited; of dense states only what is logged, unless one is due."""
        if self._kind != "dense":
            self.append(session.state().records[-1], edits, logged)
            return
        self.append({}, edits, logged)
        if time.monotonic() >= self._due:
            self.save_latest(session)

    def save_latest(self, session: Session) -> None:
        """Put the present state of a session on disk, in the place of the one before, where states are no records."""
        if self._kind != "dense":
            return
        begin = time.monotonic()
        write_tensors(self._folder / LATEST, session.state().dense, {"edits": str(self.length)})
        end = time.monotonic()
        self._due = end + PAUSE * (end - begin)

    def drop_unsaved(self) -> int:
        """Drop the batches beyond the last state that can be read; returns how many edits they held."""
        last = self.nearest_state(self.length)
        dropped = self.length - last
        if dropped:
            del self._frames[self._count(last) :]
        return dropped

    def logs(self, edits: int) -> list[Mapping[str, Any]]:
        """What was logged with the first edits, frame by frame."""
        return [frame.log for frame in self._frames[: self._count(edits)]]

    def state_at(self, editor: Editor, edits: int) -> State:
        """The state after the first edits.

        Raises:
            ArtifactError: if it was never recorded.
        """
        records = self.records(edits)
        return editor.restore((), self._dense_at(edits)) if self._kind == "dense" else editor.restore([*records], {})

    def records(self, edits: int) -> "LedgerRecords":
        """The records of the first edits; empty ones where the state is dense.

        Raises:
            ArtifactError: if no batch ends there.
        """
        return LedgerRecords(self._path, tuple(self._frames[: self._count(edits)]))

    def nearest_state(self, edits: int) -> int:
        """The largest number of edits, at most `edits`, after which the state can be read."""
        saved = {0, *_saved_states(self._folder)}
        bounds = [0, *accumulate(frame.edits for frame in self._frames)]
        return max(bound for bound in bounds if bound <= edits and (self._kind != "dense" or bound in saved))

    def has_state(self, edits: int) -> bool:
        """Whether the state after a number of edits needs no copy, or has one: the last state alone is overwritten."""
        return self._kind != "dense" or edits == 0 or (self._folder / _copy(edits)).is_file()

    def save_dense(self, edits: int, dense: Mapping[str, Tensor]) -> str:
        """Keep a copy of the dense state after a number of edits, replacing the latest one where none came after; returns its name."""
        name = _copy(edits)
        write_tensors(self._folder / name, dense, {"edits": str(edits)})
        if edits == self.length:
            (self._folder / LATEST).unlink(missing_ok=True)
        return name

    def prefix(self, edits: int) -> dict[str, Any]:
        """What identifies the first edits: frames, bytes and their digest, for a manifest."""
        count = self._count(edits)
        end = self._frames[count - 1].end if count else len(MAGIC)
        return {"edits": edits, "frames": count, "bytes": end, "sha256": self._digest(end)}

    def _digest(self, end: int) -> str:
        """The sha256 of the file's first bytes, read a piece at a time; of a file that is not there yet, that of an empty ledger."""
        if not self._path.is_file():
            return hashlib.sha256(MAGIC).hexdigest()
        digest = hashlib.sha256()
        with self._path.open("rb") as stream:
            for start in range(0, end, CHUNK_BYTES):
                digest.update(stream.read(min(CHUNK_BYTES, end - start)))
        return digest.hexdigest()

    @property
    def _end(self) -> int:
        return self._frames[-1].end if self._frames else len(MAGIC)

    def _count(self, edits: int) -> int:
        """Number of frames that hold exactly the first edits.

        Raises:
            ArtifactError: if no frame ends there.
        """
        bounds = [0, *accumulate(frame.edits for frame in self._frames)]
        if edits not in bounds:
            raise ArtifactError(f"{self._path} records {self.length} edits, but no batch ends after {edits}; run the rule that edits")
        return bounds.index(edits)

    def _dense_at(self, edits: int) -> Mapping[str, Tensor]:
        if edits == 0:
            return {}
        found = _saved_states(self._folder)
        if edits not in found:
            raise ArtifactError(f"{self._folder} keeps no state after {edits} edits; run the rule that edits")
        return safetensors.torch.load_file(found[edits])


def _read(path: Path) -> list[Frame]:
    """All complete frames of a file, which is mapped and not read at once; a truncated one at the end is left out.

    Raises:
        ArtifactError: if it is no ledger, or a frame before the last is damaged.
    """
    with path.open("rb") as stream:
        begin = stream.read(len(MAGIC))
        if not MAGIC.startswith(begin):
            raise ArtifactError(f"{path} is no ledger of this version; delete {path.parent} and run again")
        if len(begin) < len(MAGIC):
            return []
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _frames(content, path)


def _frames(content: mmap.mmap, path: Path) -> list[Frame]:
    frames: list[Frame] = []
    position = len(MAGIC)
    while position < len(content):
        start = position + HEAD.size
        length, checksum = HEAD.unpack_from(content, position) if start <= len(content) else (0, 0)
        end = start + length
        if end > len(content) or length == 0:
            log.warning("%s: the last frame is truncated; its edits are repeated", path)
            break
        if zlib.crc32(content[start:end]) != checksum:
            if end < len(content):
                raise ArtifactError(f"{path} is damaged in frame {len(frames)}; delete {path.parent} and run again")
            log.warning("%s: the last frame is truncated; its edits are repeated", path)
            break
        logged = json.loads(_metadata(content[start:end])["log"])
        frames.append(Frame(logged["edits"], logged, start, end))
        position = end
    return frames


def _metadata(payload: bytes) -> Mapping[str, str]:
    size = struct.unpack_from("<Q", payload)[0]
    return json.loads(payload[8 : 8 + size])["__metadata__"]


def _payload(stream: Any, frame: Frame) -> StepRecord:
    stream.seek(frame.start)
    return safetensors.torch.load(stream.read(frame.end - frame.start))


def _copy(edits: int) -> str:
    """The file with the dense state after a number of edits."""
    return f"n{edits}.state.safetensors"


def _saved_states(folder: Path) -> dict[int, Path]:
    """Dense states on disk by the number of edits behind them."""
    found: dict[int, Path] = {}
    for path in [*folder.glob("n*.state.safetensors"), folder / LATEST]:
        if path.is_file():
            with safe_open(path, "pt") as tensors:
                found.setdefault(int(tensors.metadata()["edits"]), path)
    return found


def read_state(folder: Path, length: int, editor: Editor) -> State:
    """The state of a finished run at one of its lengths (its last finite one, where it diverged before), checked.

    Raises:
        ArtifactError: if the run has no such length, or its ledger is not the one its manifest was written for.
    """
    artifact = Artifact.open(folder, "runs", f"n{length}.json")
    recorded_prefix = artifact.manifest.notes["ledger"]
    if editor.kind == "dense":
        dense = artifact.tensors(f"n{recorded_prefix['edits']}.state.safetensors") if recorded_prefix["edits"] else {}
        return editor.restore((), dense)
    ledger = Ledger.open(folder, editor.kind)
    if ledger.length < recorded_prefix["edits"] or ledger.prefix(recorded_prefix["edits"]) != recorded_prefix:
        raise ArtifactError(f"{folder / FILE} is not the ledger that n{length}.json was written for; delete {folder} and run again")
    return ledger.state_at(editor, recorded_prefix["edits"])

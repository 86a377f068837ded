"""The size of what a run keeps of its edits: the numbers of its records, or of its dense state, without what was logged."""

from pathlib import Path

from d4s.artifacts import Artifact

DENSE_STATE = ".state.safetensors"
_LENGTH = 8  # bytes that a safetensors payload begins with: how long its header is


def state_bytes(run: Artifact) -> int | None:
    """Bytes of the state at one length of a run; None where its manifest names no ledger."""
    from d4s.editors.ledger import Ledger

    recorded_prefix = run.manifest.notes.get("ledger")
    if recorded_prefix is None:
        return None
    if dense := [run.folder / name for name in run.manifest.files if name.endswith(DENSE_STATE)]:
        return sum(_tensor_bytes(path, 0, path.stat().st_size) for path in dense)
    records = Ledger.open(run.folder, "additive").records(recorded_prefix["edits"])
    return sum(_tensor_bytes(records.path, frame.start, frame.end) for frame in records.frames)


def _tensor_bytes(path: Path, start: int, end: int) -> int:
    """Bytes of the tensors in a safetensors payload that lies between two places of a file."""
    with path.open("rb") as stream:
        stream.seek(start)
        header = int.from_bytes(stream.read(_LENGTH), "little")
    return end - start - _LENGTH - header

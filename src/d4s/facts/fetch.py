"""Public data sets into the data folder, when asked for: DATA/NAME/original/FILE, then DATA/NAME/NAME.jsonl.

`DATA/NAME/fetched.json` records the digests of what came, so that a later download of a file without a published digest
is held against the first one. A file that fails its check never takes the place of another.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

from d4s.artifacts import sha256_of, write_json
from d4s.errors import FetchError
from d4s.facts.converters import convert
from d4s.facts.download import discard, download, move_into_place
from d4s.facts.sources import File, ManualFile, PublicDataset, RecordFile, RemoteFile
from d4s.facts.unpack import unpack
from d4s.locks import folder_lock
from d4s.settings_base import canonical

log = logging.getLogger(__name__)
RECORD = "fetched.json"
ORIGINALS = "original"
REFETCH_HINT = "pass --force to fetch it again"


@dataclass
class FetchRecord:
    """What fetched.json holds: digests of the original files, and digests and numbers of the records made from them."""

    files: dict[str, dict[str, str | int]] = field(default_factory=dict)
    records: dict[str, dict[str, str | int]] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> "FetchRecord":
        """The record of a folder; empty where there is none.

        Raises:
            FetchError: if it is broken.
        """
        path = folder / RECORD
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else cls()
        except (ValueError, TypeError) as error:
            raise FetchError(f"{path} is no record of a fetch ({error}); delete it") from None

    def write(self, folder: Path) -> None:
        """Write the record."""
        write_json(folder / RECORD, asdict(self))


def fetch(name: str, source: PublicDataset, data: Path, *, force: bool = False) -> FetchRecord:
    """Fetch, check, unpack and turn a data set; what is there already is only checked, unless `force` fetches it again.

    Raises:
        FetchError: if a file fails its check, is to be fetched by hand, or would replace one that was not fetched.
        D4SError: if another command is fetching it.
    """
    folder = data / name
    with folder_lock(folder):
        return _fetch_locked(name, source, folder, force=force)


def _fetch_locked(name: str, source: PublicDataset, folder: Path, *, force: bool) -> FetchRecord:
    known = FetchRecord.of(folder)
    foreign = [part.to for part in source.records if (folder / part.to).exists()] if not known.files else []
    if foreign and not force:
        raise FetchError(f"{folder / foreign[0]} is there and was not fetched; move it away, or pass --force to replace it")
    missing = [file for file in source.files if isinstance(file, ManualFile) and not (folder / ORIGINALS / file.file).is_file()]
    if missing:
        lines = "".join(f"\n  {file.page} -> {folder / ORIGINALS / file.file}" for file in missing)
        raise FetchError(f"{name} is fetched by hand; get these, put them there and run the same command again:{lines}")
    for file in source.files:
        _obtain(file, folder / ORIGINALS / file.file, known, force=force)
        known.write(folder)
    for records in source.records:
        _convert(records, folder, known, force=force)
        known.write(folder)
    return known


def _convert(records: RecordFile, folder: Path, known: FetchRecord, *, force: bool) -> None:
    """Make a file of records unless it is there as it was made from these originals in this way.

    Raises:
        FetchError: if it was changed by hand.
    """
    path, made = folder / records.to, known.records.get(records.to)
    recipe = canonical({"files": known.files, "records": records.model_dump(mode="json")})
    digest = hashlib.sha256(recipe.encode()).hexdigest()
    if path.is_file() and made and not force:
        if sha256_of(path) != made["sha256"]:
            raise FetchError(f"{path} was changed since it was fetched; move it away, or pass --force to replace it")
        if made["recipe"] == digest:
            return
    known.records.pop(records.to, None)  # while it is made again it belongs to nobody
    known.write(folder)
    count = convert(records, folder / ORIGINALS, folder)
    known.records[records.to] = {"sha256": sha256_of(path), "records": count, "recipe": digest}
    log.info("%s: %d records", path, count)


def _obtain(file: File, path: Path, known: FetchRecord, *, force: bool) -> None:
    """Have an original file, checked and unpacked."""
    if path.is_file() and (isinstance(file, ManualFile) or not force):
        _check(file, path, known, f"delete it or {REFETCH_HINT}" if not isinstance(file, ManualFile) else "get it again")
    elif not isinstance(file, ManualFile):
        _download(file, path, known)
    before, digest = known.files.get(file.file, {}).get("sha256"), sha256_of(path)
    known.files[file.file] = {"sha256": digest, "size": path.stat().st_size, "from": _origin(file)}
    unpacked = path.with_name(f"{path.name}.unpacked")
    if file.unpack and (force or before != digest or not unpacked.is_dir()):
        unpack(path, unpacked)


def _origin(file: File) -> str:
    return file.page if isinstance(file, ManualFile) else file.url


def _download(file: RemoteFile, path: Path, known: FetchRecord) -> None:
    is_pinned = bool(file.sha256 or file.git_blob or file.file in known.files)
    part = download(file.url, path, size=file.size, is_pinned=is_pinned)
    try:
        _check(file, part, known, f"it was thrown away; if the new file is the right one, correct the table or delete {RECORD}")
    except FetchError:
        discard(part)
        raise
    move_into_place(part, path)


def _check(file: File, path: Path, known: FetchRecord, remedy: str) -> None:
    """Hold a file against every digest known of it.

    Raises:
        FetchError: if one differs.
    """
    digest = sha256_of(path)
    recorded = known.files.get(file.file, {}).get("sha256")
    expected = [
        ("the size in the table", file.size, path.stat().st_size),
        ("the sha256 in the table", file.sha256, digest),
        ("the git blob in the table", file.git_blob, _git_blob(path) if file.git_blob else None),
        (f"the sha256 of the first download in {RECORD}", recorded, digest),
    ]
    for what, wanted, found in expected:
        if wanted is not None and wanted != found:
            raise FetchError(f"{file.file} from {_origin(file)} is not {what}: found {found}, expected {wanted}; {remedy}")


def _git_blob(path: Path) -> str:
    """Git's name for a file's content."""
    hasher = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            hasher.update(chunk)
    return hasher.hexdigest()


def fetch_status(name: str, source: PublicDataset, data: Path | None) -> str:
    """One word or two on what of a data set is in the data folder."""
    folder = (data or Path()) / name
    known = FetchRecord.of(folder) if data else FetchRecord()
    originals = [file.file in known.files and (folder / ORIGINALS / file.file).is_file() for file in source.files]
    made = [bool(data) and (folder / records.to).is_file() for records in source.records]
    if all(originals) and all(made):
        return "fetched"
    if any(originals):
        return "incomplete"
    if any(made):
        return "own copy"
    return "by hand" if all(isinstance(file, ManualFile) for file in source.files) else "absent"

"""Artefacts on disk: atomic writes, content hashes, manifests, and reads that check what they read.

An artefact is a folder whose readable name ends in the digest of everything that made it. A manifest lists the settings,
the code and input digests, the library versions and the sha256 of every file; reading goes through `Artifact`, which
refuses files that are truncated, altered or of another schema. Only safetensors, JSON and Parquet; no pickle.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from d4s.errors import ArtifactError
from d4s.schema_version import SCHEMA_VERSION
from d4s.settings_base import canonical

if TYPE_CHECKING:  # a job that finds its parts made reads no table, and ends before any of these could be imported
    import pandas as pd
    import pyarrow as pa
    from torch import Tensor

MANIFEST = "manifest.json"
POINTER = "pointer.json"  # in the artefact of an adopted model: where the model is and how it is loaded
DIGEST_LENGTH = 10
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "pandas", "pyarrow", "lm_eval", "snakemake", "dvc")
S = TypeVar("S")
T = TypeVar("T")


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(kind: str, settings: Any, inputs: Mapping[str, str], code: str) -> str:
    """The digest that names an artefact: of its kind, settings, the digests of its inputs by role, and its code digest."""
    text = canonical({"kind": kind, "settings": settings, "inputs": dict(inputs), "code": code, "schema": SCHEMA_VERSION})
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, flushed and renamed to it when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def write_table(path: Path, rows: "pd.DataFrame | Sequence[Mapping[str, Any]]", schema: "pa.Schema") -> None:
    """Write rows as Parquet atomically, in exactly the schema's columns.

    Raises:
        ValueError: if a column is missing or unknown.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    if isinstance(rows, pd.DataFrame):
        _refuse_columns(set(rows.columns), schema, path)
        table = pa.Table.from_pandas(rows[schema.names], schema=schema, preserve_index=False)
        table = table.replace_schema_metadata(schema.metadata)
    else:
        for row in rows:
            _refuse_columns(set(row), schema, path)
        table = pa.Table.from_pylist(list(rows), schema=schema)
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _refuse_columns(found: set[str], schema: "pa.Schema", path: Path) -> None:
    if found != set(schema.names):
        raise ValueError(
            f"{path.name}: missing columns {sorted(set(schema.names) - found)}, unknown columns {sorted(found - set(schema.names))}"
        )


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors atomically."""
    from safetensors.torch import save_file

    with atomic_write(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, dict(metadata or {}))


def read_table(path: Path, schema: "pa.Schema") -> "pd.DataFrame":
    """A Parquet file as a frame, checked against its schema and version.

    Raises:
        ArtifactError: if it is no such Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"{path} cannot be read as Parquet ({error}); delete its folder and run again") from None
    if not table.schema.equals(schema) or table.schema.metadata.get(b"d4s_schema_version") != str(SCHEMA_VERSION).encode():
        raise ArtifactError(
            f"{path} has schema {table.schema.names}, expected {schema.names} of version {SCHEMA_VERSION}; delete its folder and run again"
        )
    return table.to_pandas()


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in LIBRARIES}}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an artefact records of itself: how it was made, and the sha256 of every file."""

    kind: str
    name: str
    digest: str
    settings: Any
    inputs: Mapping[str, str]
    code: str
    files: Mapping[str, str]
    versions: Mapping[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    notes: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the manifest atomically."""
        write_json(path, asdict(self))


def is_artifact(folder: Path) -> bool:
    """Whether a folder's manifest.json is one of this package; other programs use that name too.

    Raises:
        ArtifactError: if there is one that is no JSON.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path} is no JSON ({error}); remove it if another program wrote it, else restore it") from None
    return (
        isinstance(found, dict) and {one.name for one in fields(Manifest) if one.default is one.default_factory is MISSING} <= found.keys()
    )


@dataclass(frozen=True, slots=True)
class StageJob(Generic[S]):
    """What a stage works on: validated settings, inputs by role, its folder, and the manifests it must write."""

    kind: str
    settings: S
    inputs: Mapping[str, Path]
    folder: Path
    outputs: tuple[str, ...] = (MANIFEST,)
    code: str = ""
    digest: str = ""
    input_digests: Mapping[str, str] = field(default_factory=dict)
    usage: Counter[str] = field(default_factory=Counter)
    """Requests to a language model in this call: requests, retries, tokens_in, tokens_out; empty where none was sent."""
    input_cache: dict[Any, Any] = field(default_factory=dict)
    """Results of `read_once`, shared by the stages of one process."""

    def path(self, name: str) -> Path:
        """Where a file of the artefact goes."""
        return self.folder / name

    def artifact(self, role: str, kind: str) -> "Artifact":
        """The artefact given as input under a role, its manifest checked."""
        return Artifact.open(self.inputs[role], kind)

    def read_once(self, role: str, read: Callable[[Path], T]) -> T:
        """The result of `read` on an input, computed once for all stages of one process; callers must not change it."""
        key = read, self.inputs[role]
        if key not in self.input_cache:
            self.input_cache[key] = read(self.inputs[role])
        return self.input_cache[key]

    def write_manifest(self, files: Sequence[str], manifest: str = MANIFEST, **notes: Any) -> None:
        """Write a manifest over files of the folder; the last act of a stage, once per required manifest."""
        settings: Any = self.settings
        Manifest(
            kind=self.kind,
            name=self.folder.name,
            digest=self.digest,
            settings=settings.model_dump(mode="json"),
            inputs=dict(self.input_digests),
            code=self.code,
            files={name: sha256_of(self.folder / name) for name in sorted(files)},
            versions=library_versions(),
            notes=notes,
        ).write(self.folder / manifest)

    def missing_parts(self) -> Iterator[str]:
        """The wanted manifests whose parts are still to be made, in the order asked for.

        A part is made if its manifest and every file named there are whole and this very job, by its digest, made them. Other
        jobs may be at work on other parts in the same folder.
        """
        return (manifest for manifest in self.outputs if not self._is_complete(manifest))

    def _is_complete(self, manifest: str) -> bool:
        try:
            found = Artifact.open(self.folder, self.kind, manifest)
            for name in found.manifest.files:
                found.path(name)
        except ArtifactError:
            return False
        return found.manifest.digest == self.digest


@dataclass(frozen=True, slots=True)
class Artifact:
    """A folder of an artefact, read through one of its manifests."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path, kind: str, manifest: str = MANIFEST) -> "Artifact":
        """The artefact in a folder, which must be of the given kind.

        Raises:
            ArtifactError: if it is missing, truncated, of another kind or version, or its folder was renamed.
        """
        path = folder / manifest
        try:
            found = Manifest(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ArtifactError(f"{folder} holds no {manifest}; it was never finished: run the rule that makes it") from None
        except (ValueError, TypeError) as error:
            raise ArtifactError(f"{path} is no manifest ({error}); delete {folder} and run again") from None
        if found.kind != kind or found.schema_version != SCHEMA_VERSION:
            raise ArtifactError(
                f"{folder} holds {found.kind!r} of schema version {found.schema_version}, expected {kind!r} of version {SCHEMA_VERSION}"
            )
        if found.name != folder.resolve().name:
            raise ArtifactError(
                f"{folder} holds the artefact {found.name!r}: the folder was renamed or copied; restore its name or delete it"
            )
        return cls(folder, found)

    @classmethod
    def open_parts(cls, folder: Path, kind: str, manifests: Sequence[str]) -> list["Artifact"]:
        """Several parts of one artefact; different jobs may have made them.

        Raises:
            ArtifactError: if one is missing or broken, or if they were not all made from the same settings, inputs and code.
        """
        parts = [cls.open(folder, kind, manifest) for manifest in manifests]
        digests = sorted({part.manifest.digest for part in parts})
        if len(digests) > 1:
            raise ArtifactError(f"{folder} holds parts of different settings, inputs or code ({digests}); delete it and run again")
        return parts

    def path(self, name: str) -> Path:
        """The path of a file of the artefact, after comparing its content with the manifest.

        Raises:
            ArtifactError: if it is missing, unlisted or altered.
        """
        path = self.folder / name
        if name not in self.manifest.files or not path.is_file():
            raise ArtifactError(f"{path} is missing or not listed in its manifest; delete {self.folder} and run again")
        if sha256_of(path) != self.manifest.files[name]:
            raise ArtifactError(f"{path} is truncated or altered: its sha256 is not the manifest's; delete {self.folder} and run again")
        return path

    def table(self, name: str, schema: "pa.Schema") -> "pd.DataFrame":
        """A Parquet file of the artefact, checked."""
        return read_table(self.path(name), schema)

    def tensors(self, name: str) -> dict[str, "Tensor"]:
        """The tensors of a safetensors file of the artefact, checked."""
        from safetensors.torch import load_file

        return load_file(self.path(name))

    def json(self, name: str) -> Any:
        """The value in a JSON file of the artefact, checked."""
        return json.loads(self.path(name).read_text(encoding="utf-8"))

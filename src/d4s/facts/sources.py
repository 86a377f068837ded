"""The table of public data sets and models, `data/sources.yaml`: where each lies, under what licence, and what is read of it."""

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import yaml
from pydantic import Discriminator, Field, Tag

from d4s.errors import SettingsError
from d4s.registry import nearest
from d4s.settings_base import Count, Frozen, validate

SOURCES = Path("data/sources.yaml")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
GitBlob = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
Member = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w. -]*(/[A-Za-z0-9][\w. -]*)*$")]


class _File(Frozen):
    file: FileName = Field(description="Its name in DATA/NAME/original.")
    sha256: Sha256 | None = Field(default=None, description="Digest, where known; otherwise the first download's is recorded.")
    git_blob: GitBlob | None = Field(default=None, description="Its id as a git blob, where known.")
    size: Count | None = Field(default=None, description="Bytes, where known.")
    unpack: bool = Field(default=False, description="Whether it is a zip or tar file, unpacked into `original/FILE.unpacked`.")


class WebFile(_File):
    """A file on a web server."""

    kind: Literal["https"]
    url: str


class HubFile(_File):
    """A file of a data set on the Hugging Face hub; every public set has one Parquet file per shard of a split."""

    kind: Literal["hub"]
    dataset: str
    revision: str = "refs/convert/parquet"
    path: str

    @property
    def url(self) -> str:
        """Where it lies."""
        return f"https://huggingface.co/datasets/{self.dataset}/resolve/{quote(self.revision, safe='')}/{quote(self.path)}"


class GithubFile(_File):
    """A file of a repository at a commit."""

    kind: Literal["github"]
    repository: str
    commit: str = Field(description="A commit where one is known, else a branch.")
    path: str

    @property
    def url(self) -> str:
        """Where it lies."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/{quote(self.path)}"


class ManualFile(_File):
    """A file that only a person can get, from a page with a form or a button; it is checked and turned once it is there."""

    kind: Literal["by_hand"]
    page: str


RemoteFile = WebFile | HubFile | GithubFile
File = Annotated[RemoteFile | ManualFile, Field(discriminator="kind")]


class RecordPart(Frozen):
    """Rows of one original file and how they become records."""

    file: Member = Field(description="A file in DATA/NAME/original.")
    shape: Literal["json_list", "jsonl", "csv", "parquet"]
    delimiter: str = Field(default=",", description="Between the columns of a csv file.")
    columns: tuple[str, ...] = Field(default=(), description="Columns of a csv file that has no header.")
    converter: str | None = Field(
        default=None, description="How a row becomes a record (see `d4s.facts.converters`); as it stands when omitted."
    )
    add: dict[str, str] = Field(default_factory=dict, description="Fields put into every record.")
    number: str | None = Field(default=None, description="Field that takes the row's number, from 0.")
    limit: Count | None = Field(default=None, description="Only this number of rows, the first ones.")


class RecordFile(Frozen):
    """A file of records, one JSON object per line, as a reader expects it in DATA/NAME."""

    to: FileName
    of: tuple[RecordPart, ...] = Field(min_length=1)


class PublicDataset(Frozen):
    """One public data set."""

    title: str
    licence: str
    home: str = Field(description="The page of its authors.")
    files: tuple[File, ...] = Field(min_length=1)
    records: tuple[RecordFile, ...] = ()
    note: str | None = None


class WheelModel(Frozen):
    """A GGUF file in a Python package."""

    package: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*==[\w.]+$", description="The package at a version, as pip names it.")
    member: Member = Field(description="The file in the package.")
    sha256: Sha256 = Field(description="Digest of the file.")


class PublicModel(Frozen):
    """One public model: from the hub where it answers, else from a package."""

    title: str
    licence: str
    home: str = Field(description="The page of its authors.")
    hub: str = Field(description="Its id on the Hugging Face hub.")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$", description="Its commit there.")
    wheel: WheelModel
    note: str | None = None


def _source_kind(value: Any) -> str:
    return "model" if "hub" in (value if isinstance(value, dict) else vars(value)) else "dataset"


PublicSource = Annotated[Annotated[PublicDataset, Tag("dataset")] | Annotated[PublicModel, Tag("model")], Discriminator(_source_kind)]


class PublicSources(Frozen):
    """The whole table."""

    sources: dict[str, PublicSource]

    def find(self, name: str) -> PublicDataset | PublicModel:
        """The data set or model of a name.

        Raises:
            SettingsError: if there is none; names the nearest.
        """
        if name not in self.sources:
            raise SettingsError(f"nothing is called {name!r} in the table of what can be fetched; {nearest(name, self.sources)}")
        return self.sources[name]

    @property
    def datasets(self) -> dict[str, PublicDataset]:
        """The data sets by name."""
        return {name: source for name, source in self.sources.items() if isinstance(source, PublicDataset)}

    @property
    def models(self) -> dict[str, PublicModel]:
        """The models by name."""
        return {name: source for name, source in self.sources.items() if isinstance(source, PublicModel)}


def load_sources(path: Path) -> PublicSources:
    """The table in a YAML file.

    Raises:
        SettingsError: if it cannot be read or an entry is wrong; names all problems.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"the table of sources {path} cannot be read: {error}") from None
    return validate(PublicSources, {"sources": content}, str(path))

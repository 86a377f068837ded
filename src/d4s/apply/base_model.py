"""The unedited model that an edited folder was made from."""

from pathlib import Path

from pydantic import Field

from d4s.artifacts import POINTER, Artifact
from d4s.digests import cached_sha256
from d4s.errors import ArtifactError
from d4s.model_files import list_model_files
from d4s.models.finite_check import require_finite
from d4s.models.hub import commit_of
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load, precision
from d4s.models.model_source import model_folder
from d4s.pretrained import stored_dtype
from d4s.settings_base import Frozen


class BaseModelSource(Frozen):
    """The unedited model: where it is, how it is loaded, and the sha256 of a local folder's files, or the commit of one on the hub."""

    source: str
    dtype: str
    revision: str = "main"
    files: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def of(cls, model: str, dtype: str | None, revision: str) -> "BaseModelSource":
        """What a user names as a model, in the precision asked for, or that its weights are stored in; nothing is hashed yet.

        Raises:
            ArtifactError: if there is no model that can be read.
            SettingsError: if the precision is unknown.
        """
        source = model_folder(model)
        if dtype is None and (Path(source) / POINTER).is_file():
            dtype = str(Artifact.open(Path(source), "models").json(POINTER)["dtype"])
        found = dtype or stored_dtype(source, revision)
        precision(found)
        return cls(source=source, dtype=found, revision=revision)

    def pinned(self) -> "BaseModelSource":
        """The same model with the digests of a local folder's files, or at the commit that its revision stands at now.

        Raises:
            ArtifactError: if no commit of it can be found.
        """
        folder = Path(self.source)
        if not folder.is_dir():
            return self.model_copy(update={"revision": commit_of(self.source, self.revision)})
        files = {path.relative_to(folder).as_posix(): cached_sha256(path) for path in list_model_files(folder)}
        return self.model_copy(update={"source": str(folder.resolve()), "files": files})

    def load(self, device: str, dtype: str | None = None) -> LanguageModel:
        """The model.

        Raises:
            ArtifactError: if a file of it is not the one that was edited, or its own numbers are not finite.
        """
        for name, digest in self.files.items():
            path = Path(self.source) / name
            if not path.is_file() or cached_sha256(path) != digest:
                raise ArtifactError(f"{path} is not the file that was edited; put the unedited model back where it was")
        model = load(self.source, dtype=dtype or self.dtype, revision=self.revision, device=device)
        require_finite(model)
        return model

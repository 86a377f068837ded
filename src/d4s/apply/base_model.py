"""The unedited model that an edited folder was made from."""

from pathlib import Path

from pydantic import Field

from d4s.digests import cached_sha256
from d4s.errors import ArtifactError
from d4s.model_files import list_model_files
from d4s.models.finite_check import require_finite
from d4s.models.hub import commit_of
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.settings_base import Frozen


class BaseModelSource(Frozen):
    """The unedited model: where it is, how it is loaded, and the sha256 of a local folder's files, or the commit of one on the hub."""

    source: str
    dtype: str
    revision: str = "main"
    files: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def of(cls, source: str, dtype: str, revision: str) -> "BaseModelSource":
        """The model in a folder, or one on the hub at the commit that its revision stands at now.

        Raises:
            ArtifactError: if no commit of it can be found.
        """
        folder = Path(source)
        if not folder.is_dir():
            return cls(source=source, dtype=dtype, revision=commit_of(source, revision))
        files = {path.relative_to(folder).as_posix(): cached_sha256(path) for path in list_model_files(folder)}
        return cls(source=str(folder.resolve()), dtype=dtype, revision=revision, files=files)

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

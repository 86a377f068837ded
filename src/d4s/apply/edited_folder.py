"""An edited folder: what was edited how, every edit in a ledger, and what can be made of them again.

    with EditedFolder.open(Path("DIR")).edited() as model:
        model.generate(["The capital of France is"], 8)

`manifest.json` says which model, editor and settings; `state/` holds the ledger, which only ever grows; `prepared/` what
the editor needed. The edited model, its change and `edits.jsonl` are views of these and are written again after every
change; the manifest says for which state they were written.
"""

import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from d4s.apply.base_model import BaseModelSource
from d4s.apply.chat import Chat
from d4s.apply.history import EditSpec, RecordedEdit, edits_from_log
from d4s.apply.prompt_builder import PromptBuilder
from d4s.artifacts import DIGEST_LENGTH, MANIFEST, library_versions, write_json
from d4s.editors.editor_settings import EditorSettings
from d4s.editors.protocol import BESIDE_THE_MODEL, EditSelection, EditStatus, NotRemovable, Prepared, State
from d4s.errors import ArtifactError, SettingsError
from d4s.facts.joining import Joiner
from d4s.locks import folder_lock
from d4s.models.edited_model import EditedModel
from d4s.models.language_model import LanguageModel
from d4s.runs import prepared_parts
from d4s.runs.edit_sequence import EditSequence
from d4s.schema_version import SCHEMA_VERSION
from d4s.settings_base import Frozen, canonical

MODEL, DELTA, HISTORY, STATE, PREPARED = "model", "delta.safetensors", "edits.jsonl", "state", "prepared"
PART = ".part"
NO_MANIFEST = f"{{0}} holds no {MANIFEST}; make it with d4s apply --out {{0}}"


@contextmanager
def exclusive_access(path: Path, *, is_new: bool = False) -> Iterator[None]:
    """Change what is in a folder, or in a new one, while no other command reads or changes it.

    Raises:
        ArtifactError: if the folder is not there and is no new one.
        D4SError: if another command is at work in it.
    """
    if not is_new and not path.exists():
        raise ArtifactError(NO_MANIFEST.format(path))
    with folder_lock(path):
        yield


@contextmanager
def open_shared(*paths: Path, device: str = "cpu", dtype: str | None = None) -> Iterator[list["EditedFolder"]]:
    """Edited folders, open as `EditedFolder.open` does it, that no other command changes meanwhile.

    Raises:
        ArtifactError: if one is not there.
        D4SError: if another command is changing one.
    """
    for path in paths:
        if not path.is_dir():
            raise ArtifactError(NO_MANIFEST.format(path))
    with ExitStack() as held:
        for path in paths:
            held.enter_context(folder_lock(path, shared=True))
        yield [EditedFolder.open(path, device=device, dtype=dtype) for path in paths]


LABEL_DIGEST = re.compile(rf" [0-9a-f]{{{DIGEST_LENGTH}}}$")


class FolderManifest(Frozen):
    """What an edited folder says of itself.

    `moments` names the text of the second moments; where it lacks the digest of a folder's content, it agrees with any folder of
    that name. `chat` is the user's turn that prompts are put in, `joiner` what stands between prompts and targets. `undone` are
    numbers of edits that were taken back. `written` is the state that the model, its change and the
    history were written for, by edits made and undone.
    """

    schema_version: int = SCHEMA_VERSION
    model: BaseModelSource
    editor: str
    settings: EditorSettings
    moments: str
    chat: Chat | None = None
    joiner: Joiner = "auto"
    seed: int = 1
    undone: tuple[int, ...] = ()
    written: tuple[int, tuple[int, ...]] | None = None
    versions: dict[str, str] = Field(default_factory=dict)

    def differences(self, other: "FolderManifest") -> list[str]:
        """What two descriptions of the same work must share and do not; the model may have moved."""
        mine, theirs = (_comparable_fields(one) for one in (self, other))
        if self.moments == LABEL_DIGEST.sub("", other.moments) or other.moments == LABEL_DIGEST.sub("", self.moments):
            theirs["moments"] = mine["moments"]
        return [f"{name}: {canonical(mine[name])} there, {canonical(theirs[name])} now" for name in mine if mine[name] != theirs[name]]


def _comparable_fields(manifest: FolderManifest) -> dict[str, Any]:
    """What must agree; of a chat only that there is one, since its template may say the date."""
    plain = manifest.model_dump(mode="json", include={"model", "editor", "settings", "moments", "joiner", "seed"})
    plain["chat"] = manifest.chat is not None
    if plain["model"]["files"]:
        del plain["model"]["source"]
    return plain


class EditedFolder(EditSequence):
    """An edited folder, open: a sequence of edits with what it says of itself.

    The unedited model is the one of `prompts`; without them it is loaded, where the manifest says and onto a device, when it is needed.
    """

    def __init__(
        self, path: Path, manifest: FolderManifest, prompts: PromptBuilder | None = None, *, device: str = "cpu", dtype: str | None = None
    ) -> None:
        super().__init__(path / STATE, manifest.settings)
        self.path, self.manifest = path, manifest
        self._device, self._dtype = device, dtype
        if prompts is not None:
            self.prompts = prompts

    @classmethod
    def open(cls, path: Path, prompts: PromptBuilder | None = None, *, device: str = "cpu", dtype: str | None = None) -> "EditedFolder":
        """An edited folder that is there.

        Args:
            path: the folder.
            prompts: how prompts are put to its unedited model, where that is in memory already.
            device: where the model is loaded otherwise.
            dtype: the precision in which it is loaded then; the manifest's if omitted.

        Raises:
            ArtifactError: if there is none, or it is of another version.
        """
        try:
            text = (path / MANIFEST).read_text(encoding="utf-8")
        except OSError:
            raise ArtifactError(NO_MANIFEST.format(path)) from None
        try:
            manifest = FolderManifest.model_validate_json(text)
        except ValueError as error:
            raise ArtifactError(f"{path / MANIFEST} is no manifest of an edited model: {error}") from None
        if manifest.schema_version != SCHEMA_VERSION:
            raise ArtifactError(f"{path} is of schema version {manifest.schema_version}, expected {SCHEMA_VERSION}; edit the model again")
        return cls(path, manifest, prompts, device=device, dtype=dtype)

    @classmethod
    def create(cls, path: Path, manifest: FolderManifest, prompts: PromptBuilder | None = None) -> "EditedFolder":
        """The folder of this very description: a new one, or one that is there; one without any edit is begun from the start.

        Raises:
            SettingsError: if the folder holds something else.
        """
        cls.refuse_mismatch(path, manifest)
        if (path / MANIFEST).is_file():
            found = cls.open(path, prompts)
            if found.manifest.differences(manifest):
                for name in (PREPARED, STATE):
                    shutil.rmtree(path / name, ignore_errors=True)
                found._update_manifest(**(dict(manifest) | {"versions": library_versions()}))
                return cls.open(path, prompts)
            if (found.manifest.model, found.manifest.chat) != (manifest.model, manifest.chat):  # moved, or rendered before the first edit
                found._update_manifest(model=manifest.model, chat=manifest.chat)
            return found
        folder = cls(path, manifest, prompts)
        folder._update_manifest(versions=library_versions())
        return folder

    @classmethod
    def refuse_mismatch(cls, path: Path, manifest: FolderManifest) -> None:
        """Refuse what is no folder of this description and cannot become one; changes nothing.

        Raises:
            SettingsError: if the folder holds something else.
        """
        if (path / MANIFEST).is_file():
            found = cls.open(path)
            if found.ledger.length and (differences := found.manifest.differences(manifest)):
                raise SettingsError(
                    f"{path} was made otherwise; give another --out, or the same options:\n" + "\n".join(f"  {one}" for one in differences)
                )
        elif path.exists() and (not path.is_dir() or any(part.suffix != PART for part in path.iterdir())):
            raise SettingsError(f"{path} is there already and is no edited folder; give another --out")

    # --- edits ----------------------------------------------------------------------------------------------------

    def batches(self, undone: Collection[int] = ()) -> list[list[RecordedEdit]]:
        """All edits, in the batches they were made in; as they would be if some more were undone."""
        logs = [[EditSpec.model_validate(spec) for spec in log["specs"]] for log in self.ledger.logs(self.ledger.length)]
        edits = iter(edits_from_log(logs, {*self.manifest.undone, *undone}))
        return [[next(edits) for _ in batch] for batch in logs]

    def edits(self) -> list[RecordedEdit]:
        """All edits by number."""
        return [edit for batch in self.batches() for edit in batch]

    def active_edits(self) -> list[RecordedEdit]:
        """The edits that count."""
        return [edit for edit in self.edits() if not edit.inactive_reason]

    def state(self, without: Collection[int] = ()) -> State:
        """The editor's state without the rows of edits that no longer count, and of others."""
        state = self.ledger.state_at(self.editor, self.ledger.length)
        if state.kind == "dense":
            return state
        counts = [not any(edit.inactive_reason or edit.number in without for edit in batch) for batch in self.batches()]
        return self.editor.restore([row for row, is_present in zip(state.records, counts, strict=True) if is_present], {})

    def selection(self, *, without: Collection[int] = (), undone: Collection[int] = ()) -> EditSelection:
        """All records with their edits: which count now, and which would without some of them, or with some more undone."""
        edits = [
            [
                EditStatus(now.number, now.spec.prompt_key, not now.inactive_reason, not (then.inactive_reason or then.number in without))
                for now, then in zip(batch, changed, strict=True)
            ]
            for batch, changed in zip(self.batches(), self.batches(undone), strict=True)
        ]
        return EditSelection(self.ledger.records(self.ledger.length), edits)

    def check_removable(self, numbers: Sequence[int], what: str, preceding: EditSelection | None = None) -> None:
        """Refuse to take edits out that cannot be taken out; `preceding` are the edits that a merge puts before this folder's.

        Raises:
            SettingsError: if there is no such edit, it is gone already, or the editor's state does not allow it; says why.
        """
        self._check_selection(numbers, what, self.selection(without=numbers), preceding)

    def check_undo(self, numbers: Sequence[int]) -> None:
        """Refuse to take edits back that cannot be taken out, or of which what they had replaced cannot count again.

        Raises:
            SettingsError: if there is no such edit, it is gone already, or the editor's state does not allow it; says why.
        """
        self._check_selection(numbers, "undo", self.selection(undone=numbers))

    def _check_selection(self, numbers: Sequence[int], what: str, selection: EditSelection, preceding: EditSelection | None = None) -> None:
        present = {edit.number for edits in selection.edits for edit in edits if edit.was_active}
        if unknown := sorted(set(numbers) - present):
            raise SettingsError(f"{what}: {self.path} has no present edits {unknown}; d4s history {self.path} lists them")
        try:
            self.editor.check_removable(selection, preceding)
        except NotRemovable as reason:
            where = f"{what} is not possible with {self.manifest.editor}" if self.editor.kind == "dense" else what
            raise SettingsError(f"{where}: {reason}") from None

    def undo(self, numbers: Sequence[int]) -> None:
        """Undo edits, checked first; the edits that they replaced are present again."""
        self._update_manifest(undone=tuple(sorted({*self.manifest.undone, *numbers})))

    # --- the model ------------------------------------------------------------------------------------------------

    @cached_property
    def prompts(self) -> PromptBuilder:
        """How prompts are put to the unedited model, which is loaded for it.

        Raises:
            ArtifactError: if the unedited model is not what it was.
        """
        model = replace(self.manifest.model.load(self._device, self._dtype), joiner=self.manifest.joiner)
        return PromptBuilder(model, self.manifest.chat)

    @property
    def model(self) -> LanguageModel:
        """The unedited model."""
        return self.prompts.model

    def load(self) -> None:
        """Read now what the editor needs and the unedited model, so that nothing is changed where one of them is missing.

        Raises:
            ArtifactError: if the folder was never finished, or the unedited model is not what it was.
        """
        _ = self.prepared, self.prompts

    @contextmanager
    def edited(self) -> Iterator[EditedModel]:
        """The model with the present edits, memories among them; for use from Python too."""
        self.load()
        with self.editor.edited(self.model, self.prepared, self.state()) as view:
            yield view

    # --- what the editor needs ------------------------------------------------------------------------------------

    @property
    def is_prepared(self) -> bool:
        """Whether what the editor needs was saved; says so without reading and checking it, which takes its time with large models."""
        return prepared_parts.has_prepared(self.path / PREPARED)

    def prepared_files(self) -> list[str]:
        """Names of the files that hold what the editor needs."""
        return sorted(f"{PREPARED}/{path.name}" for path in (self.path / PREPARED).glob("*"))

    def save_prepared(self, prepared: Prepared) -> None:
        """Write what the editor needs, so that later edits and views use the same."""
        prepared_parts.save_prepared(self.path / PREPARED, prepared)
        self.prepared = prepared

    def _read_prepared(self) -> Prepared:
        if not self.is_prepared:
            raise ArtifactError(f"{self.path} was never finished; run its d4s apply again")
        return prepared_parts.read_prepared(self.path / PREPARED, self.manifest.moments)

    # --- views ----------------------------------------------------------------------------------------------------

    @property
    def is_written(self) -> bool:
        """Whether the model, its change and the history are there, and those of the present state."""
        views = [HISTORY] if self.editor.kind in BESIDE_THE_MODEL else [HISTORY, DELTA, MODEL]
        are_there = all((self.path / name).exists() for name in views)
        return are_there and self.manifest.written == (self.ledger.length, self.manifest.undone)

    def mark_written(self) -> None:
        """Say that they are."""
        self._update_manifest(written=(self.ledger.length, self.manifest.undone))

    def _update_manifest(self, **changes: Any) -> None:
        self.manifest = self.manifest.model_copy(update=changes)
        write_json(self.path / MANIFEST, self.manifest.model_dump(mode="json"))

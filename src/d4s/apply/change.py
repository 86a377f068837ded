"""Undo, replacement and merge of edits, as far as the editor's kind of state allows; the views are written again."""

from collections.abc import Sequence
from pathlib import Path

from d4s.apply.apply_pipeline import append_edits
from d4s.apply.edited_folder import EditedFolder, exclusive_access, open_shared
from d4s.apply.fact_files import to_nfc
from d4s.apply.history import Conflict, RecordedEdit
from d4s.apply.outcome import Outcome, refresh
from d4s.artifacts import sha256_of
from d4s.editors.ledger import Ledger
from d4s.errors import SettingsError
from d4s.locks import new_folder


def undo(path: Path, numbers: Sequence[int], device: str) -> Outcome:
    """Take edits back; those that are back already stay so. What an edit taken back had replaced counts again.

    Raises:
        SettingsError: if there is no such edit, or the kind of state does not allow it; says why.
        D4SError: if there is no such folder, or another command is changing it.
    """
    with exclusive_access(path):
        folder = EditedFolder.open(path, device=device)
        new = [number for number in numbers if number not in folder.manifest.undone]
        folder.check_undo(new)
        folder.load()
        folder.undo(new)
        return refresh(folder, n_previous=folder.ledger.length)


def replace(path: Path, number: int, target: str, device: str) -> Outcome:
    """Put an edit with another target in the place of one; where that was interrupted after the edit, only the writing is done.

    Spaces at the ends of the target do not count, as in a file of facts.

    Raises:
        SettingsError: if there is no such edit, it has this target, the target is none for the model, or the kind of state
            does not allow it; says why.
        D4SError: if there is no such folder, or another command is changing it.
    """
    target = target.strip()
    if not target:
        raise SettingsError("the new target is empty; name the answer wanted: --target Lyon")
    with exclusive_access(path):
        folder = EditedFolder.open(path, device=device)
        wanted = (to_nfc(target),)
        if not folder.is_written and any(
            number in edit.spec.replaces and edit.spec.target_keys == wanted for edit in folder.active_edits()
        ):
            return append_edits(folder, [])
        folder.check_removable([number], "replace")
        spec = next(edit.spec for edit in folder.active_edits() if edit.number == number)
        if spec.target_keys == wanted:
            raise SettingsError(f"edit {number} has the target {target!r} already")
        spec = spec.model_copy(update={"target": target, "averaged_targets": (), "replaces": (number,)})
        folder.load()
        folder.prompts.refuse_issues(spec)
        return append_edits(folder, [spec])


def merge(first: Path, second: Path, out: Path, *, prefer_second: bool, device: str) -> Outcome:
    """A new folder with the present edits of two, the first one's before the second one's; equal edits count once.

    Raises:
        SettingsError: if the folders do not go together, their kind of state does not allow it, or `out` is there already.
        Conflict: if edits contradict each other and the second one's are not preferred, naming all of them.
        D4SError: if another command is changing one of the folders, or is at work in `out`.
    """
    with open_shared(first, second, device=device) as (one, other), new_folder(out) as part:
        _refuse_mismatch(one, other)
        dropped, repeated = _overlap(one, other, prefer_second=prefer_second)
        one.load()
        merged = EditedFolder.create(part, one.manifest.model_copy(update={"undone": (), "written": None}), one.prompts)
        merged.save_prepared(one.prepared)
        for folder, excluded in ((one, dropped), (other, repeated)):
            _copy_batches(merged.ledger, folder, excluded)
        return refresh(merged)


def _overlap(one: EditedFolder, other: EditedFolder, *, prefer_second: bool) -> tuple[set[int], set[int]]:
    """Edits of each folder that a merge leaves out: the first one's that the second contradicts, the second one's that are equal.

    Raises:
        SettingsError: if the kind of state does not allow it; says why.
        Conflict: if there are contradictions and the second one's edits are not preferred, naming all of them.
    """
    present = {edit.spec.prompt_key: edit for edit in one.active_edits()}
    shared = [(present[edit.spec.prompt_key], edit) for edit in other.active_edits() if edit.spec.prompt_key in present]
    clashes = [(old, new) for old, new in shared if old.spec.target_keys != new.spec.target_keys]
    if clashes and not prefer_second:
        raise Conflict(
            f"{len(clashes)} conflicts (pass --on-conflict replace to keep those of {other.path}):\n"
            + _list_clashes(one.path, other.path, clashes)
        )
    dropped = {old.number for old, _ in clashes}
    repeated = {new.number for old, new in shared if old.spec.target_keys == new.spec.target_keys}
    one.check_removable(sorted(dropped), "merge")
    other.check_removable(sorted(repeated), "merge", one.selection(without=dropped))
    return dropped, repeated


def _refuse_mismatch(one: EditedFolder, other: EditedFolder) -> None:
    """Refuse folders whose records mean different things.

    Raises:
        SettingsError: naming what differs, or why their kind of state cannot be joined.
    """
    if one.editor.kind == "dense":
        raise SettingsError(
            f"merge is not possible with {one.manifest.editor}: each folder holds one change of weights as a whole, which the other's "
            "edits never saw; edit the unedited model with both files of facts"
        )
    differing = one.manifest.differences(other.manifest)
    if not differing:
        differing = [f"{name}: another content" for name in one.prepared_files() if _content(one, name) != _content(other, name)]
    if differing:
        lines = "\n".join(f"  {line}" for line in differing)
        raise SettingsError(f"{one.path} and {other.path} were made otherwise and cannot be merged:\n{lines}")


def _content(folder: EditedFolder, name: str) -> str:
    path = folder.path / name
    return sha256_of(path) if path.is_file() else ""


def _copy_batches(ledger: Ledger, folder: EditedFolder, excluded: set[int]) -> None:
    """Append a folder's present batches, but for some, to a ledger."""
    state = folder.state(excluded)
    batches = [batch for batch in folder.batches() if not any(edit.inactive_reason or edit.number in excluded for edit in batch)]
    for row, batch in zip(state.records, batches, strict=True):
        specs = [edit.spec.model_copy(update={"replaces": ()}).model_dump(mode="json") for edit in batch]
        ledger.append(row, len(batch), {"specs": specs})


def _list_clashes(first: Path, second: Path, clashes: Sequence[tuple[RecordedEdit, RecordedEdit]]) -> str:
    return "\n".join(
        f"  {old.spec.prompt!r} is {' and '.join(old.spec.targets)!r} in {first} (edit {old.number}), "
        f"{' and '.join(new.spec.targets)!r} in {second} (edit {new.number})"
        for old, new in clashes
    )

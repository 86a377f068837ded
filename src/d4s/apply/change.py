"""Edits taken back, replaced and joined, each as far as the editor's kind of state allows; the views are written anew."""

from collections.abc import Sequence
from pathlib import Path

from d4s.apply.edit import extended
from d4s.apply.folder import Folder, alone, reading
from d4s.apply.history import Conflict, Edit
from d4s.apply.outcome import Outcome, refresh
from d4s.apply.records import composed
from d4s.apply.requests import Wordings
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
    with alone(path):
        folder = Folder.open(path)
        new = [number for number in numbers if number not in folder.description.undone]
        folder.check_undo(new)
        model, prepared = folder.loaded(device)
        folder.undo(new)
        return refresh(folder, model, prepared, since=folder.ledger.length)


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
    with alone(path):
        folder = Folder.open(path)
        wanted = (composed(target),)
        if not folder.is_written and any(number in edit.wish.replaces and edit.wish.answers == wanted for edit in folder.active()):
            return extended(folder, *folder.loaded(device), [])
        folder.check_removable([number], "replace")
        wish = next(edit.wish for edit in folder.active() if edit.number == number)
        if wish.answers == wanted:
            raise SettingsError(f"edit {number} has the target {target!r} already")
        wish = wish.model_copy(update={"target": target, "averaged": (), "replaces": (number,)})
        model, prepared = folder.loaded(device)
        Wordings(model, folder.description.chat).refuse_flaws(wish)
        return extended(folder, model, prepared, [wish])


def merge(first: Path, second: Path, out: Path, *, prefer_second: bool, device: str) -> Outcome:
    """A new folder with the present edits of two, the first one's before the second one's; equal edits count once.

    Raises:
        SettingsError: if the folders do not go together, their kind of state does not allow it, or `out` is there already.
        Conflict: if edits contradict each other and the second one's are not preferred, naming all of them.
        D4SError: if another command is changing one of the folders, or is at work in `out`.
    """
    with reading(first, second) as (one, other), new_folder(out) as part:
        _check_alike(one, other)
        dropped, repeated = _overlap(one, other, prefer_second=prefer_second)
        model, prepared = one.loaded(device)
        joined = Folder.create(part, one.description.model_copy(update={"undone": (), "written": None}))
        joined.keep_prepared(prepared)
        for folder, left_out in ((one, dropped), (other, repeated)):
            _take_over(joined.ledger, folder, left_out)
        return refresh(joined, model, prepared)


def _overlap(one: Folder, other: Folder, *, prefer_second: bool) -> tuple[set[int], set[int]]:
    """Edits of each folder that a merge leaves out: the first one's that the second contradicts, the second one's that are equal.

    Raises:
        SettingsError: if the kind of state does not allow it; says why.
        Conflict: if there are contradictions and the second one's edits are not preferred, naming all of them.
    """
    present = {edit.wish.question: edit for edit in one.active()}
    shared = [(present[edit.wish.question], edit) for edit in other.active() if edit.wish.question in present]
    clashes = [(old, new) for old, new in shared if old.wish.answers != new.wish.answers]
    if clashes and not prefer_second:
        raise Conflict(
            f"{len(clashes)} conflicts (pass --on-conflict replace to keep those of {other.path}):\n"
            + _listed(one.path, other.path, clashes)
        )
    dropped = {old.number for old, _ in clashes}
    repeated = {new.number for old, new in shared if old.wish.answers == new.wish.answers}
    one.check_removable(sorted(dropped), "merge")
    other.check_removable(sorted(repeated - _held_alike(one, other)), "merge")
    return dropped, repeated


def _check_alike(one: Folder, other: Folder) -> None:
    """Refuse folders whose records mean different things.

    Raises:
        SettingsError: naming what differs, or why their kind of state cannot be joined.
    """
    if one.editor.kind == "dense":
        raise SettingsError(
            f"merge is not possible with {one.description.editor}: each folder holds one change of weights as a whole, which the other's "
            "edits never saw; edit the unedited model with both files of facts"
        )
    found = one.description.differences(other.description)
    if not found:
        found = [f"{name}: another content" for name in one.prepared_files() if _content(one, name) != _content(other, name)]
    if found:
        lines = "\n".join(f"  {line}" for line in found)
        raise SettingsError(f"{one.path} and {other.path} were made otherwise and cannot be merged:\n{lines}")


def _held_alike(one: Folder, other: Folder) -> set[int]:
    """Edits of the other memory whose entry the first holds for the same fact, so that what continues it goes on from there."""
    held = {edit.wish.question: name for name, entry in one.entries().items() for edit in entry if not edit.gone}
    return {edit.number for name, entry in other.entries().items() for edit in entry if held.get(edit.wish.question) == name}


def _content(folder: Folder, name: str) -> str:
    path = folder.path / name
    return sha256_of(path) if path.is_file() else ""


def _take_over(ledger: Ledger, folder: Folder, left_out: set[int]) -> None:
    """Append a folder's present batches, but for some, to a ledger."""
    state = folder.state(left_out)
    batches = [batch for batch in folder.batches() if not any(edit.gone or edit.number in left_out for edit in batch)]
    for row, batch in zip(state.rows, batches, strict=True):
        wishes = [edit.wish.model_copy(update={"replaces": ()}).model_dump(mode="json") for edit in batch]
        ledger.append(row, len(batch), {"wishes": wishes})


def _listed(first: Path, second: Path, clashes: Sequence[tuple[Edit, Edit]]) -> str:
    return "\n".join(
        f"  {old.wish.prompt!r} is {' and '.join(old.wish.targets)!r} in {first} (edit {old.number}), "
        f"{' and '.join(new.wish.targets)!r} in {second} (edit {new.number})"
        for old, new in clashes
    )

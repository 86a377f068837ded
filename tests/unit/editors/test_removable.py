"""What editors say of which edits can be taken out of their state or brought back to it, from records alone."""

from collections.abc import Mapping, Sequence

import pytest
import torch

from d4s.editors.editor_settings import Grace, resolve
from d4s.editors.families import build
from d4s.editors.grace import GraceEditor
from d4s.editors.protocol import EditSelection, EditStatus, NotRemovable, StepRecord

KEPT, REMOVED, RESTORED, INACTIVE = (True, True), (True, False), (False, True), (False, False)
Change = tuple[bool, bool]


def batches(changes: Sequence[Sequence[Change]], records: Sequence[StepRecord] = ()) -> EditSelection:
    """Edits numbered from 1, each of a fact of its own, in batches."""
    found: list[list[EditStatus]] = []
    for batch in changes:
        first = sum(map(len, found)) + 1
        found.append([EditStatus(number, f"fact {number}", *change) for number, change in enumerate(batch, start=first)])
    return EditSelection(records, found)


def entries(*edits: tuple[str, str, Change]) -> EditSelection:
    """Edits of a codebook, numbered from 1: the entry that each makes or continues, its fact, and what becomes of it."""
    records = [{"key": torch.tensor([float(ord(entry[0]))]), "label": torch.tensor([ord(entry[-1])])} for entry, _, _ in edits]
    return EditSelection(records, [[EditStatus(number, fact, *change)] for number, (_, fact, change) in enumerate(edits, start=1)])


def refusal(editor: str, selection: EditSelection, preceding: EditSelection | None = None) -> str:
    """Why an editor refuses a selection; empty where it does not."""
    try:
        build(resolve(editor, {}, "gpt2-xl")).check_removable(selection, preceding)
    except NotRemovable as reason:
        return str(reason)
    return ""


# --- records and dense tensors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("editor", ["d4s", "memit", "kn", "unedited", "one_time_batch"])
def test_records_go_and_come_back_as_a_whole(editor: str) -> None:
    assert refusal(editor, batches([[KEPT, KEPT], [REMOVED, REMOVED], [RESTORED, RESTORED], [INACTIVE, INACTIVE]])) == ""
    assert refusal(editor, batches([[KEPT, KEPT], [REMOVED, KEPT, INACTIVE]])) == (
        "edits [3, 4] were made as one batch and can only be taken out together"
    )
    assert refusal(editor, batches([[REMOVED], [INACTIVE, RESTORED]])) == (
        "edits [2, 3] were made as one batch and can only come back together; undo all that replaced them"
    )


def test_what_is_left_of_a_batch_goes_alone() -> None:
    assert refusal("d4s", batches([[REMOVED, INACTIVE]])) == ""


@pytest.mark.parametrize("editor", ["ft_l", "rect"])
@pytest.mark.parametrize("change", [REMOVED, RESTORED])
def test_a_dense_state_loses_and_regains_nothing(editor: str, change: Change) -> None:
    assert refusal(editor, batches([[KEPT], [INACTIVE]])) == ""
    assert refusal(editor, batches([[KEPT], [change]])).startswith("every step replaced its state as a whole")


# --- entries of a codebook --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ((KEPT, KEPT, REMOVED), None),
        ((KEPT, REMOVED, REMOVED), None),
        ((REMOVED, REMOVED, REMOVED), None),
        ((REMOVED, KEPT, KEPT), [1, 2, 3]),
        ((REMOVED, KEPT, REMOVED), [1, 2, 3]),
        ((KEPT, REMOVED, KEPT), [2, 3]),
        ((REMOVED, INACTIVE, KEPT), [1, 3]),
        ((REMOVED, REMOVED, INACTIVE), None),
    ],
)
def test_edits_of_an_entry_are_taken_out_from_the_last_one_backwards(changes: Sequence[Change], refused: list[int] | None) -> None:
    selection = entries(*((("a", f"fact {place}", change)) for place, change in enumerate(changes)))
    expected = f"edits {refused} share an entry, which the last of them holds whole, and can only be taken out together"
    assert refusal("grace", selection) == ("" if refused is None else expected)


@pytest.mark.parametrize("other", ["b", "a again, with another label"])
def test_edits_of_other_entries_are_taken_out_alone(other: str) -> None:
    assert refusal("grace", entries(("a", "first", REMOVED), (other, "second", KEPT))) == ""


def test_an_edit_comes_back_only_with_an_entry_whose_facts_all_count() -> None:
    replaced = (("b", "first", KEPT), ("b", "second", REMOVED))
    assert refusal("grace", entries(("a", "first", INACTIVE), ("a", "second", RESTORED), *replaced)) == (
        "edit 2 would come back with an entry that also holds edits [1], which are gone; "
        "undo what replaced those as well, or replace the edit that took its place"
    )
    assert refusal("grace", entries(("a", "first", RESTORED), ("a", "second", RESTORED), *replaced)) == ""
    assert refusal("grace", entries(("a", "first", RESTORED), ("a", "second", INACTIVE), *replaced)) == ""


def test_an_entry_that_was_made_again_comes_back_whatever_became_of_the_one_before() -> None:
    """Edits 3 and 4 are 1 and 2 again, in the same place."""
    made_again = (("a", "first", KEPT), ("a", "second", RESTORED))
    assert refusal("grace", entries(("a", "first", INACTIVE), ("a", "second", INACTIVE), *made_again)) == ""


@pytest.mark.parametrize(
    ("before", "is_refused"),
    [
        ((("a", "first", KEPT),), False),  # the same entry for the same fact: what continues it goes on from there
        ((("b", "first", KEPT),), True),
        ((("a", "another", KEPT),), True),
        ((("a", "first", REMOVED),), True),
        ((), True),
    ],
)
def test_a_merge_leaves_out_what_the_records_before_hold(before: Sequence[tuple[str, str, Change]], is_refused: bool) -> None:
    left_out = entries(("a", "first", REMOVED), ("a", "second", KEPT))
    assert bool(refusal("grace", left_out, entries(*before))) is is_refused


def test_only_a_codebook_reads_records() -> None:
    class Unreadable(list[Mapping[str, torch.Tensor]]):
        def __iter__(self):
            raise AssertionError("records were read")

    selection = batches([[KEPT], [REMOVED]], Unreadable())
    assert refusal("d4s", selection) == ""
    with pytest.raises(AssertionError, match="records were read"):
        GraceEditor(Grace(layer=1)).check_removable(selection)

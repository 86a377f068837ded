"""What was asked for and what became of it: wishes, edits by number, and conflicts between them.

Two edits of the same prompt conflict, however it is split into subject and template and whether its letters are composed or
decomposed: the model cannot hold both.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from d4s.apply.fact_files import RawFact, to_nfc
from d4s.errors import D4SError
from d4s.facts.jsonl import RecordLine
from d4s.settings_base import Frozen

OnConflict = Literal["refuse", "replace", "average"]


class EditSpec(Frozen):
    """One edit as asked for. `averaged_targets` are all targets that a mean of hidden states stands for, where there are several.

    `replaces` are numbers of earlier edits that this one takes the place of.
    """

    subject: str
    template: str
    target: str
    target_true: str | None = None
    paraphrases: tuple[str, ...] = ()
    locality: tuple[str, ...] = ()
    averaged_targets: tuple[str, ...] = ()
    replaces: tuple[int, ...] = ()

    @classmethod
    def of(cls, raw: RawFact) -> "EditSpec":
        """The wish that a row of a file spells."""
        return cls(
            subject=raw.subject,
            template=raw.template,
            target=raw.target_new,
            target_true=raw.target_true,
            paraphrases=raw.fill_subject(raw.paraphrase),
            locality=raw.fill_subject(raw.locality),
        )

    @property
    def prompt(self) -> str:
        """The template with the subject filled in."""
        return self.template.replace("{}", self.subject)

    @property
    def prompt_key(self) -> str:
        """The prompt with its letters composed: what two edits must not share."""
        return to_nfc(self.prompt)

    @property
    def targets(self) -> tuple[str, ...]:
        """Every target that the edit stands for."""
        return self.averaged_targets or (self.target,)

    @property
    def target_keys(self) -> tuple[str, ...]:
        """The targets with their letters composed: what tells whether two edits ask for the same."""
        return tuple(map(to_nfc, self.targets))


@dataclass(frozen=True, slots=True)
class RecordedEdit:
    """An edit that was made; numbers count from 1. `inactive_reason` says why it no longer counts, and is empty while it does."""

    number: int
    spec: EditSpec
    inactive_reason: str = ""


class Conflict(D4SError):
    """Facts that contradict each other or what was edited before; the message names all of them."""


def edits_from_log(logged: Sequence[Sequence[EditSpec]], undone: Collection[int]) -> list[RecordedEdit]:
    """All edits of a ledger in order, with what became of each; an edit is back once the one in its place is undone."""
    numbered = [*enumerate((spec for batch in logged for spec in batch), start=1)]
    inactive_reason = {old: f"replaced by {number}" for number, spec in numbered if number not in undone for old in spec.replaces}
    inactive_reason |= dict.fromkeys(undone, "undone")
    return [RecordedEdit(number, spec, inactive_reason.get(number, "")) for number, spec in numbered]


def plan_edits(lines: Sequence[RecordLine[RawFact]], present: Sequence[RecordedEdit], mode: OnConflict) -> tuple[list[EditSpec], int]:
    """The edits still to be made for rows of a file, and how many rows are there already (or repeat an earlier row).

    Raises:
        Conflict: if rows contradict each other or a present edit, and conflicts are to be refused.
    """
    before = {edit.spec.prompt_key: edit for edit in present if not edit.inactive_reason}
    groups: dict[str, list[RecordLine[RawFact]]] = {}
    for line in lines:
        groups.setdefault(EditSpec.of(line.raw).prompt_key, []).append(line)
    if mode == "refuse" and (conflicts := [text for prompt, group in groups.items() for text in _conflicts_of(group, before.get(prompt))]):
        raise Conflict(
            f"{len(conflicts)} conflicts (change the facts, or pass --on-conflict replace or average, on_conflict= in Python):\n"
            + "\n".join(f"  {text}" for text in conflicts)
        )
    specs = [spec for prompt, group in groups.items() if (spec := _resolve_group(group, before.get(prompt), mode)) is not None]
    return specs, len(lines) - len(specs)


def _conflicts_of(group: Sequence[RecordLine[RawFact]], edit: RecordedEdit | None) -> list[str]:
    """What contradicts the first target of a group."""
    first, answer = group[0], to_nfc(group[0].raw.target_new)
    where = f"{first.file}:{first.number}: {first.raw.prompt!r} is to be {first.raw.target_new!r}"
    others = [line for line in group if to_nfc(line.raw.target_new) != answer]
    conflicts = [f"{where}, but line {line.number} says {line.raw.target_new!r}" for line in others]
    if edit is not None and edit.spec.target_keys != (answer,):
        conflicts.append(f"{where}, but edit {edit.number} made it {' and '.join(map(repr, edit.spec.targets))}")
    return conflicts


def _resolve_group(group: Sequence[RecordLine[RawFact]], edit: RecordedEdit | None, mode: OnConflict) -> EditSpec | None:
    """The one edit that a group of rows asks for: its last row, or the mean of all; None where it is there already."""
    earlier: tuple[str, ...] = edit.spec.targets if edit is not None else ()
    replaces = (edit.number,) if edit is not None else ()
    if mode == "average":
        distinct: dict[str, str] = {}
        for target in (*earlier, *(line.raw.target_new for line in group)):
            distinct.setdefault(to_nfc(target), target)
        all_targets = [*distinct.values()]
        if all_targets == [*earlier]:
            return None
        averaged_targets = tuple(all_targets) if len(all_targets) > 1 else ()
        return EditSpec.of(group[0].raw).model_copy(
            update={"target": all_targets[0], "averaged_targets": averaged_targets, "replaces": replaces}
        )
    last = group[-1].raw
    if edit is not None and edit.spec.target_keys == (to_nfc(last.target_new),):
        return None
    return EditSpec.of(last).model_copy(update={"replaces": replaces})

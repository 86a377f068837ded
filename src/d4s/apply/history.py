"""What was asked for and what became of it: wishes, edits by number, and conflicts between them.

Two edits of the same prompt conflict, however it is split into subject and template and whether its letters are composed or
decomposed: the model cannot hold both.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from d4s.apply.records import RawFact, composed
from d4s.config import Frozen
from d4s.errors import D4SError
from d4s.facts.jsonl import Line

OnConflict = Literal["refuse", "replace", "average"]


class Wish(Frozen):
    """One edit as asked for. `averaged` are all targets that a mean of hidden states stands for, where there are several.

    `replaces` are numbers of earlier edits that this one takes the place of.
    """

    subject: str
    template: str
    target: str
    target_true: str | None = None
    paraphrases: tuple[str, ...] = ()
    locality: tuple[str, ...] = ()
    averaged: tuple[str, ...] = ()
    replaces: tuple[int, ...] = ()

    @classmethod
    def of(cls, raw: RawFact) -> "Wish":
        """The wish that a row of a file spells."""
        return cls(
            subject=raw.subject,
            template=raw.template,
            target=raw.target_new,
            target_true=raw.target_true,
            paraphrases=raw.filled(raw.paraphrase),
            locality=raw.filled(raw.locality),
        )

    @property
    def prompt(self) -> str:
        """The template with the subject filled in."""
        return self.template.replace("{}", self.subject)

    @property
    def question(self) -> str:
        """The prompt with its letters composed: what two edits must not share."""
        return composed(self.prompt)

    @property
    def targets(self) -> tuple[str, ...]:
        """Every target that the edit stands for."""
        return self.averaged or (self.target,)

    @property
    def answers(self) -> tuple[str, ...]:
        """The targets with their letters composed: what tells whether two edits ask for the same."""
        return tuple(map(composed, self.targets))


@dataclass(frozen=True, slots=True)
class Edit:
    """An edit that was made; numbers count from 1. `gone` says why it no longer counts, and is empty while it does."""

    number: int
    wish: Wish
    gone: str = ""


class Conflict(D4SError):
    """Facts that contradict each other or what was edited before; the message names all of them."""


def edits_of(logged: Sequence[Sequence[Wish]], undone: Collection[int]) -> list[Edit]:
    """All edits of a ledger in order, with what became of each; an edit is back once the one in its place is undone."""
    numbered = [*enumerate((wish for batch in logged for wish in batch), start=1)]
    gone = {old: f"replaced by {number}" for number, wish in numbered if number not in undone for old in wish.replaces}
    gone |= dict.fromkeys(undone, "undone")
    return [Edit(number, wish, gone.get(number, "")) for number, wish in numbered]


def planned(lines: Sequence[Line[RawFact]], present: Sequence[Edit], mode: OnConflict) -> tuple[list[Wish], int]:
    """The edits still to be made for rows of a file, and how many rows are there already (or repeat an earlier row).

    Raises:
        Conflict: if rows contradict each other or a present edit, and conflicts are to be refused.
    """
    before = {edit.wish.question: edit for edit in present if not edit.gone}
    groups: dict[str, list[Line[RawFact]]] = {}
    for line in lines:
        groups.setdefault(Wish.of(line.raw).question, []).append(line)
    if mode == "refuse" and (found := [text for asked, group in groups.items() for text in _clashes(group, before.get(asked))]):
        raise Conflict(
            f"{len(found)} conflicts (change the facts, or pass --on-conflict replace or average, on_conflict= in Python):\n"
            + "\n".join(f"  {text}" for text in found)
        )
    wishes = [wish for asked, group in groups.items() if (wish := _settled(group, before.get(asked), mode)) is not None]
    return wishes, len(lines) - len(wishes)


def _clashes(group: Sequence[Line[RawFact]], edit: Edit | None) -> list[str]:
    """What contradicts the first target of a group."""
    first, wanted = group[0], composed(group[0].raw.target_new)
    where = f"{first.file}:{first.number}: {first.raw.prompt!r} is to be {first.raw.target_new!r}"
    others = [line for line in group if composed(line.raw.target_new) != wanted]
    found = [f"{where}, but line {line.number} says {line.raw.target_new!r}" for line in others]
    if edit is not None and edit.wish.answers != (wanted,):
        found.append(f"{where}, but edit {edit.number} made it {' and '.join(map(repr, edit.wish.targets))}")
    return found


def _settled(group: Sequence[Line[RawFact]], edit: Edit | None, mode: OnConflict) -> Wish | None:
    """The one edit that a group of rows asks for: its last row, or the mean of all; None where it is there already."""
    earlier: tuple[str, ...] = edit.wish.targets if edit is not None else ()
    replaces = (edit.number,) if edit is not None else ()
    if mode == "average":
        distinct: dict[str, str] = {}
        for target in (*earlier, *(line.raw.target_new for line in group)):
            distinct.setdefault(composed(target), target)
        every = [*distinct.values()]
        if every == [*earlier]:
            return None
        averaged = tuple(every) if len(every) > 1 else ()
        return Wish.of(group[0].raw).model_copy(update={"target": every[0], "averaged": averaged, "replaces": replaces})
    last = group[-1].raw
    if edit is not None and edit.wish.answers == (composed(last.target_new),):
        return None
    return Wish.of(last).model_copy(update={"replaces": replaces})

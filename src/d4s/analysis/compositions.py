"""Which parts a locate-then-edit editor is composed of, in words, so that a study of combinations can be read part by part.

The words are the labels of parts; parts that recorded settings do not name have their defaults.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from d4s.editors.editor_settings import parse_editor
from d4s.editors.least_squares_settings import LocateThenEdit, all_choices
from d4s.editors.parts.part import Choice
from d4s.editors.parts.part_families import History

PLAIN = "plain"
NAMED = (
    "preservation", "step_transform", "step_transform.feedback", "target.stop", "anchor", "target.hook", "target.at",
    "residual_schedule", "keys.mode", "neurons", "rounds",
)  # fmt: skip
"""Choices that have words, in their order: guards before targets before spreads."""


class Composition(NamedTuple):
    """The history of an editor, and labels of every other part in which it differs from MEMIT."""

    history: str
    parts: tuple[str, ...]

    @property
    def label(self) -> str:
        """The parts, joined to one label."""
        return " + ".join(self.parts) or PLAIN

    def differs_in(self, other: "Composition") -> int:
        """The number of parts that only one of the two has."""
        return len(set(self.parts) ^ set(other.parts))

    @property
    def sort_key(self) -> tuple[int, int, tuple[int, ...]]:
        """Sort key: by history, few parts before many, guards before targets before spreads."""
        words = part_labels()
        return [*History.kinds].index(self.history), len(self.parts), tuple(words.index(part) for part in self.parts)


def history_name(kind: str) -> str:
    """How a kind of history keeps earlier edits, in words."""
    return History.kinds[kind].label


def part_labels() -> list[str]:
    """The words of all parts."""
    return [*_labels(all_choices())]


def composition(settings: Mapping[str, Any]) -> Composition | None:
    """The parts of a least-squares editor; None for other families, exact solvers, and what is finished from the whole change."""
    if settings.get("family") != "locate_then_edit" or settings.get("solver") == "hard_constraint" or settings.get("delta_transform"):
        return None
    editor = parse_editor(settings)
    if not isinstance(editor, LocateThenEdit):
        return None
    own = (choice for choice in editor.choices() if choice.name != "target.at" or not editor.history.starts_at_original)
    return Composition(editor.history.kind, tuple(_labels(own)))


def _labels(choices: Iterator[Choice]) -> Iterator[str]:
    """Words of choices; targets of the original model have none where the history has no others."""
    worded = [choice for choice in choices if choice.label and choice.name in NAMED]
    yield from (choice.label for choice in sorted(worded, key=lambda choice: NAMED.index(choice.name)))

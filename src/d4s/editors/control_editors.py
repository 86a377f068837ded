"""Controls of an editor: the same editor with its whole change scrambled or rescaled, which tell a change's norm from its direction.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from d4s.editors.parts.part_families import DeltaTransform

Settings = Mapping[str, Any]


class EditorControl(NamedTuple):
    """An editor that differs from another one in its delta_transform alone; `factor` is the multiple of the change, 1 where scrambled."""

    editor: str
    base: str
    kind: str
    factor: float


def find_controls(editors: Mapping[str, Settings]) -> list[EditorControl]:
    """Controls among editors by name, each with the editor that has the same resolved settings and no delta_transform."""
    found = []
    for name, settings in editors.items():
        delta_transform = settings.get("delta_transform") or {}
        bases = [other for other, theirs in editors.items() if not theirs.get("delta_transform") and _rest(theirs) == _rest(settings)]
        if is_control(settings) and bases:
            found.append(EditorControl(name, bases[0], delta_transform["kind"], float(delta_transform.get("factor", 1.0))))
    return found


def is_control(settings: Settings) -> bool:
    """Whether an editor with these resolved settings changes what it has found out, rather than finding it out."""
    part = DeltaTransform.kinds.get((settings.get("delta_transform") or {}).get("kind", ""))
    return part is not None and issubclass(part, DeltaTransform) and part.is_control


def edited_as(name: str, editors: Mapping[str, Settings]) -> tuple[str, Settings]:
    """The name and the settings with which an editor edits: a control edits as the editor that it is a control of.

    Where `editors`, by name and resolved, hold no such one, the control's own name is kept.
    """
    settings = editors[name]
    if not is_control(settings):
        return name, settings
    plain = {**settings, "delta_transform": None}
    return next((other for other, theirs in editors.items() if theirs == plain), name), plain


def _rest(settings: Settings) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "delta_transform"}

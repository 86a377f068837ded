"""The parts of a locate-then-edit editor as labels, so that a study of combinations can be read part by part.

Parts that recorded settings do not name count as absent, so that results of earlier versions can be read.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Settings = Mapping[str, Any]
HISTORIES: Mapping[str, str] = {
    "none": "No history",
    "keys": "Earlier keys kept",
    "refit": "All edits refitted",
    "adaptive_refit": "Refit, growing weight",
}
PLAIN = "plain"
_TRANSFORM_LABELS = {"rect": "RECT", "sphere": "SPHERE", "simie": "SimIE"}
_HOOK_LABELS = {"mlp_and_attention": "joint target", "mlp_output": "MLP target"}
_SCHEDULE_LABELS = {"static": "static", "even": "even", "root": "root", "own": "own targets"}
PART_LABELS = (
    "ridge", "null space", "identity", *_TRANSFORM_LABELS.values(), "feedback", "top-1 stop", "anchor", "joint target", "MLP target",
    "first targets", *_SCHEDULE_LABELS.values(), "frozen keys", "refreshed keys", "chosen neurons", "rounds",
)  # fmt: skip


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
        """Sort key: by history, few parts before many, preservation before targets before residual schedules."""
        return [*HISTORIES].index(self.history), len(self.parts), tuple(PART_LABELS.index(part) for part in self.parts)


def composition(settings: Settings) -> Composition | None:
    """The parts of a least-squares editor; None for other families, solver `hard_constraint`, and editors with a delta transform."""
    if settings.get("family") != "locate_then_edit" or settings.get("solver") == "hard_constraint" or settings.get("delta_transform"):
        return None
    return Composition(settings["history"], tuple(_parts(settings)))


def _parts(settings: Settings) -> Iterator[str]:
    preservation, target, step_transform = settings["preservation"], settings["target"], settings.get("step_transform")
    if preservation["kind"] != "moments":
        yield {"null_space": "null space", "identity": "identity"}[preservation["kind"]]
    elif preservation.get("ridge"):
        yield "ridge"
    if step_transform:
        yield _TRANSFORM_LABELS[step_transform["kind"]]
        if step_transform.get("feedback"):
            yield "feedback"
    if target.get("stop_top1") is not None:
        yield "top-1 stop"
    if settings.get("anchor"):
        yield "anchor"
    if target.get("hook") in _HOOK_LABELS:
        yield _HOOK_LABELS[target["hook"]]
    if target["at"] == "original" and settings["history"] != "refit":  # a refit always uses targets at the original weights
        yield "first targets"
    if settings["residual_schedule"] in _SCHEDULE_LABELS:
        yield _SCHEDULE_LABELS[settings["residual_schedule"]]
    if settings["keys"]["mode"] != "progressive":
        yield f"{settings['keys']['mode']} keys"
    if settings.get("neurons", 1.0) < 1.0:
        yield "chosen neurons"
    if settings.get("rounds"):
        yield "rounds"

"""Which parts a locate-then-edit editor is put together from, in words, so that a study of combinations can be read part by part.

Parts that recorded settings do not name are taken as absent, so that results of earlier versions are read as well.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Settings = Mapping[str, Any]
HISTORIES: Mapping[str, str] = {
    "none": "No history",
    "keys": "Earlier keys kept",
    "rewind": "Edits solved anew",
    "queue": "Anew, growing weight",
}
PLAIN = "plain"
_AFTER = {"rect": "RECT", "sphere": "SPHERE", "simie": "SimIE"}
_HOOKS = {"mlp_and_attention": "joint target", "mlp_output": "MLP target"}
_SPREADS = {"static": "static", "even": "even", "root": "root", "own": "own targets"}
WORDS = (
    "ridge", "null space", "identity", *_AFTER.values(), "feedback", "top-1 stop", "anchor", "joint target", "MLP target",
    "first targets", *_SPREADS.values(), "frozen keys", "refreshed keys", "chosen neurons", "rounds",
)  # fmt: skip


class Composition(NamedTuple):
    """How earlier edits are kept, and words for every other part that is not MEMIT's."""

    history: str
    parts: tuple[str, ...]

    @property
    def label(self) -> str:
        """Its parts in words."""
        return " + ".join(self.parts) or PLAIN

    def differs_in(self, other: "Composition") -> int:
        """How many parts one of the two has and the other has not."""
        return len(set(self.parts) ^ set(other.parts))

    @property
    def place(self) -> tuple[int, int, tuple[int, ...]]:
        """Sort key: by history, few parts before many, guards before targets before spreads."""
        return [*HISTORIES].index(self.history), len(self.parts), tuple(WORDS.index(part) for part in self.parts)


def composition(settings: Settings) -> Composition | None:
    """The parts of a least-squares editor; None for other families, exact solvers, and what is finished from the whole change."""
    if settings.get("family") != "locate_then_edit" or settings.get("solver") == "hard_constraint" or settings.get("finish"):
        return None
    return Composition(settings["history"], tuple(_parts(settings)))


def _parts(settings: Settings) -> Iterator[str]:
    preserve, target, after = settings["preserve"], settings["target"], settings.get("after")
    if preserve["kind"] != "moments":
        yield {"null_space": "null space", "identity": "identity"}[preserve["kind"]]
    elif preserve.get("ridge"):
        yield "ridge"
    if after:
        yield _AFTER[after["kind"]]
        if after.get("feedback"):
            yield "feedback"
    if target.get("stop_top1") is not None:
        yield "top-1 stop"
    if settings.get("anchor"):
        yield "anchor"
    if target.get("hook") in _HOOKS:
        yield _HOOKS[target["hook"]]
    if target["at"] == "original" and settings["history"] != "rewind":  # a rewind has no others
        yield "first targets"
    if settings["spread"] in _SPREADS:
        yield _SPREADS[settings["spread"]]
    if settings["keys"]["mode"] != "progressive":
        yield f"{settings['keys']['mode']} keys"
    if settings.get("neurons", 1.0) < 1.0:
        yield "chosen neurons"
    if settings.get("rounds"):
        yield "rounds"

"""Published scores of methods beside ours: the same method on the same data set, under protocols that differ and are named."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from d4s.analysis.display_names import dataset_name
from d4s.analysis.intervals import IntervalEstimate
from d4s.analysis.leaderboard import Leaderboard, Place

KINDS = ("efficacy", "paraphrase", "locality")
OURS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "forced": {kind: (f"{kind}_accuracy",) for kind in KINDS},
    "free": {kind: (f"{kind}_judged", f"{kind}_wild_exact") for kind in ("efficacy", "paraphrase")},
}
"""Our scores that are read like published ones, by reading and kind of prompt; the first that was measured."""


@dataclass(frozen=True, slots=True)
class PublishedScores:
    """Scores of one method, model, data set and reading as a source has them, by kind of prompt, with its protocol and a note."""

    source: str
    title: str
    address: str
    read: str
    regime: str
    n: str
    model: str
    preset: str
    dataset: str
    reading: str
    decoding: str
    match: str
    scores: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Beside:
    """Published scores, and ours of the same method on the same data set, by kind of prompt."""

    published: PublishedScores
    place: Place
    match: str
    ours: Mapping[str, IntervalEstimate]


@cache
def published_scores() -> tuple[PublishedScores, ...]:
    """Every published cell of the file."""
    blocks = yaml.safe_load((files("d4s.analysis") / "published.yaml").read_text(encoding="utf-8"))
    return tuple(one for block in blocks for one in _of_block(block))


def _of_block(block: Mapping[str, Any]) -> Iterator[PublishedScores]:
    origin = {name: block[name] for name in ("source", "title", "address", "read", "regime", "n")}
    for model, presets in block["cells"].items():
        for preset, datasets in presets.items():
            for dataset, cells in datasets.items():
                for number, reading in enumerate(block["readings"]):
                    own = {"reading": reading["name"], "decoding": reading["decoding"], "match": reading["match"]}
                    scores = {kind: values[number] for kind, values in cells.items()}
                    note = block["notes"].get(preset, "") if reading["name"] == "free" else ""
                    yield PublishedScores(**origin, **own, model=model, preset=preset, dataset=dataset, scores=scores, note=note)


def beside_ours(board: Leaderboard) -> list[Beside]:
    """Published scores that have ours beside them: of a study's editors and data sets, after the longest sequence."""
    found = []
    for panel in board.results.panels:
        place = board.final(panel)
        ours = {row.editor: row.values for row in board.rows(place)}
        for one in published_scores():
            if one.preset in ours and one.dataset == dataset_name(panel.dataset):
                found += _beside(one, place, ours[one.preset])
    return found


def _beside(one: PublishedScores, place: Place, values: Mapping[str, IntervalEstimate]) -> Iterator[Beside]:
    names = {kind: next((name for name in among if name in values), None) for kind, among in OURS[one.reading].items()}
    ours = {kind: values[name] for kind, name in names.items() if name is not None and kind in one.scores}
    if ours:
        is_judged = any(str(name).endswith("_judged") for name in names.values())
        match = "share of tokens" if one.reading == "forced" else "verdict of a judge" if is_judged else "exact match of the whole answer"
        yield Beside(one, place, match, ours)

"""Write the tables of docs/scaling.md from the costs in a store; the text around them is written by hand.

python -m tools.scaling_page results/store
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from d4s.analysis.costs import cost_rows
from tools.performance_page import insert_between

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "scaling.md"
BEGIN, END = "<!-- computed: begin, written by `python -m tools.scaling_page` -->", "<!-- computed: end -->"
SHARDS = (1, 2, 4, 8)
NODES = (1, 2, 4, 8, 16, 32)
AFTER = {"runs": "edit", "measures": "measure", "benchmarks": "benchmark"}  # what follows the targets of a sequence, in order


@dataclass(frozen=True)
class StoredArtifact:
    """An artefact of a store: what it was made from, in how many parts, and what the calls cost that made it."""

    kind: str
    name: str
    digest: str
    inputs: frozenset[str]
    parts: int
    calls: tuple[Mapping[str, Any], ...]

    @property
    def cpu(self) -> float:
        """CPU seconds of all calls."""
        return sum(call["cpu_s"] for call in self.calls)

    @property
    def start(self) -> float:
        """Seconds that a call takes before its work begins, and that a second shard would take again."""
        return min(min(call["startup_s"], call["cpu_s"]) for call in self.calls)

    def sharded(self, count: int) -> float:
        """Seconds until the last of a number of shards is done: each starts an interpreter and takes its whole parts.

        A single call is what was measured; only what follows its start is divided.
        """
        count = min(count, self.parts)
        largest = -(-self.parts // count)
        return self.start + (self.cpu - self.start) * largest / self.parts


@dataclass(frozen=True)
class Store:
    """Artefacts by digest, of those whose costs are known."""

    made: Mapping[str, StoredArtifact]

    def of(self, kind: str) -> list[StoredArtifact]:
        """Artefacts of a kind, by name."""
        return sorted((made for made in self.made.values() if made.kind == kind), key=lambda made: made.name)

    @cached_property
    def total(self) -> float:
        """CPU seconds of everything."""
        return sum(made.cpu for made in self.made.values())

    @cached_property
    def longest_chain(self) -> list[StoredArtifact]:
        """The costliest chain of artefacts of which each needs the one before."""
        chains: dict[str, list[StoredArtifact]] = {}

        def cost(chain: Sequence[StoredArtifact]) -> float:
            return sum(made.cpu for made in chain)

        def ending(digest: str) -> list[StoredArtifact]:
            if digest not in chains:
                made = self.made[digest]
                before = [ending(each) for each in sorted(made.inputs) if each in self.made]
                chains[digest] = [*max(before, key=cost, default=[]), made]
            return chains[digest]

        return max((ending(digest) for digest in sorted(self.made)), key=cost)


def main() -> None:
    """Replace what stands between the markers."""
    parser = argparse.ArgumentParser(description="Write the tables of docs/scaling.md.")
    parser.add_argument("store", type=Path, help="a store whose artefacts were each made by one call, without shards")
    try:
        text = tables(read(parser.parse_args().store))
        PAGE.write_text(insert_between(PAGE.read_text(encoding="utf-8"), text, BEGIN, END), encoding="utf-8")
    except ValueError as error:
        sys.exit(str(error))


def read(store: Path) -> Store:
    """What a store holds.

    Raises:
        ValueError: if it holds no costs.
    """
    made = {each.digest: each for folder in sorted(store.glob("*/*/")) for each in _made(folder)}
    if not made:
        raise ValueError(f"{store} holds no artefacts with costs; name the store of a finished study")
    return Store(made)


def _made(folder: Path) -> Iterator[StoredArtifact]:
    manifests = sorted(folder.glob("*.json"))
    calls = tuple(cost_rows(folder))
    described = [content for path in manifests if "digest" in (content := json.loads(path.read_text(encoding="utf-8")))]
    if calls and described:
        inputs = frozenset(described[0]["inputs"].values())
        yield StoredArtifact(
            folder.parent.name, described[0]["name"].rpartition("-")[0], described[0]["digest"], inputs, len(described), calls
        )


def tables(store: Store) -> str:
    """The tables of the page."""
    return "\n".join([_stages(store), _targets(store), _sequences(store), _studies(store)])


def _table(title: str, head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(map(str, row))} |\n" for row in (head, ["---"] * len(head), *rows)]
    return f"## {title}\n\n{''.join(lines)}"


def _stages(store: Store) -> str:
    rows: dict[str, tuple[int, float, float]] = {}
    for made in store.made.values():
        for call in made.calls:
            calls, cpu, start = rows.get(call["stage"], (0, 0.0, 0.0))
            rows[call["stage"]] = calls + 1, cpu + call["cpu_s"], start + min(call["startup_s"], call["cpu_s"])
    ordered = sorted(rows.items(), key=lambda item: -item[1][1])
    lines = [(f"`{stage}`", calls, f"{cpu:.0f}", f"{start:.0f}", f"{cpu / store.total:.0%}") for stage, (calls, cpu, start) in ordered]
    return _table("What was measured", ("stage", "calls", "CPU seconds", "of these before the work began", "share"), lines)


def _targets(store: Store) -> str:
    rows = [
        (f"`{made.name}`", made.parts, f"{made.cpu:.1f}", *(f"{made.sharded(1) / made.sharded(count):.2f} ×" for count in SHARDS[1:]))
        for made in store.of("targets")
    ]
    return _table("Targets in shards", ("targets", "blocks", "CPU seconds", *(f"{count} shards" for count in SHARDS[1:])), rows)


def _sequences(store: Store) -> str:
    rows = []
    for run in store.of("runs"):
        shared = [store.made[digest] for digest in run.inputs if digest in store.made and store.made[digest].kind == "targets"]
        if shared:
            rows.append(_sequence(store, run, shared[0]))
    head = ("sequence", "targets", *AFTER.values(), *(f"{count} shards" for count in SHARDS[1:]))
    return _table("One sequence of edits, from its targets to its scores", head, rows)


def _sequence(store: Store, run: StoredArtifact, targets: StoredArtifact) -> list[str]:
    """A row: what each stage takes, and how many times faster the last one is done. Measures and benchmarks run side by side."""
    stages = {"runs": run.cpu} | {
        kind: sum(made.cpu for made in store.of(kind) if run.digest in made.inputs) for kind in AFTER if kind != "runs"
    }
    rest = stages["runs"] + max(stages["measures"], stages["benchmarks"])
    speed = [(targets.sharded(1) + rest) / (targets.sharded(count) + rest) for count in SHARDS[1:]]
    seconds = [targets.cpu, *(stages[kind] for kind in AFTER)]
    return [f"`{run.name}`", *(f"{value:.1f}" for value in seconds), *(f"{value:.2f} ×" for value in speed)]


def _studies(store: Store) -> str:
    chain = store.longest_chain
    floor = sum(made.cpu for made in chain)
    rows = [(count, f"{max(floor, store.total / count):.0f}", f"{store.total / max(floor, store.total / count):.1f} ×") for count in NODES]
    chain_text = " → ".join(f"`{made.kind}` {made.cpu:.0f}" for made in chain)
    table = _table("The whole study", ("jobs at a time", "seconds at the least", "speed-up at the most"), rows)
    return f"{table}\nThe costliest chain, in CPU seconds: {chain_text}; {floor:.0f} of {store.total:.0f}. No number of nodes takes less.\n"


if __name__ == "__main__":
    main()

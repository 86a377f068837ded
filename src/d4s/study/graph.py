"""Artefacts to be made, as a graph: each node knows its settings, inputs and code, hence its hashed folder."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Union

from d4s.artifacts import MANIFEST, digest_of
from d4s.digests import cached_sha256
from d4s.end_markers import DONE, marker_name
from d4s.settings_base import canonical
from d4s.study.stages import STAGES

STORE = Path("results/store")


@dataclass(frozen=True)
class RawFile:
    """A file that comes from outside the pipeline; its content is its digest."""

    path: Path

    @cached_property
    def digest(self) -> str:
        """Sha256 of the content."""
        return cached_sha256(self.path)

    @property
    def marker(self) -> Path:
        """What a rule depends on."""
        return self.path


@dataclass(frozen=True)
class Node:
    """One artefact: the stage that makes it, settings as plain values, inputs by role, and the manifests wanted of it.

    `outputs` enters no digest: lengths, layers and blocks only arrive as outputs. Nor does `unhashed_settings`: settings in the form
    in which the job gets them, where that says more than changes the artefact, such as which server to ask.
    """

    stage: str
    kind: str
    label: str
    settings: Mapping[str, Any]
    code: str
    inputs: Mapping[str, Union["Node", RawFile]] = field(default_factory=dict)
    outputs: tuple[str, ...] = (MANIFEST,)
    unhashed_settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """Hash of everything that makes the artefact."""
        return digest_of(self.kind, self.settings, {role: node.digest for role, node in self.inputs.items()}, self.code)

    @property
    def name(self) -> str:
        """Folder name: readable, ending in the digest."""
        return f"{self.label}-{self.digest}"

    @property
    def folder(self) -> Path:
        """Folder in the store."""
        return STORE / self.kind / self.name

    @property
    def manifests(self) -> list[Path]:
        """The manifests wanted of it, one for each part."""
        return [self.folder / name for name in self.outputs]

    @property
    def marker(self) -> Path:
        """The one file that its rule declares: its manifest, or of an artefact in parts the end marker of those that are wanted."""
        return self.folder / (MANIFEST if STAGES[self.stage].part is None else f"{DONE}/{marker_name(self.outputs)}")

    def shards(self, count: int) -> list[list[Path]]:
        """The manifests, by number, distributed over a number of jobs or, where there are fewer manifests, one per job.

        Neighbours stay together, no job goes without, and no job has two more than another.
        """
        paths = sorted(self.manifests, key=_part_number)
        count = min(count, len(paths))
        return [paths[start:stop] for start, stop in pairwise(len(paths) * job // count for job in range(count + 1))]

    @property
    def settings_text(self) -> str:
        """Settings as canonical JSON, as handed to the job."""
        return canonical({**self.settings, **self.unhashed_settings})

    @property
    def call(self) -> dict[str, Any]:
        """What a job is given that makes this artefact beside its own: its stage, parts, settings, input folders and files, and code."""
        places = {role: str(node.folder if isinstance(node, Node) else node.path) for role, node in self.inputs.items()}
        return {"stage": self.stage, "output": str(self.marker), "settings": self.settings_text, "inputs": places, "code": self.code}

    def upstream(self) -> Iterator["Node"]:
        """All nodes that it depends on, nearest last, repeats included."""
        for node in self.inputs.values():
            if isinstance(node, Node):
                yield from node.upstream()
                yield node


def _part_number(manifest: Path) -> int:
    """The number in a manifest's name, of a block, a layer or a length; 0 for the manifest of a whole artefact."""
    return int("".join(filter(str.isdigit, manifest.stem)) or 0)


def merge_nodes(nodes: list[Node]) -> list[Node]:
    """Nodes with equal folders made one, wanting everything that any of them wants."""
    outputs: dict[Path, dict[str, None]] = {}
    first: dict[Path, Node] = {}
    for node in nodes:
        first.setdefault(node.folder, node)
        outputs.setdefault(node.folder, {}).update(dict.fromkeys(node.outputs))
    return [replace(node, outputs=tuple(outputs[folder])) for folder, node in first.items()]

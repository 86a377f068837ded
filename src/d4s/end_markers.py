"""End markers: what a job that makes an artefact in parts declares to the workflow, written last and atomically.

Parts are layers, blocks of requests or lengths, each with a manifest of its own in the artefact's folder: `l3.json`, `b0.json`,
`n300.json`. The marker of a job lies in a folder beside them and is named for the parts that it stands for, `done/10-50-300.json`; four
or more numbers in equal steps are shortened, `0to6-whole` or `100to1000by100`. Snakemake knows, and deletes, markers alone, so parts stay.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from d4s.artifacts import MANIFEST, StageJob, is_artifact, write_json
from d4s.errors import ArtifactError, SettingsError

DONE, SHARDS = "done", "shards"  # folders of markers: of whole jobs, and of those that share an artefact's parts
MIN_RUN, MAX_NAME = 4, 200  # numbers in equal steps that are shortened; characters that every file system takes
TERM = re.compile(r"(?P<first>\d+)(?:to(?P<last>\d+)(?:by(?P<step>\d+))?)?")
PART_NAME = re.compile(r"(?P<letter>[a-z])(?P<number>\d+)|(?P<word>[a-z]+)")


def marker_name(outputs: Sequence[str]) -> str:
    """The name of the marker that stands for parts, given by their manifests.

    Raises:
        SettingsError: if a file name cannot hold all numbers, which takes many in unequal steps.
    """
    parts = [match for name in outputs if (match := PART_NAME.fullmatch(name.removesuffix(".json")))]
    numbers = sorted(int(match["number"]) for match in parts if match["number"])
    name = "-".join([*_terms(numbers), *(match["word"] for match in parts if match["word"])])
    if len(name) > MAX_NAME:
        raise SettingsError(f"{len(numbers)} lengths or layers in unequal steps are too many ({name[:40]}…); choose fewer, or equal steps")
    return f"{name}.json"


def _terms(numbers: Sequence[int]) -> Iterator[str]:
    start = 0
    while start < len(numbers):
        step = numbers[start + 1] - numbers[start] if start + 1 < len(numbers) else 0
        stop = start + 1
        while stop < len(numbers) and numbers[stop] - numbers[stop - 1] == step:
            stop += 1
        if stop - start < MIN_RUN:
            yield str(numbers[start])
            start += 1
        else:
            yield f"{numbers[start]}to{numbers[stop - 1]}{f'by{step}' if step > 1 else ''}"
            start = stop


def outputs_of_marker(name: str, letter: str) -> tuple[str, ...]:
    """The manifests of the parts that a marker stands for; `letter` begins those that are numbered.

    Raises:
        SettingsError: if no parts are named so.
    """
    found: list[str] = []
    for term in name.removesuffix(".json").split("-"):
        if match := TERM.fullmatch(term):
            first = int(match["first"])
            found += [f"{letter}{number}.json" for number in range(first, int(match["last"] or first) + 1, int(match["step"] or 1))]
        elif term.isalpha():
            found.append(f"{term}.json")
        else:
            raise SettingsError(f"{name!r} names no parts; expected numbers such as 10-50-300.json or 0to6.json")
    return tuple(found)


def is_marker(path: Path) -> bool:
    """Whether a path is that of a marker."""
    return path.parent.name in (DONE, SHARDS) and path.suffix == ".json"


def write_marker(job: StageJob[Any], path: Path) -> None:
    """Say that a job has made its parts: which they are, and the digest of the artefact.

    Raises:
        ArtifactError: if a manifest of a part is not there.
    """
    if missing := [name for name in job.outputs if not job.path(name).is_file()]:
        raise ArtifactError(f"{job.folder} lacks {', '.join(missing)} after its job; run the same command again")
    write_json(path, {"kind": job.kind, "name": job.folder.name, "digest": job.digest, "parts": list(job.outputs)})


def read_marker(path: Path) -> Mapping[str, Any] | None:
    """What a marker says; None where the path is none of one."""
    if not (is_marker(path) and path.is_file()):
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return content if isinstance(content, dict) and content.keys() == {"kind", "name", "digest", "parts"} else None


def artifact_of(path: Path) -> Path:
    """The folder of the artefact that a marker or a manifest stands for; any other path as it is."""
    if read_marker(path):
        return path.parent.parent
    return path.parent if path.name == MANIFEST and is_artifact(path.parent) else path

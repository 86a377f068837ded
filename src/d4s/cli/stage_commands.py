"""The stages that make artefacts.

Each takes what to make, what it is made from as `ROLE=PATH`, and its settings as JSON (text, or a file); the workflow calls it in
exactly this form, and so may a person. Whether anything is missing is looked up before torch, transformers or pandas are imported.
"""

import ctypes
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import psutil
import typer

from d4s.artifacts import MANIFEST, StageJob, digest_of
from d4s.cli.app import STAGE_PANEL, Verbose, command, limit_threads, parse_mapping, read_manifest
from d4s.digests import cached_sha256
from d4s.end_markers import DONE, artifact_of, is_marker, outputs_of_marker, read_marker, write_marker
from d4s.errors import SettingsError
from d4s.log import progress_notes, setup_logging
from d4s.settings_base import validate
from d4s.study.code_digests import SOURCE_VARIABLE, code_digest, refuse_other_source
from d4s.study.graph import STORE
from d4s.study.stages import ENTRIES, SETTINGS, STAGES, Stage

log = logging.getLogger(__name__)

OutputArgument = Annotated[
    Path, typer.Argument(help="What to make: FOLDER/manifest.json, or of a stage in parts FOLDER/done/PARTS.json, such as done/10-50.json.")
]
InputsArgument = Annotated[
    list[str] | None,
    typer.Argument(help="What it is made from, as ROLE=PATH: a file, or the folder, manifest or end marker of an artefact."),
]
SettingsOption = Annotated[str, typer.Option(help="Settings as JSON text, or a YAML or JSON file; omitted keys take their defaults.")]
CodeOption = Annotated[str, typer.Option(help="Code digest to record; computed when omitted.")]
AheadOption = Annotated[
    str, typer.Option(help="What to make next in the same process, as a JSON list of calls: stage, output, settings, inputs, code.")
]

OBJECTS_BETWEEN_COLLECTIONS = 200_000  # imports make millions that stay; searching them for cycles took a sixth of a job's start
PROC_STATUS, CLEAR_REFS, RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs"), "5"


class StageCall(NamedTuple):
    """What a command line asks for: a stage, the file to be made, settings, inputs by role, and code."""

    stage: str
    output: Path
    settings: str
    inputs: Mapping[str, Path]
    code: str


class _Inputs(dict[str, Path]):
    """Inputs by role; one that a stage asks for and was not given is named."""

    def __init__(self, stage: str, paths: dict[str, Path]) -> None:
        super().__init__(paths)
        self._stage = stage

    def __missing__(self, role: str) -> Path:
        raise SettingsError(f"{self._stage} needs an input with the role {role!r}: {role}=FOLDER_OR_FILE")


def parse_inputs(pairs: Sequence[str]) -> dict[str, Path]:
    """Inputs by role from `ROLE=PATH`.

    Raises:
        SettingsError: naming every pair that is none, or comes twice.
    """
    found: dict[str, Path] = {}
    for pair in pairs:
        role, equals, path = pair.partition("=")
        if not (role and equals and path) or role in found:
            raise SettingsError(f"inputs are given as ROLE=PATH, each role once; found {pair!r}")
        found[role] = Path(path)
    return found


def _parse_ahead(text: str) -> list[StageCall]:
    """The calls that are made next, from a JSON list.

    Raises:
        SettingsError: if it is none.
    """
    try:
        return [
            StageCall(
                call["stage"],
                Path(call["output"]),
                call["settings"],
                {role: Path(path) for role, path in call["inputs"].items()},
                call["code"],
            )
            for call in json.loads(text)
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SettingsError(f"--ahead takes a JSON list of calls with stage, output, settings, inputs and code: {error!r}") from None


def _input_digest(path: Path) -> str:
    """Digest of an input: what its marker or manifest says, or else that of its content.

    Raises:
        SettingsError: if it is neither a file nor a finished artefact.
        ArtifactError: if a manifest is truncated.
    """
    if marked := read_marker(path):
        return str(marked["digest"])
    place = artifact_of(path)
    if place.is_file():
        return cached_sha256(place)
    names = sorted(place.glob("*.json")) if not (place / MANIFEST).is_file() else [place / MANIFEST]
    for name in names:
        if content := read_manifest(name):
            return str(content["digest"])
    raise SettingsError(f"input {path} is neither a file nor a finished artefact")


def _parse_output(name: str, output: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder of an artefact and the manifests of the parts that are wanted of it.

    Raises:
        SettingsError: if the stage makes no such file.
    """
    letter = STAGES[name].part
    if letter is None and output.name == MANIFEST:
        return output.parent, (MANIFEST,)
    if letter is not None and is_marker(output):
        return output.parent.parent, outputs_of_marker(output.name, letter)
    expected = MANIFEST if letter is None else f"{DONE}/PARTS.json, such as {DONE}/{'10-50' if letter else 'manifest'}.json"
    raise SettingsError(f"{name} makes FOLDER/{expected}; found {output}")


def _parse_job(call: StageCall) -> StageJob[Any]:
    """The job that a call describes.

    Raises:
        SettingsError: if settings or inputs are wrong, or the folder is named for another job.
    """
    stage = STAGES[call.stage]
    folder, outputs = _parse_output(call.stage, call.output)
    validated = validate(SETTINGS.load(call.stage), parse_mapping(call.settings, "--settings"), f"settings of {call.stage!r}")
    digests = {role: _input_digest(path) for role, path in call.inputs.items()}
    paths = _Inputs(call.stage, {role: artifact_of(path) for role, path in call.inputs.items()})
    code = call.code or code_digest(stage.module)
    digest = digest_of(stage.kind, validated.model_dump(mode="json"), digests, code)
    if folder.parent.parent == STORE and folder.name.rpartition("-")[2] != digest:
        raise SettingsError(f"{folder} is named for other settings, inputs or code than were given (these make {digest})")
    return StageJob(stage.kind, validated, paths, folder, outputs, code, digest, digests)


class ProcessTimes(NamedTuple):
    """Seconds since the epoch, and processor seconds of this process."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> "ProcessTimes":
        """At this moment."""
        times = psutil.Process().cpu_times()
        return cls(time.time(), times.user + times.system)

    @classmethod
    def at_start(cls) -> "ProcessTimes":
        """When the process began."""
        return cls(psutil.Process().create_time(), 0.0)


def _record_costs(job: StageJob[Any], stage: str, before: ProcessTimes, entered: float) -> None:
    """Append what a stage cost since the one before it, or since the process began, to the artefact's ledger of costs."""
    after = ProcessTimes.now()
    costs = {
        "stage": stage,
        "wall_s": round(after.wall - before.wall, 2),
        "cpu_s": round(after.cpu - before.cpu, 2),
        "startup_s": round(entered - before.wall, 2),
        "peak_rss_mb": round(_peak_rss_mb(), 1),
        **job.usage,
    }
    with (job.folder / "costs.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(costs) + "\n")


def _peak_rss_mb() -> float:
    """Most memory that was resident since `_reset_peak` where the system keeps that, else since the process began."""
    import resource

    if PROC_STATUS.is_file():
        (peak,) = (line.split()[1] for line in PROC_STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _reset_peak() -> None:
    """Give freed memory back and begin the peak again, so that a stage is not charged for the one before it, where the system can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        CLEAR_REFS.write_text(RESET_PEAK)


def run_stage(call: StageCall, ahead: str = "[]", *, verbose: bool = False) -> None:
    """Make the artefact that a call describes, then what is asked for ahead; an end marker, where it has one, comes last of all.

    What is made ahead has a job of its own, which says what is wrong where it fails here.
    """
    _set_up(verbose)
    job, following = _parse_job(call), _parse_ahead(ahead)
    before, input_cache = _make_missing(call.stage, job, ProcessTimes.at_start()), job.input_cache
    for one in following:
        try:
            before = _make_missing(one.stage, replace(_parse_job(one), input_cache=input_cache), before)
        except Exception as error:
            log.warning("%s of %s was not made ahead and is left to its own job: %s", one.stage, one.output, error)
            before = ProcessTimes.now()
    if is_marker(call.output):
        write_marker(job, call.output)


def _set_up(verbose: bool) -> None:
    """Set up logging, threads and garbage collection; refuse another package than the workflow's, where the workflow names one."""
    setup_logging(verbose)
    limit_threads()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    if expected := os.environ.get(SOURCE_VARIABLE):
        refuse_other_source(expected)


def _make_missing(name: str, job: StageJob[Any], before: ProcessTimes) -> ProcessTimes:
    """Make what is missing of an artefact, telling how far it is where that is asked for; when the next stage begins."""
    if STAGES[name].part is not None and not any(job.missing_parts()):
        log.info("%s: everything is there", job.folder)
        return before
    job.folder.mkdir(parents=True, exist_ok=True)
    with progress_notes(job.path(job.outputs[0])):
        _run_and_record(name, job, before)
    _reset_peak()
    return ProcessTimes.now()


def _run_and_record(name: str, job: StageJob[Any], before: ProcessTimes) -> None:
    """Make an artefact and note what it cost; of a job that fails, only if it paid for answers."""
    run = ENTRIES.load(name)
    entered = time.time()
    try:
        run(job)
    except BaseException:  # whatever ends it: what was paid is paid
        if job.usage.total():
            _record_costs(job, name, before, entered)
        raise
    _record_costs(job, name, before, entered)


def _add(name: str, stage: Stage) -> None:
    keys = ", ".join(SETTINGS.load(name).model_fields) if not stage.settings.startswith("d4s.editors") else "see docs/settings.md"
    help_text = f"{stage.help}\n\nSettings: {keys or 'none'}. Makes an artefact of kind {stage.kind!r}."

    @command(name=name, rich_help_panel=STAGE_PANEL, help=help_text)
    def make(
        output: OutputArgument,
        inputs: InputsArgument = None,
        *,
        settings: SettingsOption = "{}",
        code: CodeOption = "",
        ahead: AheadOption = "[]",
        verbose: Verbose = False,
    ) -> None:
        run_stage(StageCall(name, output, settings, parse_inputs(inputs or ()), code), ahead, verbose=verbose)


for _name, _stage in STAGES.items():
    if _name != "questions":  # which has options of its own, in d4s.cli.question_commands
        _add(_name, _stage)

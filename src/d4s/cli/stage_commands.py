"""The stages that make artefacts.

Each takes its settings and inputs as JSON (text, or a file) and the manifests to make; the workflow calls it in exactly
this form, and so may a person.
"""

import gc
import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import psutil
import typer

from d4s.artifacts import StageJob, digest_of
from d4s.cli.app import STAGE_PANEL, Verbose, command, limit_threads, parse_mapping, read_manifest
from d4s.config import validate
from d4s.digests import cached_sha256
from d4s.errors import SettingsError
from d4s.log import progress_notes, setup_logging
from d4s.study.code_digests import SOURCE_VARIABLE, code_digest, refuse_other_source
from d4s.study.graph import STORE
from d4s.study.stages import ENTRIES, SETTINGS, STAGES, Stage

SettingsOption = Annotated[str, typer.Option(help="Settings as JSON text, or a YAML or JSON file; omitted keys take their defaults.")]
InputsOption = Annotated[str, typer.Option(help='Input folders and files by role, as JSON: {"model": "results/store/models/..."}.')]
CodeOption = Annotated[str, typer.Option(help="Code digest to record; computed when omitted.")]
Outputs = Annotated[list[Path], typer.Argument(help="Manifests to make, all in the artefact's folder.")]


OBJECTS_BETWEEN_COLLECTIONS = 200_000  # imports make millions that stay; searching them for cycles took a sixth of a job's start
PROC_STATUS, CLEAR_REFS, RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs"), "5"


class _Inputs(dict[str, Path]):
    """Inputs by role; one that a stage asks for and was not given is named."""

    def __init__(self, stage: str, paths: dict[str, Path]) -> None:
        super().__init__(paths)
        self._stage = stage

    def __missing__(self, role: str) -> Path:
        raise SettingsError(f"{self._stage} needs an input with the role {role!r}: --inputs '{{\"{role}\": FOLDER_OR_FILE}}'")


def _input_digest(path: Path) -> str:
    """Digest of an input: its manifest's, or else its content's.

    Raises:
        SettingsError: if it is neither a file nor a finished artefact.
        ArtifactError: if a manifest is truncated.
    """
    if path.is_file():
        return cached_sha256(path)
    names = sorted(path.glob("*.json")) if not (path / "manifest.json").is_file() else [path / "manifest.json"]
    for name in names:
        if content := read_manifest(name):
            return str(content["digest"])
    raise SettingsError(f"input {path} is neither a file nor a finished artefact")


def _parse_job(name: str, settings: str, inputs: str, code: str, outputs: list[Path]) -> StageJob[Any]:
    """The job that a command line describes.

    Raises:
        SettingsError: if settings or inputs are wrong, or the folder is named for another job.
    """
    stage = STAGES[name]
    folders = {output.parent for output in outputs}
    if len(folders) != 1:
        raise SettingsError(f"outputs of one call belong to one folder, found {sorted(map(str, folders))}")
    folder = folders.pop()
    validated = validate(SETTINGS.load(name), parse_mapping(settings, "--settings"), f"settings of {name!r}")
    input_paths = parse_mapping(inputs, "--inputs")
    if pathless := {role: path for role, path in input_paths.items() if not isinstance(path, str)}:
        raise SettingsError(f"--inputs takes one folder or file for each role, found {pathless}")
    paths = _Inputs(name, {role: Path(path) for role, path in input_paths.items()})
    digests = {role: _input_digest(path) for role, path in paths.items()}
    code = code or code_digest(stage.module)
    settings_content: dict[str, Any] = validated.model_dump(mode="json")
    digest = digest_of(stage.kind, settings_content, digests, code)
    named_digest = folder.name.rpartition("-")[2]
    if folder.parent.parent == STORE and named_digest != digest:
        raise SettingsError(f"{folder} is named for other settings, inputs or code than were given (these make {digest})")
    return StageJob(stage.kind, validated, paths, folder, tuple(output.name for output in outputs), code, digest, digests)


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
    """Begin the peak again, so that a stage is not charged for the one before it, where the system allows that."""
    with suppress(OSError):
        CLEAR_REFS.write_text(RESET_PEAK)


def run_stage(name: str, outputs: list[Path], *, settings: str, inputs: str, code: str, verbose: bool) -> None:
    """Make the artefact that a command line describes."""
    _set_up(verbose)
    _make_artifact(name, _parse_job(name, settings, inputs, code, outputs), ProcessTimes.at_start())


def _set_up(verbose: bool) -> None:
    """Set up logging, threads and garbage collection; refuse another package than the workflow's, where the workflow names one."""
    setup_logging(verbose)
    limit_threads()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    if expected := os.environ.get(SOURCE_VARIABLE):
        refuse_other_source(expected)


def _make_artifact(name: str, job: StageJob[Any], before: ProcessTimes) -> None:
    """Make an artefact, telling how far it is where that is asked for."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with progress_notes(job.path(job.outputs[0])):
        _run_and_record(name, job, before)


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


@command(rich_help_panel=STAGE_PANEL)
def stages(
    outputs: Outputs,
    calls: Annotated[str, typer.Option(help="By folder, in order, as JSON: the stage that makes it, its settings, inputs and code.")],
    verbose: Verbose = False,
) -> None:
    """Make several artefacts one after another in one process: what one stage has loaded, the next need not load again."""
    _set_up(verbose)
    before, input_cache = ProcessTimes.at_start(), {}
    for folder, call in parse_mapping(calls, "--calls").items():
        wanted = [output for output in outputs if output.parent == Path(folder)]
        job = _parse_job(call["stage"], json.dumps(call["settings"]), json.dumps(call["inputs"]), call["code"], wanted)
        _make_artifact(call["stage"], replace(job, input_cache=input_cache), before)
        before = ProcessTimes.now()
        _reset_peak()


def _add(name: str, stage: Stage) -> None:
    keys = ", ".join(SETTINGS.load(name).model_fields) if stage.settings.startswith("d4s.config") else "see docs/settings.md"
    help_text = f"{stage.help}\n\nSettings: {keys or 'none'}. Makes an artefact of kind {stage.kind!r}."

    @command(name=name, rich_help_panel=STAGE_PANEL, help=help_text)
    def make(
        outputs: Outputs, settings: SettingsOption = "{}", inputs: InputsOption = "{}", code: CodeOption = "", verbose: Verbose = False
    ) -> None:
        run_stage(name, outputs, settings=settings, inputs=inputs, code=code, verbose=verbose)


for _name, _stage in STAGES.items():
    if _name != "questions":  # which has options of its own, in d4s.cli.question_commands
        _add(_name, _stage)

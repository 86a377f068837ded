"""The command line: one subcommand per rule of the workflow, and the verbs that people use. No science here.

Every verb that makes an artefact takes its settings and inputs as JSON (text, or a file) and the manifests to make; the
workflow calls it in exactly this form, and so may a person.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
import yaml

from d4s import __version__
from d4s.artifacts import Artifact, Job, digest_of, sha256_of
from d4s.config import Study, canonical, load_study, validate
from d4s.errors import D4SError, SettingsError
from d4s.log import setup_logging
from d4s.studies.codes import code_digest
from d4s.studies.graph import STORE
from d4s.studies.verbs import ENTRIES, SETTINGS, VERBS, Verb

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Why language models get worse as facts are edited into them, and what stops that.",
)

SettingsOption = Annotated[str, typer.Option(help="Settings as JSON text, or a YAML or JSON file; omitted keys take their defaults.")]
InputsOption = Annotated[str, typer.Option(help='Input folders and files by role, as JSON: {"model": "results/store/models/..."}.')]
CodeOption = Annotated[str, typer.Option(help="Code digest to record; computed when omitted.")]
Outputs = Annotated[list[Path], typer.Argument(help="Manifests to make, all in the artefact's folder.")]
StudyOption = Annotated[str, typer.Option("--study", help="The study as JSON text, or its YAML file.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log every step.")]


def _parsed(text: str) -> Any:
    """JSON text, or the content of a YAML or JSON file.

    Raises:
        SettingsError: if it is neither.
    """
    if text.lstrip().startswith(("{", "[")):
        return json.loads(text)
    path = Path(text)
    if not path.is_file():
        raise SettingsError(f"{text!r} is neither JSON nor a file")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _study(text: str) -> Study:
    return validate(Study, _parsed(text), "the study") if text.lstrip().startswith("{") else load_study(Path(text))


def _guarded(action: Callable[[], None]) -> None:
    """Run an action; an error that a user can meet ends the program with its message alone.

    Raises:
        Exit: with status 2 for wrong settings and 1 for every other such error.
    """
    try:
        action()
    except D4SError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, SettingsError) else 1) from None


def _input_digest(path: Path) -> str:
    """Digest of an input: its manifest's, or else its content's.

    Raises:
        SettingsError: if it is neither a file nor a finished artefact.
    """
    if path.is_file():
        return sha256_of(path)
    names = sorted(path.glob("*.json")) if not (path / "manifest.json").is_file() else [path / "manifest.json"]
    for name in names:
        content = json.loads(name.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "digest" in content:
            return str(content["digest"])
    raise SettingsError(f"input {path} is neither a file nor a finished artefact")


def _job(name: str, settings: str, inputs: str, code: str, outputs: list[Path]) -> Job[Any]:
    """The job that a command line describes.

    Raises:
        SettingsError: if settings or inputs are wrong, or the folder is named for another job.
    """
    verb = VERBS[name]
    folders = {output.parent for output in outputs}
    if len(folders) != 1:
        raise SettingsError(f"outputs of one call belong to one folder, found {sorted(map(str, folders))}")
    folder = folders.pop()
    chosen = validate(SETTINGS.load(name), _parsed(settings), f"settings of {name!r}")
    paths = {role: Path(path) for role, path in _parsed(inputs).items()}
    digests = {role: _input_digest(path) for role, path in paths.items()}
    code = code or code_digest(verb.module)
    plain: dict[str, Any] = chosen.model_dump(mode="json")
    digest = digest_of(verb.kind, plain, digests, code)
    named = folder.name.rpartition("-")[2]
    if folder.parent.parent == STORE and named != digest:
        raise SettingsError(f"{folder} is named for other settings, inputs or code than were given (these make {digest})")
    return Job(verb.kind, chosen, paths, folder, tuple(output.name for output in outputs), code, digest, digests)


def _record_costs(job: Job[Any], verb: str, entered: float) -> None:
    """Append what the call cost to the artefact's ledger of costs."""
    process = psutil.Process()
    times = process.cpu_times()
    costs = {
        "verb": verb,
        "wall_s": round(time.time() - process.create_time(), 2),
        "cpu_s": round(times.user + times.system, 2),
        "startup_s": round(entered - process.create_time(), 2),
        "peak_rss_mb": round(_peak_rss_mb(), 1),
    }
    with (job.folder / "costs.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(costs) + "\n")


def _peak_rss_mb() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _add(name: str, verb: Verb) -> None:
    def command(
        outputs: Outputs, settings: SettingsOption = "{}", inputs: InputsOption = "{}", code: CodeOption = "", verbose: Verbose = False
    ) -> None:
        def action() -> None:
            setup_logging(verbose)
            _limit_threads()
            job = _job(name, settings, inputs, code, outputs)
            job.folder.mkdir(parents=True, exist_ok=True)
            run = ENTRIES.load(name)
            entered = time.time()
            run(job)
            _record_costs(job, name, entered)

        _guarded(action)

    keys = ", ".join(SETTINGS.load(name).model_fields) if verb.settings.startswith("d4s.config") else "see docs/settings.md"
    app.command(name=name, help=f"{verb.help}\n\nSettings: {keys or 'none'}. Makes an artefact of kind {verb.kind!r}.")(command)


def _limit_threads() -> None:
    """One torch thread unless OMP_NUM_THREADS says otherwise: two jobs side by side beat one on two threads."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


for _name, _verb in VERBS.items():
    _add(_name, _verb)


@app.command()
def summarize(study: StudyOption = "params.yaml", verbose: Verbose = False) -> None:
    """Gather a study's measures into results/STUDY: index, summary, costs and the tables of observations."""
    setup_logging(verbose)

    def action() -> None:
        from d4s.studies.collect import summarize as gather

        gather(_study(study))

    _guarded(action)


@app.command()
def tables(study: StudyOption = "params.yaml") -> None:
    """Write results/STUDY/tables from the gathered Parquet."""
    setup_logging()

    def action() -> None:
        from d4s.studies.resolve import results_folder
        from d4s.tables.build import tables as build

        build(results_folder(_study(study)))

    _guarded(action)


@app.command()
def figures(study: StudyOption = "params.yaml") -> None:
    """Draw results/STUDY/figures from the gathered Parquet."""
    setup_logging()

    def action() -> None:
        from d4s.figures.build import figures as build
        from d4s.studies.resolve import results_folder

        chosen = _study(study)
        build(results_folder(chosen), chosen.figures)

    _guarded(action)


@app.command()
def claims(study: StudyOption = "params.yaml") -> None:
    """Judge every claim by its rule and write results/STUDY/claims.json."""
    setup_logging()

    def action() -> None:
        from d4s.report.claims import claims as judge
        from d4s.studies.resolve import results_folder

        judge(results_folder(_study(study)))

    _guarded(action)


@app.command()
def report(study: StudyOption = "params.yaml") -> None:
    """Write results/STUDY/report.html, one page that holds everything."""
    setup_logging()

    def action() -> None:
        from d4s.report.page import report as write
        from d4s.studies.resolve import results_folder

        chosen = _study(study)
        write(results_folder(chosen), chosen)

    _guarded(action)


@app.command()
def plan(study: StudyOption = "params.yaml") -> None:
    """List what a study needs: artefacts by kind, how many are there already, and the cells of the grid."""

    def action() -> None:
        from d4s.studies.overview import overview

        for line in overview(_study(study)):
            typer.echo(line)

    _guarded(action)


@app.command()
def prune(remove: Annotated[bool, typer.Option("--yes", help="Remove them; without this they are only listed.")] = False) -> None:
    """List, then with --yes remove, artefacts in the store that no study's index names."""

    def action() -> None:
        from d4s.studies.prune import prune as sweep

        for line in sweep(remove=remove):
            typer.echo(line)

    _guarded(action)


@app.command()
def check(folder: Annotated[Path, typer.Argument(help="An artefact's folder.")]) -> None:
    """Check every file of an artefact against its manifests and say what it is."""

    def action() -> None:
        for manifest in sorted(folder.glob("*.json")):
            content = json.loads(manifest.read_text(encoding="utf-8"))
            if isinstance(content, dict) and "digest" in content:
                found = Artifact.open(folder, content["kind"], manifest.name)
                for name in found.manifest.files:
                    found.path(name)
                typer.echo(
                    f"{manifest}: {content['kind']}, {len(found.manifest.files)} files, settings {canonical(found.manifest.settings)}"
                )

    _guarded(action)


@app.command()
def doctor(
    model: Annotated[str, typer.Option("--model", help="A model's folder.")],
    dtype: Annotated[str, typer.Option(help="Precision to load it in; checks are strictest in float32.")] = "float32",
) -> None:
    """Say what a model is, and whether reading, editing and measuring it can be relied on; exit status 1 if not."""
    setup_logging()

    def action() -> None:
        _limit_threads()
        from d4s.models.doctor import examine, show

        found = examine(model, dtype)
        show(found)
        raise typer.Exit(0 if found.is_sound else 1)

    _guarded(action)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)

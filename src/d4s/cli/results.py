"""Commands over a study: the last stages of the workflow, what it needs, and what lies in the store."""

import json
from pathlib import Path
from typing import Annotated

import typer

from d4s.artifacts import POINTER, Artifact, sha256_of
from d4s.cli.app import STAGES, StudyOption, Verbose, command, limit_threads, manifest_content, parsed, study_of
from d4s.config import FigureSettings, canonical, validate
from d4s.errors import ArtifactError
from d4s.log import setup_logging, stage


@command(rich_help_panel=STAGES)
def summarize(study: StudyOption = "params.yaml", verbose: Verbose = False) -> None:
    """Gather a study's measures into results/STUDY: index, summary, costs and the tables of observations."""
    setup_logging(verbose)

    from d4s.studies.collect import summarize as gather
    from d4s.studies.resolve import results_folder

    chosen = study_of(study)
    with stage(results_folder(chosen) / "summary.parquet"):
        gather(chosen)


@command(rich_help_panel=STAGES)
def learning(
    models: Annotated[list[Path], typer.Argument(help="Manifests of models that were trained here.")],
    out: Annotated[Path, typer.Option(help="The file that is written last, with captions; drawings lie beside it.")],
    settings: Annotated[str, typer.Option(help="Formats and resolution, as JSON.")] = "{}",
) -> None:
    """Draw how models were trained and what they know: the first figure of a study, before any edit."""
    setup_logging()

    from d4s.figures.build import learning as build

    build(
        out, [Artifact.open(path.parent, "models") for path in models], validate(FigureSettings, parsed(settings, "--settings"), "figures")
    )


@command(rich_help_panel=STAGES)
def tables(study: StudyOption = "params.yaml") -> None:
    """Write results/STUDY/tables from the gathered Parquet."""
    setup_logging()

    from d4s.studies.resolve import results_folder
    from d4s.tables.build import tables as build

    folder = results_folder(study_of(study))
    with stage(folder / "tables" / "tables.json"):
        build(folder)


@command(rich_help_panel=STAGES)
def figures(study: StudyOption = "params.yaml") -> None:
    """Draw results/STUDY/figures from the gathered Parquet."""
    setup_logging()

    from d4s.figures.build import figures as build
    from d4s.studies.resolve import results_folder

    chosen = study_of(study)
    with stage(results_folder(chosen) / "figures" / "figures.json"):
        build(results_folder(chosen), chosen.figures)


@command(rich_help_panel=STAGES)
def claims(study: StudyOption = "params.yaml") -> None:
    """Judge every claim by its rule and write results/STUDY/claims.json."""
    setup_logging()

    from d4s.report.claims import claims as judge
    from d4s.studies.resolve import results_folder

    folder = results_folder(study_of(study))
    with stage(folder / "claims.json"):
        judge(folder)


@command(rich_help_panel=STAGES)
def report(study: StudyOption = "params.yaml") -> None:
    """Write results/STUDY/report.html, one page that holds everything."""
    setup_logging()

    from d4s.report.page import report as write
    from d4s.studies.resolve import results_folder

    chosen = study_of(study)
    with stage(results_folder(chosen) / "report.html"):
        write(results_folder(chosen), chosen)


@command()
def plan(
    study: StudyOption = "params.yaml",
    memory: Annotated[float | None, typer.Option(help="GiB of memory to plan for; this machine's when omitted.")] = None,
    gpu_memory: Annotated[float | None, typer.Option(help="GiB of device memory to plan for; this machine's when omitted.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what is foreseen for every job as JSON.")] = False,
) -> None:
    """List what a study needs: artefacts, what is there, cells; memory, disk and time by verb. Exit status 1 where a job cannot fit."""
    limit_threads()

    from d4s.studies.forecast import forecast
    from d4s.studies.overview import overview
    from d4s.studies.resolve import resolve

    plan = resolve(study_of(study))
    for line in () if as_json else overview(plan):
        typer.echo(line)
    found = forecast(plan, memory, gpu_memory)
    typer.echo(json.dumps(found.content(), indent=1) if as_json else "\n".join(found.lines()))
    found.refuse_what_cannot_fit()


@command()
def prune(
    study: Annotated[list[str] | None, typer.Option(help="A study to keep; may be repeated. params.yaml if omitted.")] = None,
    remove: Annotated[bool, typer.Option("--yes", help="Remove them; without this they are only listed.")] = False,
) -> None:
    """List, then with --yes remove, artefacts in the store that no finished study and none of the named ones uses."""
    from d4s.studies.prune import prune as sweep
    from d4s.studies.resolve import resolve

    for line in sweep([resolve(study_of(text)) for text in study or ["params.yaml"]], remove=remove):
        typer.echo(line)


@command()
def check(folder: Annotated[Path, typer.Argument(help="An artefact's folder.")]) -> None:
    """Check every file of an artefact against its manifests, and of a model that it points to, and say what it is."""
    from d4s.models.adopt import pointed

    named = {manifest: content for manifest in sorted(folder.glob("*.json")) if (content := manifest_content(manifest))}
    if not named:
        raise ArtifactError(f"{folder} holds no artefact; give a folder of the store, such as results/store/models/NAME")
    for manifest, content in named.items():
        found = Artifact.open(folder, str(content.get("kind")), manifest.name)
        for name in found.manifest.files:
            found.path(name)
        if POINTER in found.manifest.files:
            pointed(folder, sha256_of)
        typer.echo(f"{manifest}: {found.manifest.kind}, {len(found.manifest.files)} files, settings {canonical(found.manifest.settings)}")

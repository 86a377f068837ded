"""Commands over a study: the last stages of the workflow, what it needs, and what lies in the store."""

import json
from pathlib import Path
from typing import Annotated

import typer

from d4s.artifacts import POINTER, Artifact, sha256_of
from d4s.cli.app import STAGE_PANEL, StudyOption, Verbose, command, limit_threads, parse_mapping, parse_study, read_manifest
from d4s.errors import ArtifactError
from d4s.log import progress_notes, setup_logging
from d4s.settings_base import canonical, validate
from d4s.study_settings import FigureSettings


@command(rich_help_panel=STAGE_PANEL)
def summarize(study: StudyOption = "params.yaml", verbose: Verbose = False) -> None:
    """Gather a study's measures into results/STUDY: index, summary, costs and the tables of observations."""
    setup_logging(verbose)

    from d4s.study.resolve import results_folder
    from d4s.study.summarize import summarize as gather

    loaded_study = parse_study(study)
    with progress_notes(results_folder(loaded_study) / "summary.parquet"):
        gather(loaded_study)


@command(rich_help_panel=STAGE_PANEL)
def learning(
    models: Annotated[list[Path], typer.Argument(help="Manifests of models that were trained here.")],
    out: Annotated[Path, typer.Option(help="The file that is written last, with captions; drawings lie beside it.")],
    settings: Annotated[str, typer.Option(help="Formats and resolution, as JSON.")] = "{}",
) -> None:
    """Draw how models were trained and what they know: the first figure of a study, before any edit."""
    setup_logging()

    from d4s.figures.figure_stage import learning as build

    build(
        out,
        [Artifact.open(path.parent, "models") for path in models],
        validate(FigureSettings, parse_mapping(settings, "--settings"), "figures"),
    )


@command(rich_help_panel=STAGE_PANEL)
def tables(study: StudyOption = "params.yaml") -> None:
    """Write results/STUDY/tables from the gathered Parquet."""
    setup_logging()

    from d4s.study.resolve import results_folder
    from d4s.tables.table_stage import tables as build

    folder = results_folder(parse_study(study))
    with progress_notes(folder / "tables" / "tables.json"):
        build(folder)


@command(rich_help_panel=STAGE_PANEL)
def figures(study: StudyOption = "params.yaml") -> None:
    """Draw results/STUDY/figures from the gathered Parquet."""
    setup_logging()

    from d4s.figures.figure_stage import figures as build
    from d4s.study.resolve import results_folder

    loaded_study = parse_study(study)
    with progress_notes(results_folder(loaded_study) / "figures" / "figures.json"):
        build(results_folder(loaded_study), loaded_study.figures)


@command(rich_help_panel=STAGE_PANEL)
def claims(study: StudyOption = "params.yaml") -> None:
    """Judge every claim by its rule and write results/STUDY/claims.json."""
    setup_logging()

    from d4s.analysis.claims import claims as judge
    from d4s.study.resolve import results_folder

    folder = results_folder(parse_study(study))
    with progress_notes(folder / "claims.json"):
        judge(folder)


@command(rich_help_panel=STAGE_PANEL)
def report(study: StudyOption = "params.yaml") -> None:
    """Write results/STUDY/report.html, one page that holds everything."""
    setup_logging()

    from d4s.report.page import report as write
    from d4s.study.resolve import results_folder

    loaded_study = parse_study(study)
    with progress_notes(results_folder(loaded_study) / "report.html"):
        write(results_folder(loaded_study), loaded_study)


@command()
def leaderboard(
    studies: Annotated[list[str], typer.Argument(help="Finished studies: their YAML files.")],
    out: Annotated[Path, typer.Option(help="The page.")],
) -> None:
    """Write the leaderboards of several finished studies as one page that can be sorted and filtered."""
    setup_logging()

    from d4s.analysis.study_results import Results
    from d4s.report.leaderboard import write_leaderboard
    from d4s.study.resolve import results_folder

    write_leaderboard(out, [Results(results_folder(parse_study(study))) for study in studies])


@command()
def plan(
    study: StudyOption = "params.yaml",
    memory: Annotated[float | None, typer.Option(help="GiB of memory to plan for; this machine's when omitted.")] = None,
    gpu_memory: Annotated[float | None, typer.Option(help="GiB of device memory to plan for; this machine's when omitted.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what is foreseen for every job as JSON.")] = False,
) -> None:
    """List what a study needs: artefacts, what is there, cells; memory, disk and time by stage. Exit status 1 where a job cannot fit."""
    limit_threads()

    from d4s.resources.machine_estimates import estimate_on_machine
    from d4s.study.overview import overview
    from d4s.study.resolve import resolve

    plan = resolve(parse_study(study))
    for line in () if as_json else overview(plan):
        typer.echo(line)
    found = estimate_on_machine(plan, memory, gpu_memory)
    typer.echo(json.dumps(found.content(), indent=1) if as_json else "\n".join(found.lines()))
    found.check_capacity()


@command()
def compare(
    first: Annotated[str, typer.Argument(help="An editor of the study, such as d4s.")],
    second: Annotated[str, typer.Argument(help="Another one; differences are the first minus the second.")],
    study: StudyOption = "params.yaml",
    edits: Annotated[int | None, typer.Option(min=0, help="Number of edits; the most that both were measured at if omitted.")] = None,
    facts: Annotated[int, typer.Option(min=0, help="At most how many facts to list of those that only one editor retains.")] = 5,
) -> None:
    """Compare two editors of a finished study: differences of retained scores, paired by fact, and the facts that only one retains."""
    from d4s.analysis.editor_comparison import compare as compare_editors
    from d4s.analysis.study_results import Results
    from d4s.study.resolve import results_folder

    for comparison in compare_editors(Results(results_folder(parse_study(study))), (first, second), edits):
        typer.echo("\n".join(comparison.lines(facts)))


@command()
def verdicts(
    out: Annotated[Path, typer.Argument(help="The file: a line per answer, as JSON. Verdicts that it holds already stay.")],
    study: StudyOption = "params.yaml",
) -> None:
    """Write the free answers of a finished study into a file for people, or another program, to judge.

    A line has question, target and answer, in an order that says nothing of editors; set its `correct` to true or false. Then name
    the file in the study: `judge: {judge: file, store: FILE, name: WHO, version: "1"}`.
    """
    from d4s.analysis.free_answers import judged_answers
    from d4s.analysis.study_results import Results
    from d4s.judging.verdict_file import add_answers
    from d4s.study.resolve import results_folder

    written = add_answers(out, judged_answers(Results(results_folder(parse_study(study)))))
    typer.echo(f"{out}: {written.answers} answers, {written.added} of them new, {written.judged} with a verdict")


@command()
def prune(
    study: Annotated[list[str] | None, typer.Option(help="A study to keep; may be repeated. params.yaml if omitted.")] = None,
    remove: Annotated[bool, typer.Option("--yes", help="Remove them; without this they are only listed.")] = False,
) -> None:
    """List, then with --yes remove, artefacts in the store that no finished study and none of the named ones uses."""
    from d4s.study.prune import prune as sweep
    from d4s.study.resolve import resolve

    for line in sweep([resolve(parse_study(text)) for text in study or ["params.yaml"]], remove=remove):
        typer.echo(line)


@command()
def check(folder: Annotated[Path, typer.Argument(help="An artefact's folder.")]) -> None:
    """Check every file of an artefact against its manifests, and of a model that it points to, and say what it is."""
    from d4s.models.adopt import read_pointer

    manifests = {manifest: content for manifest in sorted(folder.glob("*.json")) if (content := read_manifest(manifest))}
    if not manifests:
        raise ArtifactError(f"{folder} holds no artefact; give a folder of the store, such as results/store/models/NAME")
    for manifest, content in manifests.items():
        found = Artifact.open(folder, str(content.get("kind")), manifest.name)
        for name in found.manifest.files:
            found.path(name)
        if POINTER in found.manifest.files:
            read_pointer(folder, sha256_of)
        typer.echo(f"{manifest}: {found.manifest.kind}, {len(found.manifest.files)} files, settings {canonical(found.manifest.settings)}")

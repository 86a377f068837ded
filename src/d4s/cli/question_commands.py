"""`d4s questions`: one form of the multi-question data set, or what a study's questions will cost before any is asked."""

from pathlib import Path
from typing import Annotated

import typer

from d4s.cli.app import STAGE_PANEL, StudyOption, Verbose, command, parse_study
from d4s.cli.stage_commands import CodeOption, InputsArgument, SettingsOption, StageCall, parse_inputs, run_stage
from d4s.errors import SettingsError
from d4s.study.stages import STAGES

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print how many calls and tokens the study's questions will take.")]
Price = Annotated[float | None, typer.Option(help="Price per million tokens, to print costs too.")]
ManifestArgument = Annotated[Path | None, typer.Argument(help="The manifest to make, in the artefact's folder.")]


HELP = f"{STAGES['questions'].help}\n\nSettings: see docs/questions.md. Makes an artefact of kind 'facts'."


@command(rich_help_panel=STAGE_PANEL, help=HELP)
def questions(
    output: ManifestArgument = None,
    inputs: InputsArgument = None,
    *,
    settings: SettingsOption = "{}",
    code: CodeOption = "",
    verbose: Verbose = False,
    dry_run: DryRun = False,
    study: StudyOption = "params.yaml",
    price_in: Price = None,
    price_out: Price = None,
) -> None:
    """Ask if-then events in one form, or estimate."""
    if not dry_run:
        if output is None:
            raise SettingsError("name the manifest to make, or add --dry-run")
        return run_stage(StageCall("questions", output, settings, parse_inputs(inputs or ()), code), verbose=verbose)
    from d4s.study.question_costs import dry_run as lines

    if (price_in is None) != (price_out is None):
        raise SettingsError("give both --price-in and --price-out, or neither")
    prices = None if price_in is None or price_out is None else (price_in, price_out)
    for line in lines(parse_study(study), prices):
        typer.echo(line)

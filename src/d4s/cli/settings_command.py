"""The command that turns settings of another program into a settings file."""

from pathlib import Path
from typing import Annotated

import typer

from d4s.cli.app import command
from d4s.cli.edit_commands import EDITING
from d4s.log import setup_logging


@command(rich_help_panel=EDITING)
def settings(
    *,
    from_easyedit: Annotated[Path, typer.Option("--from-easyedit", help="A hyperparameter file of EasyEdit (alg_name, model_name, …).")],
    model: Annotated[
        str | None,
        typer.Option(
            help="The model that the settings are for: a folder, a hub id, or a kind of model such as gpt-j-6b; the file's if omitted."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The settings file to be written (.yaml); printed if omitted.")] = None,
) -> None:
    """Translate hyperparameters of EasyEdit into a settings file for d4s apply and studies, with what became of every key."""
    setup_logging()
    from d4s.apply.easyedit.translation import translate, write_translation

    found = translate(from_easyedit, model)
    if out is None:
        typer.echo(found.text(), nl=False)
        return
    write_translation(found, out)
    for line in found.lines():
        typer.echo(line)
    editor = next(iter(found.settings.editors))
    typer.echo(f"written: {out}; use it with: d4s apply --model MODEL --settings {out} --editor {editor} --facts FILE --out FOLDER")

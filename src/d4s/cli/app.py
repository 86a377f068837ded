"""What all commands share: the application, options, and how errors end a command."""

import json
import os
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml
from safetensors import SafetensorError

from d4s import __version__
from d4s.errors import ArtifactError, D4SError, SettingsError
from d4s.settings_base import validate
from d4s.study_settings import Study, load_study
from d4s.terminal import tolerate_any_text

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Why language models get worse as facts are edited into them, and what stops that.",
)

STAGE_PANEL = "Stages of the workflow"
Action = TypeVar("Action", bound=Callable[..., None])

StudyOption = Annotated[str, typer.Option("--study", help="The study as JSON text, or its YAML file.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log every step.")]


def parse_mapping(text: str, what: str) -> dict[str, Any]:
    """The mapping that JSON text spells, or the content of a YAML or JSON file.

    Raises:
        SettingsError: if it is neither, cannot be read, or is no mapping; `what` says what was to be read.
    """
    is_json = text.lstrip().startswith(("{", "["))
    if not is_json and not Path(text).is_file():
        raise SettingsError(f"{what}: {text!r} is neither JSON nor a file")
    try:
        content = json.loads(text) if is_json else yaml.safe_load(Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"{what}: {text!r} cannot be read as {'JSON' if is_json else 'YAML'}: {error}") from None
    if not isinstance(content, dict):
        raise SettingsError(f'{what}: {text!r} holds {type(content).__name__}, expected a mapping such as {{"key": "value"}}')
    return content


def parse_study(text: str) -> Study:
    """The study as JSON text, or in a YAML file."""
    return validate(Study, parse_mapping(text, "the study"), "the study") if text.lstrip().startswith("{") else load_study(Path(text))


def read_manifest(path: Path) -> Mapping[str, Any] | None:
    """What a manifest says; None where the JSON file is something else.

    Raises:
        ArtifactError: if it is truncated.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path} is truncated or no JSON ({error}); delete {path.parent} and make it again") from None
    return content if isinstance(content, dict) and "digest" in content else None


def command(**options: Any) -> Callable[[Action], Action]:
    """Register a command, with the options of `Typer.command`; an error that a user can meet ends it with its message alone.

    The exit status is then 2 for wrong settings and 1 for every other such error.
    """

    def register(action: Action) -> Action:
        @wraps(action)
        def with_errors_shown(*args: Any, **arguments: Any) -> None:
            tolerate_any_text()
            try:
                action(*args, **arguments)
            except D4SError as error:
                typer.echo(f"error: {error}", err=True)
                raise typer.Exit(2 if isinstance(error, SettingsError) else 1) from None
            except BrokenPipeError:
                raise  # the reader, such as `head`, has closed the pipe; Typer ends quietly
            except (OSError, SafetensorError) as error:
                typer.echo(f"error: {error}; where a disk was full or a folder closed, fix that and run the same command again", err=True)
                raise typer.Exit(1) from None

        app.command(**options)(with_errors_shown)
        return action

    return register


def limit_threads() -> None:
    """One torch thread unless OMP_NUM_THREADS says otherwise: two jobs side by side beat one on two threads."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def default_device() -> str:
    """The device that models are loaded onto: CUDA where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)

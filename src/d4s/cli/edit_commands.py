"""Commands over one's own edited model."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml

from d4s.cli.app import Verbose, command, default_device, limit_threads
from d4s.errors import SettingsError
from d4s.log import setup_logging
from d4s.terminal import arrow

EDITING = "Editing one's own model"
FolderArgument = Annotated[Path, typer.Argument(help="A folder that d4s apply made.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder to be made.")]
NumbersOption = Annotated[list[int], typer.Option("--edit", help="Number of an edit, as d4s history lists it; may be repeated.")]


def _parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """Settings from `key.key=value` pairs, values as YAML.

    Raises:
        SettingsError: naming every pair that is none, or the first whose value is no YAML or whose key lies under a plain value.
    """
    if malformed := [pair for pair in pairs if not pair.partition("=")[0].strip() or "=" not in pair]:
        raise SettingsError(f"--set takes key=value, such as preservation.weight=300; found {', '.join(map(repr, malformed))}")
    found: dict[str, Any] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        *path, last = key.strip().split(".")
        mapping = found
        for name in path:
            mapping = mapping.setdefault(name, {})
            if not isinstance(mapping, dict):
                raise SettingsError(f"--set {pair}: {name} is set to {mapping!r} already, which has no keys; leave one of the two out")
        try:
            mapping[last] = yaml.safe_load(value)
        except (ValueError, yaml.YAMLError) as error:  # a date that is none is a ValueError
            raise SettingsError(f"--set {pair}: the value cannot be read as YAML: {' '.join(str(error).split())}") from None
    return found


def _checked_text(text: str, what: str) -> str:
    """Text from the command line.

    Raises:
        SettingsError: if its bytes are no text, which Python passes on as lone surrogates.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise SettingsError(f"{what} {text!r} holds bytes that are no text in this terminal's encoding; type it in UTF-8") from None
    return text


@command(rich_help_panel=EDITING)
def apply(
    *,
    model: Annotated[
        str, typer.Option(help="The model: a Hugging Face folder, a hub id, a GGUF file or a name of d4s fetch; never changed.")
    ],
    facts: Annotated[Path, typer.Option(help="CSV, JSONL or Parquet: subject, prompt, target_new[, target_true, paraphrase, locality].")],
    out: OutOption,
    editor: Annotated[str, typer.Option(help="A preset, such as d4s, memit, rome, ft_l, grace.")] = "d4s",
    hparams_for: Annotated[
        str | None,
        typer.Option(
            "--hparams-for",
            "--settings",
            help="A column of the preset's settings, or the file that d4s tune wrote; found by the model's shape if omitted, or else by "
            "a short measurement.",
        ),
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="A setting of the editor, as key=value; may be repeated.")] = None,
    text: Annotated[Path | None, typer.Option(help="A text file to take second moments from.")] = None,
    moments: Annotated[str, typer.Option(help="`self` (text that the model writes), a data set's name, or a folder of moments.")] = "self",
    moment_tokens: Annotated[int, typer.Option(min=1, help="Tokens of text for second moments.")] = 65_536,
    dtype: Annotated[str | None, typer.Option(help="Precision to edit and write in; the model's own if omitted.")] = None,
    revision: Annotated[str, typer.Option(help="Revision of a hub model.")] = "main",
    chat: Annotated[bool, typer.Option("--chat", help="Put prompts through the tokenizer's chat template.")] = False,
    joiner: Annotated[
        Literal["auto", "space", "none"],
        typer.Option(help="Between prompt and target: `auto` (as the prompt's end asks for), always one space, or none."),
    ] = "auto",
    on_conflict: Annotated[
        Literal["refuse", "replace", "average"], typer.Option(help="Two edits of one subject and prompt: refuse, replace or average.")
    ] = "refuse",
    seed: Annotated[int, typer.Option(min=0, help="Seed of prefixes and of self-written text.")] = 1,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Set defective rows aside in rejects.parquet.")] = False,
    verbose: Verbose = False,
) -> None:
    """Edit a model with facts of one's own; the same command again resumes, another file of facts continues."""
    setup_logging(verbose)

    limit_threads()
    from d4s.apply import show
    from d4s.apply.apply_pipeline import ApplyOptions
    from d4s.apply.apply_pipeline import apply as run
    from d4s.settings_base import validate

    asked = {
        "model": model, "facts": facts, "out": out, "editor": editor, "hparams_for": hparams_for,
        "overrides": _parse_overrides(overrides or []),
        "text": {"file": text, "name": moments, "tokens": moment_tokens}, "dtype": dtype, "revision": revision, "device": default_device(),
        "chat": chat, "joiner": joiner, "on_conflict": on_conflict, "seed": seed, "skip_bad": skip_bad,
    }  # fmt: skip
    found = run(validate(ApplyOptions, asked, "d4s apply"), show.announce)
    if found is None:
        typer.echo(f"nothing to do: every fact of {facts} is in {out}")
    else:
        show.outcome(out, found)


@command(rich_help_panel=EDITING)
def history(folder: FolderArgument) -> None:
    """List every edit ever made in a folder and what became of it."""
    from d4s.apply.edited_folder import EditedFolder
    from d4s.apply.show import history as show

    show(EditedFolder.open(folder))


@command(rich_help_panel=EDITING)
def undo(folder: FolderArgument, edit: NumbersOption, verbose: Verbose = False) -> None:
    """Undo edits, as far as the editor's kind of state allows; the edited model is written again."""
    setup_logging(verbose)

    limit_threads()
    from d4s.apply import show
    from d4s.apply.change import undo as run

    show.outcome(folder, run(folder, edit, default_device()))


@command(rich_help_panel=EDITING)
def replace(
    folder: FolderArgument,
    edit: Annotated[int, typer.Option(help="Number of an edit, as d4s history lists it.")],
    target: Annotated[str, typer.Option(help="The new target.")],
    verbose: Verbose = False,
) -> None:
    """Put an edit with another target in the place of one."""
    setup_logging(verbose)

    limit_threads()
    from d4s.apply import show
    from d4s.apply.change import replace as run

    show.outcome(folder, run(folder, edit, _checked_text(target, "--target"), default_device()))


@command(rich_help_panel=EDITING)
def merge(
    first: FolderArgument,
    second: FolderArgument,
    out: OutOption,
    on_conflict: Annotated[
        Literal["refuse", "replace"], typer.Option(help="Where both edited one subject and prompt: refuse, or replace the first's.")
    ] = "refuse",
    verbose: Verbose = False,
) -> None:
    """Join the edits of two folders that were made alike into a new one."""
    setup_logging(verbose)

    limit_threads()
    from d4s.apply import show
    from d4s.apply.change import merge as run

    show.outcome(out, run(first, second, out, prefer_second=on_conflict == "replace", device=default_device()))


@command(rich_help_panel=EDITING)
def export(
    folder: FolderArgument,
    *,
    out: OutOption,
    form: Annotated[
        Literal["delta", "lora", "full", "gguf"],
        typer.Option("--format", help="`delta` (float32), `lora` (for peft), `full` (a Hugging Face folder) or `gguf` (for llama.cpp)."),
    ],
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of a LoRA adapter; if omitted, the lowest that leaves nothing out.")] = None,
    gguf: Annotated[
        Path | None, typer.Option(help="The unedited model's GGUF file, for --format gguf; the one that was edited if omitted.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Write the edits as a change of weights, a LoRA adapter, or a whole model, as a Hugging Face folder or a GGUF file."""
    setup_logging(verbose)

    limit_threads()
    from d4s.apply import show
    from d4s.apply.export import export as run

    if errors := run(folder, form, out, rank, default_device(), gguf=gguf):
        show.truncation_errors(errors)
    typer.echo(f"written: {out}")


@command(rich_help_panel=EDITING)
def ask(
    folder: FolderArgument,
    prompts: Annotated[list[str], typer.Argument(help="What to ask; each is answered greedily.")],
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens per answer.")] = 16,
) -> None:
    """Put prompts to an edited model, memories among them."""
    setup_logging()

    limit_threads()
    from d4s.apply.ask import ask as run

    asked = [_checked_text(prompt, "the prompt") for prompt in prompts]
    for prompt, answer in zip(asked, run(folder, asked, tokens, default_device()), strict=True):
        typer.echo(f"{prompt} {arrow()} {answer}")

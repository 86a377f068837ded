"""Commands over one model."""

from pathlib import Path
from typing import Annotated

import typer

from d4s.cli.app import Verbose, command, default_device, limit_threads
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


@command()
def tune(
    *,
    model: Annotated[str, typer.Option(help="A Hugging Face folder, a hub id, a GGUF file, or a name of d4s fetch; never changed.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of settings.yaml, the figure and every trial; the same command resumes.")],
    editor: Annotated[
        list[str] | None,
        typer.Option(help="A preset to try with sequences of edits: d4s, d4s_even, memit, memit_seq or alphaedit; may be repeated."),
    ] = None,
    budget: Annotated[float, typer.Option(min=0, help="Minutes after which no trial begins; those of earlier commands count.")] = 30.0,
    facts: Annotated[
        Path | None,
        typer.Option(help="Your own facts, as for d4s apply, with columns paraphrase and locality; if omitted, common facts it knows."),
    ] = None,
    text: Annotated[Path | None, typer.Option(help="A text file to take second moments from.")] = None,
    moments: Annotated[str, typer.Option(help="`self` (text that the model writes), or a data set's name.")] = "self",
    moment_tokens: Annotated[int, typer.Option(min=1, help="Tokens of text for second moments.")] = 65_536,
    edits: Annotated[int, typer.Option(min=2, help="Edits of a sequence.")] = 30,
    chat: Annotated[bool, typer.Option("--chat", help="Put prompts into the tokenizer's chat template, as d4s apply does.")] = False,
    dtype: Annotated[str | None, typer.Option(help="Precision to measure in; the model's own if omitted.")] = None,
    revision: Annotated[str, typer.Option(help="Revision of a hub model.")] = "main",
    seed: Annotated[int, typer.Option(min=0, help="Seed of requests, prefixes and self-written text.")] = 1,
    verbose: Verbose = False,
) -> None:
    """Find settings of editors for a model by measurement: layers, target, and the weight of what is preserved.

    Four parts, each within a share of the budget (docs/tuning.md has the rule). First targets of a few requests are optimised at some
    blocks and injected there: efficacy and paraphrase say which block takes a target, with which clamp and rate. Then short sequences of
    edits say which layers are edited, and with which weight, starting from k'C^-1k of the requests; the score is the harmonic mean of
    efficacy, paraphrase and locality. Use the file with `d4s apply --settings OUT/settings.yaml`, or in a study as `hparams_for:
    OUT/settings.yaml` of a model or of an editor.
    """
    setup_logging(verbose)

    limit_threads()
    from d4s.apply.model_tuning import TuneRequest, tune_model
    from d4s.figures.tuning_picture import write_layer_figure
    from d4s.settings_base import validate
    from d4s.tuning.tune import SETTINGS_FILE
    from d4s.tuning.tune_report import show

    asked = {
        "model": model, "out": out, "dtype": dtype, "facts": facts, "revision": revision, "chat": chat,
        "text": {"file": text, "name": moments, "tokens": moment_tokens}, "device": default_device(),
        "options": {"budget_minutes": budget, "edits": edits, "moment_tokens": moment_tokens, "seed": seed}
        | ({"editors": editor} if editor else {}),
    }  # fmt: skip
    found = tune_model(validate(TuneRequest, asked, "d4s tune"))
    write_layer_figure(found, out / "score_by_layer.png")
    show(found)
    typer.echo(f"written: {out / SETTINGS_FILE}, {out / 'score_by_layer.png'}")

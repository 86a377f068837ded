"""What tuning measured and chose, as tables on a terminal."""

from rich.table import Column, Table

from d4s.editors.settings_file import TunedSettings
from d4s.terminal import console

WIDTH = 110


def show(settings: TunedSettings) -> None:
    """Show the scores of blocks, the trials of sequences, and what the presets that were tried take."""
    screen = console(WIDTH)
    screen.print(f"{settings.model.source}: a {settings.model.model_type} of {settings.model.layers} blocks; {settings.facts}")
    screen.print(_sweep(settings))
    if settings.trials:
        screen.print(_trials(settings))
    leverage = ", ".join(f"{layer}: {value:g}" for layer, value in settings.key_leverage.items())
    screen.print(f"median of k'C^-1k of the requests by edited layer: {leverage} (a key has {settings.model.mlp_width} entries)")


def _sweep(settings: TunedSettings) -> Table:
    """Scores of injected targets; the block that was chosen is marked."""
    names = ("efficacy", "paraphrase", "score", "probability", "shift / h", "seconds")
    table = Table("block", "clamp", "lr", *(Column(name, justify="right") for name in names), width=WIDTH, title="targets injected")
    for one in settings.sweep:
        mark = " *" if one.layer == settings.target_layer else ""
        numbers = (one.efficacy, one.paraphrase, one.score, one.probability, one.shift_ratio)
        table.add_row(f"{one.layer}{mark}", f"{one.clamp:g}", f"{one.lr:g}", *(f"{value:.2f}" for value in numbers), f"{one.seconds:.0f}")
    return table


def _trials(settings: TunedSettings) -> Table:
    """Sequences of edits; the best of each preset at the chosen layers is marked."""
    names = ("weight", "efficacy", "paraphrase", "locality", "score", "seconds")
    table = Table("editor", "layers", *(Column(name, justify="right") for name in names), width=WIDTH, title="sequences of edits")
    for one in settings.trials:
        mark = " *" if settings.measured[one.editor] == one else ""
        numbers = (one.efficacy, one.paraphrase, one.locality, one.score)
        layers = f"{one.layers[0]} to {one.layers[-1]}"
        table.add_row(f"{one.editor}{mark}", layers, f"{one.weight:g}", *(f"{value:.3f}" for value in numbers), f"{one.seconds:.0f}")
    return table

"""What people see of it on standard output: what will happen, what happened, and the history."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Column, Table

from d4s.apply.edit import Plan
from d4s.apply.folder import DELTA, MODEL, Folder
from d4s.apply.outcome import Outcome, Seen
from d4s.config import canonical
from d4s.planning.needs import GIB, Needs
from d4s.terminal import console

WIDTH = 120
SHOWN = 50


def announce(plan: Plan) -> None:
    """Say what is about to happen."""
    description, model = plan.folder.description, plan.model
    settings = description.settings
    table = Table(show_header=False, width=WIDTH, title="what will happen", title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    rows = {
        "model": f"{description.model.source} ({model.adapter.model_type}, {model.n_layers} layers, {description.model.dtype})",
        "editor": f"{description.editor}, {_state_words(plan.folder)}; layers {', '.join(map(str, settings.layers)) or 'as found'}",
        "settings": canonical(settings.model_dump(mode="json", exclude_none=True)),
        "facts": f"{len(plan.wishes)} to be edited, {plan.present} there already, {plan.rejected} set aside",
        "computed": ", ".join(_computed(plan)) or "nothing",
        "memory": _memory(plan.needs),
        "written to": str(plan.folder.path),
    }
    if description.chat is not None:
        rows["chat"] = f"prompts stand in {description.chat.turn('…')!r}"
    if description.joiner != "auto":
        rows["joiner"] = {"space": "always one space before a target", "none": "no space before a target"}[description.joiner]
    for name, value in rows.items():
        table.add_row(name, value)
    console(WIDTH).print(table)


def _memory(steps: Sequence[tuple[str, Needs]]) -> str:
    """The step that needs most, on the host and on a device."""
    name, needs = max(steps, key=lambda step: step[1].host_bytes + step[1].device_bytes)
    parts = sorted((needs.device or needs.host).items(), key=lambda part: -part[1])[:3]
    device = f" and {needs.device_bytes / GIB:.1f} GiB of device memory" if needs.device else ""
    return f"about {needs.host_bytes / GIB:.1f} GiB{device} for {name} ({', '.join(f'{part} {size / GIB:.1f}' for part, size in parts)})"


def _computed(plan: Plan) -> list[str]:
    settings, is_new = plan.folder.description.settings, not plan.folder.is_prepared
    if not plan.wishes:
        return [] if plan.folder.is_written else ["what is written"]
    parts = {
        "prefixes": is_new and "contexts" in settings.needs,
        f"second moments ({plan.folder.description.moments})": is_new and bool(settings.moment_layers),
        "what the editor prepares": is_new and "prepare" in settings.needs,
        f"{len(plan.wishes)} targets": "targets" in settings.needs,
        f"{len(plan.wishes)} edits": True,
    }
    return [name for name, is_needed in parts.items() if is_needed]


def _state_words(folder: Folder) -> str:
    return {
        "refit": "all edits solved together (undo, replace and merge are exact on the record)",
        "additive": "changes that add up (undo takes an edit's own change out)",
        "dense": "one change that every edit replaces (no undo)",
        "memory": "entries beside the model (undo takes an entry out)",
    }[folder.editor.kind]


def outcome(path: Path, found: Outcome) -> None:
    """Show some edits before and after, and what is true of all present ones."""
    recent, screen = found.recent, console(WIDTH)
    if recent:
        screen.print(_before_and_after(recent[:SHOWN]))
    if len(recent) > SHOWN:
        screen.print(f"and {len(recent) - SHOWN} more in {path / 'edits.jsonl'}")
    means = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in found.means.items())
    screen.print(f"all {len(found.seen)} present edits: {means}" if found.seen else "no present edits")
    screen.print(f"written: {', '.join(str(path / name) for name in (MODEL, DELTA, 'edits.jsonl') if (path / name).exists())}")


def _before_and_after(seen: Sequence[Seen]) -> Table:
    table = Table(width=WIDTH)
    table.add_column("edit", justify="right")
    table.add_column("prompt", overflow="fold")
    for name in ("before", "wanted", "after"):
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=20)
    table.add_column("p before", justify="right", no_wrap=True)
    table.add_column("p after", justify="right", no_wrap=True)
    for one in seen:
        wish = one.edit.wish
        texts = (str(one.edit.number), wish.prompt, one.before, " and ".join(wish.targets), one.after)
        table.add_row(*texts, f"{one.probability_before:.4f}", f"{one.probability_after:.4f}")
    return table


def history(folder: Folder) -> None:
    """Show every edit ever made and what became of it."""
    description = folder.description
    table = Table(width=WIDTH, title=f"{folder.path}: {description.editor} on {Path(description.model.source).name}", title_justify="left")
    for name in ("edit", "prompt", "target", "status"):
        table.add_column(name, overflow="fold")
    for edit in folder.edits():
        table.add_row(str(edit.number), edit.wish.prompt, " and ".join(edit.wish.targets), edit.gone or "present")
    console(WIDTH).print(table)
    if not folder.is_written:
        console(WIDTH).print(
            "a change was interrupted: run the same command again (d4s apply, undo or replace), and what is written follows the record"
        )


def left_out(errors: Mapping[str, float]) -> None:
    """Show how much of each module's change an adapter leaves out."""
    table = Table("module", Column("left out, relative", justify="right"), width=WIDTH)
    for name, error in errors.items():
        table.add_row(name, f"{error:.1e}")
    console(WIDTH).print(table)

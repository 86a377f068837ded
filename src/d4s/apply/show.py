"""What people see of it on standard output: what will happen, what happened, and the history."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Column, Table

from d4s.apply.apply_pipeline import EditPlan
from d4s.apply.edited_folder import DELTA, MODEL, EditedFolder
from d4s.apply.outcome import EditResult, Outcome
from d4s.resources.requirements import GIB, Requirements
from d4s.settings_base import canonical
from d4s.terminal import console
from d4s.tuning.tune import SETTINGS_FILE

WIDTH = 120
MAX_ROWS = 50


def announce(plan: EditPlan) -> None:
    """Say what is about to happen."""
    manifest, model = plan.folder.manifest, plan.folder.model
    settings = manifest.settings
    table = Table(show_header=False, width=WIDTH, title="what will happen", title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    rows = {
        "model": f"{manifest.model.source} ({model.adapter.model_type}, {model.n_layers} layers, {manifest.model.dtype})",
        "editor": f"{manifest.editor}, {_describe_state_kind(plan.folder)}; layers {', '.join(map(str, settings.layers)) or 'as found'}",
        **_measured(plan),
        "settings": canonical(settings.model_dump(mode="json", exclude_none=True)),
        "facts": f"{len(plan.specs)} to be edited, {plan.present} there already, {plan.rejected} set aside",
        "computed": ", ".join(_computations(plan)) or "nothing",
        "memory": _memory(plan.requirements),
        "written to": str(plan.folder.path),
    }
    if manifest.chat is not None:
        rows["chat"] = f"prompts stand in {manifest.chat.turn('…')!r}"
    if manifest.joiner != "auto":
        rows["joiner"] = {"space": "always one space before a target", "none": "no space before a target"}[manifest.joiner]
    for name, value in rows.items():
        table.add_row(name, value)
    console(WIDTH).print(table)


def _measured(plan: EditPlan) -> dict[str, str]:
    """What was measured for a model without a column, and what was chosen by it."""
    if plan.tuned is None:
        return {}
    blocks = ", ".join(f"{one.layer} ({one.efficacy:.2f}, {one.paraphrase:.2f})" for one in plan.tuned.sweep)
    leverage = ", ".join(f"layer {layer} {value:g}" for layer, value in plan.tuned.key_leverage.items())
    return {
        "measured": f"efficacy and paraphrase of targets injected at block {blocks}; median of k'C^-1k at {leverage}; "
        f"on {plan.tuned.facts}",
        "taken again": f"from {plan.folder.path / SETTINGS_FILE}; d4s tune measures more, --hparams-for takes another column",
    }


def _memory(steps: Sequence[tuple[str, Requirements]]) -> str:
    """The step that needs most, on the host and on a device."""
    name, requirements = max(steps, key=lambda step: step[1].host_bytes + step[1].device_bytes)
    parts = sorted((requirements.device or requirements.host).items(), key=lambda part: -part[1])[:3]
    device = f" and {requirements.device_bytes / GIB:.1f} GiB of device memory" if requirements.device else ""
    largest = ", ".join(f"{part} {size / GIB:.1f}" for part, size in parts)
    return f"about {requirements.host_bytes / GIB:.1f} GiB{device} for {name} ({largest})"


def _computations(plan: EditPlan) -> list[str]:
    settings, is_new = plan.folder.settings, not plan.folder.is_prepared
    if not plan.specs:
        return [] if plan.folder.is_written else ["what is written"]
    parts = {
        "prefixes": is_new and "contexts" in settings.required_inputs,
        f"second moments ({plan.folder.manifest.moments})": is_new and bool(settings.moment_layers),
        "what the editor prepares": is_new and "prepare" in settings.required_inputs,
        f"{len(plan.specs)} targets": "targets" in settings.required_inputs,
        f"{len(plan.specs)} edits": True,
    }
    return [name for name, is_needed in parts.items() if is_needed]


def _describe_state_kind(folder: EditedFolder) -> str:
    return {
        "refit": "all edits solved together (undo, replace and merge are exact on the record)",
        "additive": "changes that add up (undo takes an edit's own change out)",
        "dense": "one change that every edit replaces (no undo)",
        "codebook": "entries beside the model (undo takes an entry out)",
        "memory": "texts beside the model (undo takes a text out)",
    }[folder.editor.kind]


def outcome(path: Path, found: Outcome) -> None:
    """Show some edits before and after, and what is true of all present ones."""
    recent, screen = found.recent, console(WIDTH)
    if recent:
        screen.print(_comparison_table(recent[:MAX_ROWS]))
    if len(recent) > MAX_ROWS:
        screen.print(f"and {len(recent) - MAX_ROWS} more in {path / 'edits.jsonl'}")
    means = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in found.means.items())
    screen.print(f"all {len(found.results)} present edits: {means}" if found.results else "no present edits")
    screen.print(f"written: {', '.join(str(path / name) for name in (MODEL, DELTA, 'edits.jsonl') if (path / name).exists())}")


def _comparison_table(results: Sequence[EditResult]) -> Table:
    table = Table(width=WIDTH)
    table.add_column("edit", justify="right")
    table.add_column("prompt", overflow="fold")
    for name in ("before", "wanted", "after"):
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=20)
    table.add_column("p before", justify="right", no_wrap=True)
    table.add_column("p after", justify="right", no_wrap=True)
    for one in results:
        spec = one.edit.spec
        texts = (str(one.edit.number), spec.prompt, one.before, " and ".join(spec.targets), one.after)
        table.add_row(*texts, f"{one.probability_before:.4f}", f"{one.probability_after:.4f}")
    return table


def history(folder: EditedFolder) -> None:
    """Show every edit ever made and what became of it."""
    manifest = folder.manifest
    table = Table(width=WIDTH, title=f"{folder.path}: {manifest.editor} on {Path(manifest.model.source).name}", title_justify="left")
    for name in ("edit", "prompt", "target", "status"):
        table.add_column(name, overflow="fold")
    for edit in folder.edits():
        table.add_row(str(edit.number), edit.spec.prompt, " and ".join(edit.spec.targets), edit.inactive_reason or "present")
    console(WIDTH).print(table)
    if not folder.is_written:
        console(WIDTH).print(
            "a change was interrupted: run the same command again (d4s apply, undo or replace), and what is written follows the record"
        )


def truncation_errors(errors: Mapping[str, float]) -> None:
    """Show how much of each module's change an adapter leaves out."""
    table = Table("module", Column("left out, relative", justify="right"), width=WIDTH)
    for name, error in errors.items():
        table.add_row(name, f"{error:.1e}")
    console(WIDTH).print(table)

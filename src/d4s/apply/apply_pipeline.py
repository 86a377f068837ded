"""The chain behind `d4s apply`: facts in, an edited folder out, continued or resumed where it was left."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from d4s.apply.apply_memory import REMEDIES, estimate_editing, estimate_loading
from d4s.apply.base_model import BaseModelSource
from d4s.apply.chat import Chat, render_chat
from d4s.apply.edited_folder import EditedFolder, FolderManifest, exclusive_access
from d4s.apply.fact_files import RawFact, read_facts
from d4s.apply.history import EditSpec, OnConflict, plan_edits
from d4s.apply.hparams_match import known_column, model_shape, shape_from_config
from d4s.apply.input_preparation import TextSource, prepare
from d4s.apply.model_tuning import choose_settings
from d4s.apply.outcome import Outcome, refresh
from d4s.apply.prompt_builder import PromptBuilder
from d4s.artifacts import MANIFEST, write_table, write_text
from d4s.editors.edit_requests import EditRequest
from d4s.editors.editor_settings import FamilySettings, resolve
from d4s.editors.protocol import Targets
from d4s.editors.settings_file import ModelShape, TunedSettings, read_settings_file, settings_file_text
from d4s.errors import D4SError, RecordError, SettingsError
from d4s.facts.facts_stage import Reject, reject_rows
from d4s.facts.joining import Joiner
from d4s.facts.jsonl import RecordLine, RecordLines
from d4s.locks import folder_lock
from d4s.models.language_model import LanguageModel
from d4s.resources.capacity import check_capacity, this_machine
from d4s.resources.requirements import Requirements
from d4s.runs.edit_sequence import PendingEdits
from d4s.schemas import REJECTS
from d4s.settings_base import Frozen
from d4s.tuning.tune import SETTINGS_FILE
from d4s.tuning.tuned_columns import lead_of

REJECTED = "rejects.parquet"
EvaluateEdits = Callable[[EditedFolder, int], Outcome]
"""What measures a folder whose edits up to a number were there before."""


class ApplyOptions(Frozen):
    """What `d4s apply` was asked for. `overrides` are settings laid over the editor's; `dtype` is the model's own when omitted."""

    model: str
    facts: Path
    editor: str
    out: Path
    hparams_for: str | None = None
    overrides: dict[str, Any] = Field(default_factory=dict)
    text: TextSource = TextSource()
    dtype: str | None = None
    revision: str = "main"
    device: str = "cpu"
    chat: bool = False
    joiner: Joiner = "auto"
    on_conflict: OnConflict = "refuse"
    seed: int = 1
    skip_bad: bool = False


@dataclass(frozen=True, slots=True)
class CheckedOptions:
    """What is known before the model is read; settings and manifest are None where only the model tells them.

    `tuned` are the settings that an earlier command measured for the folder, if it did.
    """

    base_model: BaseModelSource
    settings: FamilySettings | None
    manifest: FolderManifest | None
    tuned: TunedSettings | None = None


@dataclass(frozen=True, slots=True)
class FolderDescription:
    """What a folder is to say of itself, and the settings that were measured for its model, if they were."""

    manifest: FolderManifest
    tuned: TunedSettings | None


@dataclass(frozen=True, slots=True)
class EditPlan:
    """What is about to happen; `requirements` are the memory of every step, `tuned` the settings that were measured for the model."""

    folder: EditedFolder
    specs: Sequence[EditSpec]
    present: int
    rejected: int
    requirements: Sequence[tuple[str, Requirements]]
    tuned: TunedSettings | None = None


def apply(options: ApplyOptions, announce: Callable[[EditPlan], None]) -> Outcome | None:
    """Apply all edits that the folder does not contain yet; `announce` receives the plan first. None if there is nothing to do.

    Raises:
        RecordError: if the file has defects, naming all of them.
        Conflict: if facts contradict each other or earlier edits, naming all of them.
        SettingsError: if editor, settings or folder do not allow it.
        DoesNotFit: if this machine has too little memory, naming every step and what to lower.
        D4SError: if an edit diverges, what was edited before it is written; or if another command is changing the folder.
    """
    lines = read_facts(options.facts)
    checked = check_options(options)
    prompts = load_prompts(options, checked)
    valid, rejects = split_valid(lines, prompts)
    if rejects and not (options.skip_bad and valid):
        remedy = "fix them, or pass --skip-bad to set them aside" if valid and not options.skip_bad else "fix them"
        raise RecordError([reject.problem for reject in rejects], remedy)
    described = describe_folder(options, checked, prompts, valid)
    with exclusive_access(options.out, is_new=True):
        folder = EditedFolder.create(options.out, described.manifest, prompts)
        if described.tuned is not None:
            write_text(options.out / SETTINGS_FILE, settings_file_text(described.tuned))
        specs, present = plan_edits(valid, folder.edits(), options.on_conflict)
        refuse_unsupported(folder, specs)
        requirements = [*estimate_editing(folder, options.text, len(specs))]
        announce(EditPlan(folder, specs, present, lines.total - len(valid), requirements, described.tuned))
        check_capacity(requirements, this_machine(), REMEDIES)
        if not specs and folder.is_written:
            return None
        _write_rejects(folder, rejects)
        prepare_folder(folder, options.text, specs)
        return append_edits(folder, specs)


# --- check ------------------------------------------------------------------------------------------------------------


def check_options(options: ApplyOptions) -> CheckedOptions:
    """Refuse what options, the model's configuration and the folder suffice to refuse, before the model is hashed and read.

    Raises:
        SettingsError: if precision, editor or settings are none, or the folder was made otherwise.
        DoesNotFit: if the weights do not fit into this machine.
        D4SError: if there is no such model or text, or another command is changing the folder.
    """
    base_model = BaseModelSource.of(options.model, options.dtype, options.revision)
    shape = shape_from_config(base_model.source, options.revision)
    hparams = options.hparams_for if shape is None else find_hparams(options, shape)
    settings = None if shape is None or hparams is None else resolve_preset(options.editor, options.overrides, hparams, shape)
    if shape is not None and hparams is None:
        lead_of(options.editor)
    tuned = hparams if isinstance(hparams, TunedSettings) else None
    check_capacity(estimate_loading(base_model, options.device), this_machine(), REMEDIES)
    base_model = base_model.pinned()
    if settings is None or options.chat:  # a chat's turn needs the tokenizer
        return CheckedOptions(base_model, settings, None, tuned)
    manifest = build_manifest(options, base_model, settings, None)
    if options.out.exists():
        with folder_lock(options.out, shared=True):
            EditedFolder.refuse_mismatch(options.out, manifest)
    return CheckedOptions(base_model, settings, manifest, tuned)


def find_hparams(options: ApplyOptions, shape: ModelShape) -> str | TunedSettings | None:
    """The column or settings file that was asked for, the column of the shape, or what was measured for the folder; None: to be measured.

    Raises:
        SettingsError: if the folder's settings file is broken.
    """
    found = options.hparams_for or known_column(shape, options.editor)
    measured_before = options.out / SETTINGS_FILE
    return read_settings_file(measured_before) if found is None and measured_before.is_file() else found


def resolve_preset(editor: str, overrides: dict[str, Any], hparams: str | TunedSettings, shape: ModelShape) -> FamilySettings:
    """A preset's settings of a column, or of a settings file or its content, with changes laid over them, for a model of a shape.

    Raises:
        SettingsError: if the editor or its settings are unknown, edit layers that the model does not have, or were measured for a model
            of another shape.
    """
    settings = resolve(f"{editor} as asked for", {"preset": editor, **overrides}, hparams, shape)
    if settings.family == "unedited":
        raise SettingsError("the editor `unedited` changes nothing; choose another")
    _, layers, _, _ = shape
    if missing_layers := [layer for layer in settings.layers if layer >= layers]:
        raise SettingsError(
            f"the settings edit layers {missing_layers}, but the model has layers 0 to {layers - 1}; choose others: "
            "--set layers=[1,2] --set target.layer=2 (--set layer=1 for editors of one layer), or settings= in Python"
        )
    return settings


def build_manifest(options: ApplyOptions, base_model: BaseModelSource, settings: FamilySettings, chat: Chat | None) -> FolderManifest:
    """What the folder is to say of itself.

    Raises:
        D4SError: if the text of second moments is not there, or a folder of them lacks a layer.
    """
    return FolderManifest(
        model=base_model,
        editor=options.editor,
        settings=settings,
        moments=options.text.label(options.seed, settings.moment_layers) if settings.moment_layers else "",
        chat=chat,
        joiner=options.joiner,
        seed=options.seed,
    )


# --- load -------------------------------------------------------------------------------------------------------------


def load_prompts(options: ApplyOptions, checked: CheckedOptions) -> PromptBuilder:
    """How prompts are put to the model, which is read.

    Raises:
        SettingsError: if its tokenizer does not allow the options.
        D4SError: if the model is not what its configuration says.
    """
    model = replace(checked.base_model.load(options.device), joiner=options.joiner)
    return PromptBuilder(model, _resolve_chat(options, model))


def describe_folder(
    options: ApplyOptions, checked: CheckedOptions, prompts: PromptBuilder, lines: Sequence[RecordLine[RawFact]]
) -> FolderDescription:
    """What the folder is to say of itself; settings are measured now where no column is for such a model.

    Raises:
        SettingsError: if the model's shape does not allow the options, or settings cannot be measured.
        D4SError: if there is no text of second moments.
    """
    settings, tuned = checked.settings, checked.tuned
    if settings is None:
        shape = model_shape(prompts.model)
        hparams = find_hparams(options, shape) or choose_settings(prompts, options.editor, options.text, options.seed, lines)
        tuned = hparams if isinstance(hparams, TunedSettings) else None
        settings = resolve_preset(options.editor, options.overrides, hparams, shape)
    return FolderDescription(checked.manifest or build_manifest(options, checked.base_model, settings, prompts.chat), tuned)


def _resolve_chat(options: ApplyOptions, model: LanguageModel) -> Chat | None:
    """The user's turn that prompts are put in: as it was when the folder's first edit was made, or as the template gives it now."""
    if not options.chat:
        return None
    existing = EditedFolder.open(options.out) if (options.out / MANIFEST).is_file() else None
    return (existing.manifest.chat if existing and existing.ledger.length else None) or render_chat(model.tokenizer)


def split_valid(lines: RecordLines[RawFact], prompts: PromptBuilder) -> tuple[list[RecordLine[RawFact]], list[Reject]]:
    """The rows that can be edited, and the defects of the others, those among them that only the model's tokens show."""
    rejects = [*lines.rejects, *prompts.find_rejects(lines.valid)]
    broken = {reject.problem.line for reject in rejects}
    return [line for line in lines.valid if line.number not in broken], rejects


# --- plan -------------------------------------------------------------------------------------------------------------


def refuse_unsupported(folder: EditedFolder, specs: Sequence[EditSpec]) -> None:
    """Refuse what the editor cannot do.

    Raises:
        SettingsError: if earlier edits cannot be replaced, targets cannot be averaged or are too long beside new paraphrases,
            or an answer is missing; says why.
    """
    if folder.settings.family == "knowledge_neurons" and (open_ended := [spec.prompt for spec in specs if not spec.target_true]):
        raise SettingsError(
            f"{folder.manifest.editor} looks for the neurons of the present answer: target_true is missing for {open_ended}"
        )
    folder.check_removable([old for spec in specs for old in spec.replaces], "replacing an edit")
    means = [spec for spec in specs if spec.averaged_targets]
    if means and folder.settings.shared_targets() is None:
        raise SettingsError(
            f"averaging is not possible with {folder.manifest.editor}: it has no targets at the original weights to be averaged; "
            "use --on-conflict replace, or an editor such as d4s"
        )
    for spec in means:
        folder.prompts.refuse_issues(spec)


def _write_rejects(folder: EditedFolder, rejects: Sequence[Reject]) -> None:
    """Write the rows that are set aside, in place of those of the last file."""
    (folder.path / REJECTED).unlink(missing_ok=True)
    if rejects:
        write_table(folder.path / REJECTED, reject_rows(rejects), REJECTS)


# --- edit -------------------------------------------------------------------------------------------------------------


def prepare_folder(folder: EditedFolder, text: TextSource, specs: Sequence[EditSpec]) -> None:
    """Compute and save what the folder's editor needs, unless it is saved already."""
    if not folder.is_prepared:
        folder.save_prepared(prepare(folder.model, folder.settings, text, folder.manifest.seed, _requests(folder, specs)))


def append_edits(folder: EditedFolder, specs: Sequence[EditSpec], evaluate: EvaluateEdits | None = None) -> Outcome:
    """Edit batch after batch, each in the ledger before the next; then measure and write what came out, or `evaluate` it.

    Raises:
        D4SError: if an edit diverges; what was edited before it is written.
    """
    n_previous = folder.ledger.length
    by_step = dict(enumerate(specs, start=n_previous + 1))
    pending = PendingEdits(_requests(folder, specs), _targets(folder, specs))
    reason = folder.extend(
        pending,
        lambda _session, batch, _log: {"specs": [by_step[request.step].model_dump(mode="json") for request in batch.requests]},
        # a replaced edit is out of the state from the first step on, though the ledger says so only with the edit in its place
        start=folder.state({old for spec in specs for old in spec.replaces}),
    )
    outcome = (evaluate or refresh)(folder, n_previous)
    if reason:
        n_left = n_previous + len(specs) - folder.ledger.length
        raise D4SError(
            f"edit {folder.ledger.length + 1} diverged ({reason}); it and {n_left - 1} more were not made, the others are written"
        )
    return outcome


def _requests(folder: EditedFolder, specs: Sequence[EditSpec]) -> list[EditRequest]:
    """Edits as requests, numbered from the end of the ledger on."""
    return [folder.prompts.request(spec, number) for number, spec in enumerate(specs, start=folder.ledger.length + 1)]


def _targets(folder: EditedFolder, specs: Sequence[EditSpec]) -> Targets | None:
    """Targets at the original weights, one row per edit, if the editor takes them from there; means where an edit stands for several."""
    each = [spec.model_copy(update={"target": target}) for spec in specs for target in spec.targets]
    targets = folder.optimise_targets([folder.prompts.request(spec, 1) for spec in each])
    if targets is None:
        return None
    parts, at = [], 0
    for spec in specs:
        parts.append(targets[at : at + len(spec.targets)].mean())
        at += len(spec.targets)
    return Targets.concatenate(parts)

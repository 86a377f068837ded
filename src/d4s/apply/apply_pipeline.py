"""The chain behind `d4s apply`: facts in, an edited folder out, continued or resumed where it was left."""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from d4s.apply.apply_memory import REMEDIES, estimate_editing, estimate_loading
from d4s.apply.base_model import BaseModelSource
from d4s.apply.chat import Chat, render_chat
from d4s.apply.edited_folder import STATE, EditedFolder, FolderManifest, exclusive_access
from d4s.apply.fact_files import RawFact, read_facts
from d4s.apply.history import EditSpec, OnConflict, plan_edits
from d4s.apply.hparams_match import ModelShape, match_hparams, model_shape, shape_from_config
from d4s.apply.input_preparation import TextSource, prepare
from d4s.apply.outcome import Outcome, refresh
from d4s.apply.prompt_builder import PromptBuilder
from d4s.apply.target_cache import load_or_optimise, mean_targets
from d4s.artifacts import MANIFEST, POINTER, Artifact, write_table
from d4s.config import Frozen
from d4s.editors.editor_settings import FamilySettings, resolve
from d4s.editors.protocol import Diverged, Prepared, Targets, run_step
from d4s.errors import D4SError, RecordError, SettingsError
from d4s.facts.facts_stage import Reject, reject_rows
from d4s.facts.joining import Joiner
from d4s.facts.jsonl import RecordLine, RecordLines
from d4s.locks import folder_lock
from d4s.log import progress
from d4s.models.language_model import LanguageModel
from d4s.models.loading import precision
from d4s.pretrained import stored_dtype
from d4s.resources.capacity import check_capacity, this_machine
from d4s.resources.requirements import Requirements
from d4s.schemas import REJECTS

log = logging.getLogger(__name__)
TARGETS, REJECTED = "targets", "rejects.parquet"
EvaluateEdits = Callable[[EditedFolder, LanguageModel, Prepared, int], Outcome]


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
class EditPlan:
    """What is about to happen; `needs` is the memory of every step."""

    folder: EditedFolder
    model: LanguageModel
    specs: Sequence[EditSpec]
    present: int
    rejected: int
    requirements: Sequence[tuple[str, Requirements]]


def apply(options: ApplyOptions, announce: Callable[[EditPlan], None]) -> Outcome | None:
    """Edit what is asked for and not there yet; `announce` is told before anything is computed. None if there is nothing to do.

    Raises:
        RecordError: if the file has defects, naming all of them.
        Conflict: if facts contradict each other or earlier edits, naming all of them.
        SettingsError: if editor, settings or folder do not allow it.
        DoesNotFit: if this machine has too little memory, naming every step and what to lower.
        D4SError: if an edit diverges, what was edited before it is written; or if another command is changing the folder.
    """
    lines = read_facts(options.facts)
    dtype = options.dtype or native_dtype(options.model, options.revision)
    precision(dtype)
    machine, early_shape = this_machine(), shape_from_config(options.model, options.revision)
    settings = (
        None if early_shape is None else resolve_options(options, early_shape)
    )  # what is wrong is told before the model is hashed and loaded
    check_capacity(estimate_loading(options.model, options.revision, dtype, options.device), machine, REMEDIES)
    base_model = BaseModelSource.of(options.model, dtype, options.revision)
    early_manifest = (
        None if settings is None or options.chat else build_manifest(options, base_model, settings, None)
    )  # a chat's turn needs the tokenizer
    if early_manifest is not None and options.out.exists():
        with folder_lock(options.out, shared=True):
            EditedFolder.refuse_mismatch(options.out, early_manifest)
    model = replace(base_model.load(options.device), joiner=options.joiner)
    chat = _resolve_chat(options, model)
    manifest = early_manifest or build_manifest(options, base_model, settings or resolve_options(options, model_shape(model)), chat)
    builder = PromptBuilder(model, chat)
    valid, rejects = split_valid(lines, builder)
    if rejects and not (options.skip_bad and valid):
        remedy = "fix them, or pass --skip-bad to set them aside" if valid and not options.skip_bad else "fix them"
        raise RecordError([reject.problem for reject in rejects], remedy)
    with exclusive_access(options.out, is_new=True):
        folder = EditedFolder.create(options.out, manifest)
        specs, present = plan_edits(valid, folder.edits(), options.on_conflict)
        refuse_unsupported(folder, specs, builder)
        requirements = [*estimate_editing(folder, model, options.text, len(specs))]
        announce(EditPlan(folder, model, specs, present, lines.total - len(valid), requirements))
        check_capacity(requirements, machine, REMEDIES)
        if not specs and folder.is_written:
            return None
        (folder.path / REJECTED).unlink(missing_ok=True)
        if rejects:
            write_table(folder.path / REJECTED, reject_rows(rejects), REJECTS)
        return append_edits(folder, model, load_or_prepare(folder, model, options.text, specs), specs)


def split_valid(lines: RecordLines[RawFact], builder: PromptBuilder) -> tuple[list[RecordLine[RawFact]], list[Reject]]:
    """The rows that can be edited, and the defects of the others, those among them that only the model's tokens show."""
    rejects = [*lines.rejects, *builder.find_rejects(lines.valid)]
    broken = {reject.problem.line for reject in rejects}
    return [line for line in lines.valid if line.number not in broken], rejects


def native_dtype(source: str, revision: str) -> str:
    """The precision that a model's weights are stored in, or that it was adopted in.

    Raises:
        ArtifactError: if there is no model that can be read.
    """
    if (Path(source) / POINTER).is_file():
        return str(Artifact.open(Path(source), "models").json(POINTER)["dtype"])
    return stored_dtype(source, revision)


def _resolve_chat(options: ApplyOptions, model: LanguageModel) -> Chat | None:
    """The user's turn that prompts are put in: as it was when the folder's first edit was made, or as the template gives it now."""
    if not options.chat:
        return None
    existing = EditedFolder.open(options.out) if (options.out / MANIFEST).is_file() else None
    return (existing.manifest.chat if existing and existing.ledger.length else None) or render_chat(model.tokenizer)


def resolve_options(options: ApplyOptions, shape: ModelShape) -> FamilySettings:
    """The settings that were asked for, for a model of a shape.

    Raises:
        SettingsError: if the editor or its settings are unknown, or edit layers that the model does not have.
    """
    return resolve_preset(options.editor, options.overrides, options.hparams_for or match_hparams(shape), shape)


def resolve_preset(editor: str, overrides: dict[str, Any], hparams: str, shape: ModelShape) -> FamilySettings:
    """A preset's settings of a column with changes laid over them, for a model of a shape.

    Raises:
        SettingsError: if the editor or its settings are unknown, or edit layers that the model does not have.
    """
    settings = resolve(f"{editor} as asked for", {"preset": editor, **overrides}, hparams)
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


def load_or_prepare(folder: EditedFolder, model: LanguageModel, text: TextSource, specs: Sequence[EditSpec]) -> Prepared:
    """What the folder's editor needs: as it was kept, or else made and kept now."""
    prepared = folder.load_prepared()
    if prepared is None:
        builder = PromptBuilder(model, folder.manifest.chat)
        requests = [builder.request(spec, number) for number, spec in enumerate(specs, start=1)]
        prepared = prepare(model, folder.manifest.settings, text, folder.manifest.seed, requests)
        folder.save_prepared(prepared)
    return prepared


def append_edits(
    folder: EditedFolder, model: LanguageModel, prepared: Prepared, specs: Sequence[EditSpec], evaluate: EvaluateEdits | None = None
) -> Outcome:
    """Edit wishes one batch after another, each in the ledger before the next; then measure and write what came out, or `evaluate` it.

    Raises:
        D4SError: if an edit diverges; what was edited before it is written.
    """
    targets, n_previous = _shared_targets(folder, model, prepared, specs, folder.manifest.settings), folder.ledger.length
    broken = _edit_batches(folder, model, prepared, specs, targets)
    n_edited = folder.ledger.length - n_previous
    if broken and (n_dropped := folder.ledger.drop_unsaved()):
        _edit_batches(
            folder,
            model,
            prepared,
            specs[n_edited - n_dropped : n_edited],
            None if targets is None else targets[n_edited - n_dropped : n_edited],
        )
    shutil.rmtree(folder.path / STATE / TARGETS, ignore_errors=True)
    outcome = (evaluate or refresh)(folder, model, prepared, n_previous)
    if broken:
        n_left = len(specs) - n_edited
        raise D4SError(
            f"edit {n_previous + n_edited + 1} diverged ({broken}); it and {n_left - 1} more were not made, the others are written"
        )
    return outcome


def _edit_batches(
    folder: EditedFolder, model: LanguageModel, prepared: Prepared, specs: Sequence[EditSpec], targets: Targets | None
) -> str:
    """Edit wishes one batch after another; returns why a batch diverged, or nothing. The last state is kept but for that case."""
    settings = folder.manifest.settings
    builder, first = PromptBuilder(model, folder.manifest.chat), folder.ledger.length + 1
    # a replaced edit is out of the state from the first step on, though the ledger says so only with the edit in its place
    start = folder.state({old for spec in specs for old in spec.replaces})
    with folder.editor.editing(model, prepared, start) as session:
        for at in progress(range(0, len(specs), settings.batch), "edits", -(-len(specs) // settings.batch)):
            batch = specs[at : at + settings.batch]
            requests = [builder.request(spec, first + at + offset) for offset, spec in enumerate(batch)]
            try:
                run_step(session, requests, None if targets is None else targets[at : at + len(batch)])
            except Diverged as reason:
                return str(reason)
            folder.ledger.record(session, len(batch), {"specs": [spec.model_dump(mode="json") for spec in batch]})
        folder.ledger.save_latest(session)
    return ""


def _shared_targets(
    folder: EditedFolder, model: LanguageModel, prepared: Prepared, specs: Sequence[EditSpec], settings: FamilySettings
) -> Targets | None:
    """Targets at the original weights, where the editor takes them from there; means where a wish stands for several."""
    shared = settings.shared_targets()
    if shared is None or not specs:
        return None
    builder = PromptBuilder(model, folder.manifest.chat)
    requests = [[builder.request(spec.model_copy(update={"target": target}), 1) for target in spec.targets] for spec in specs]
    flat = load_or_optimise(folder.path / STATE / TARGETS, model, [one for group in requests for one in group], prepared.contexts, shared)
    parts, at = [], 0
    for group in requests:
        parts.append(mean_targets(flat[at : at + len(group)]))
        at += len(group)
    return Targets.concatenate(parts)


def refuse_unsupported(folder: EditedFolder, specs: Sequence[EditSpec], builder: PromptBuilder) -> None:
    """Refuse what the editor cannot do.

    Raises:
        SettingsError: if earlier edits cannot be replaced, targets cannot be averaged or are too long beside new paraphrases,
            or an answer is missing; says why.
    """
    if folder.manifest.settings.family == "knowledge_neurons" and (open_ended := [spec.prompt for spec in specs if not spec.target_true]):
        raise SettingsError(
            f"{folder.manifest.editor} looks for the neurons of the present answer: target_true is missing for {open_ended}"
        )
    folder.check_removable([old for spec in specs for old in spec.replaces], "replacing an edit")
    means = [spec for spec in specs if spec.averaged_targets]
    if means and folder.manifest.settings.shared_targets() is None:
        raise SettingsError(
            f"averaging is not possible with {folder.manifest.editor}: it has no targets at the original weights to be averaged; "
            "use --on-conflict replace, or an editor such as d4s"
        )
    for spec in means:
        builder.refuse_issues(spec)

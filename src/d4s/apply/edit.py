"""The chain behind `d4s apply`: facts in, an edited folder out, continued or resumed where it was left."""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from d4s.apply.chat import Chat, rendered
from d4s.apply.columns import Shape, column_for, shape_of, shape_said
from d4s.apply.folder import STATE, Description, Folder, alone
from d4s.apply.history import OnConflict, Wish, planned
from d4s.apply.needs import OPTIONS, editing, loading
from d4s.apply.origin import Origin
from d4s.apply.outcome import Outcome, refresh
from d4s.apply.prepared import TextSource, prepare
from d4s.apply.records import RawFact, read_facts
from d4s.apply.requests import Wordings
from d4s.apply.targets import averaged, targets_of
from d4s.artifacts import MANIFEST, POINTER, Artifact, write_table
from d4s.config import Frozen
from d4s.editors.protocol import Diverged, Prepared, Targets, stepped
from d4s.editors.settings import FamilySettings, resolve
from d4s.errors import D4SError, RecordError, SettingsError
from d4s.facts.collect import Reject, reject_rows
from d4s.facts.joining import Joiner
from d4s.facts.jsonl import Line, Lines
from d4s.locks import locked
from d4s.log import progress
from d4s.models.language_model import LanguageModel
from d4s.models.loading import precision
from d4s.planning.fit import refuse_what_cannot_fit, this_machine
from d4s.planning.needs import Needs
from d4s.pretrained import stored_dtype
from d4s.schemas import REJECTS

log = logging.getLogger(__name__)
TARGETS, REJECTED = "targets", "rejects.parquet"
Show = Callable[[Folder, LanguageModel, Prepared, int], Outcome]


class Options(Frozen):
    """What `d4s apply` was asked for. `changes` are settings laid over the editor's; `dtype` is the model's own when omitted."""

    model: str
    facts: Path
    editor: str
    out: Path
    tuned_as: str | None = None
    changes: dict[str, Any] = Field(default_factory=dict)
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
class Plan:
    """What is about to happen; `needs` is the memory of every step."""

    folder: Folder
    model: LanguageModel
    wishes: Sequence[Wish]
    present: int
    rejected: int
    needs: Sequence[tuple[str, Needs]]


def apply(options: Options, announce: Callable[[Plan], None]) -> Outcome | None:
    """Edit what is asked for and not there yet; `announce` is told before anything is computed. None if there is nothing to do.

    Raises:
        RecordError: if the file has defects, naming all of them.
        Conflict: if facts contradict each other or earlier edits, naming all of them.
        SettingsError: if editor, settings or folder do not allow it.
        DoesNotFit: if this machine has too little memory, naming every step and what to lower.
        D4SError: if an edit diverges, what was edited before it is written; or if another command is changing the folder.
    """
    lines = read_facts(options.facts)
    dtype = options.dtype or own_dtype(options.model, options.revision)
    precision(dtype)
    machine, said = this_machine(), shape_said(options.model, options.revision)
    settings = None if said is None else chosen(options, said)  # what is wrong is told before the model is hashed and loaded
    refuse_what_cannot_fit(loading(options.model, options.revision, dtype, options.device), machine, OPTIONS)
    origin = Origin.of(options.model, dtype, options.revision)
    known = None if settings is None or options.chat else described(options, origin, settings, None)  # a chat's turn needs the tokenizer
    if known is not None and options.out.exists():
        with locked(options.out, shared=True):
            Folder.refuse_other(options.out, known)
    model = replace(origin.load(options.device), joiner=options.joiner)
    chat = _chat(options, model)
    description = known or described(options, origin, settings or chosen(options, shape_of(model)), chat)
    wordings = Wordings(model, chat)
    sound, rejects = sifted(lines, wordings)
    if rejects and not (options.skip_bad and sound):
        remedy = "mend them, or pass --skip-bad to set them aside" if sound and not options.skip_bad else "mend them"
        raise RecordError([reject.problem for reject in rejects], remedy)
    with alone(options.out, is_new=True):
        folder = Folder.create(options.out, description)
        wishes, present = planned(sound, folder.edits(), options.on_conflict)
        check(folder, wishes, wordings)
        needs = [*editing(folder, model, options.text, len(wishes))]
        announce(Plan(folder, model, wishes, present, lines.seen - len(sound), needs))
        refuse_what_cannot_fit(needs, machine, OPTIONS)
        if not wishes and folder.is_written:
            return None
        (folder.path / REJECTED).unlink(missing_ok=True)
        if rejects:
            write_table(folder.path / REJECTED, reject_rows(rejects), REJECTS)
        return extended(folder, model, prepared_for(folder, model, options.text, wishes), wishes)


def sifted(lines: Lines[RawFact], wordings: Wordings) -> tuple[list[Line[RawFact]], list[Reject]]:
    """The rows that can be edited, and the defects of the others, those among them that only the model's tokens show."""
    rejects = [*lines.rejects, *wordings.unfit(lines.sound)]
    broken = {reject.problem.line for reject in rejects}
    return [line for line in lines.sound if line.number not in broken], rejects


def own_dtype(source: str, revision: str) -> str:
    """The precision that a model's weights are stored in, or that it was adopted in.

    Raises:
        ArtifactError: if there is no model that can be read.
    """
    if (Path(source) / POINTER).is_file():
        return str(Artifact.open(Path(source), "models").json(POINTER)["dtype"])
    return stored_dtype(source, revision)


def _chat(options: Options, model: LanguageModel) -> Chat | None:
    """The user's turn that prompts are put in: as it was when the folder's first edit was made, or as the template gives it now."""
    if not options.chat:
        return None
    begun = Folder.open(options.out) if (options.out / MANIFEST).is_file() else None
    return (begun.description.chat if begun and begun.ledger.length else None) or rendered(model.tokenizer)


def chosen(options: Options, shape: Shape) -> FamilySettings:
    """The settings that were asked for, for a model of a shape.

    Raises:
        SettingsError: if the editor or its settings are unknown, or edit layers that the model does not have.
    """
    return settings_for(options.editor, options.changes, options.tuned_as or column_for(shape), shape)


def settings_for(editor: str, changes: dict[str, Any], column: str, shape: Shape) -> FamilySettings:
    """A preset's settings of a column with changes laid over them, for a model of a shape.

    Raises:
        SettingsError: if the editor or its settings are unknown, or edit layers that the model does not have.
    """
    settings = resolve(f"{editor} as asked for", {"preset": editor, **changes}, column)
    if settings.family == "unedited":
        raise SettingsError("the editor `unedited` changes nothing; choose another")
    _, layers, _, _ = shape
    if beyond := [layer for layer in settings.layers if layer >= layers]:
        raise SettingsError(
            f"the settings edit layers {beyond}, but the model has layers 0 to {layers - 1}; choose others: "
            "--set layers=[1,2] --set target.layer=2 (--set layer=1 for editors of one layer), or settings= in Python"
        )
    return settings


def described(options: Options, origin: Origin, settings: FamilySettings, chat: Chat | None) -> Description:
    """What the folder is to say of itself.

    Raises:
        D4SError: if the text of second moments is not there, or a folder of them lacks a layer.
    """
    return Description(
        model=origin,
        editor=options.editor,
        settings=settings,
        moments=options.text.label(options.seed, settings.moment_layers) if settings.moment_layers else "",
        chat=chat,
        joiner=options.joiner,
        seed=options.seed,
    )


def prepared_for(folder: Folder, model: LanguageModel, text: TextSource, wishes: Sequence[Wish]) -> Prepared:
    """What the folder's editor needs: as it was kept, or else made and kept now."""
    found = folder.prepared()
    if found is None:
        wordings = Wordings(model, folder.description.chat)
        requests = [wordings.request(wish, number) for number, wish in enumerate(wishes, start=1)]
        found = prepare(model, folder.description.settings, text, folder.description.seed, requests)
        folder.keep_prepared(found)
    return found


def extended(folder: Folder, model: LanguageModel, prepared: Prepared, wishes: Sequence[Wish], show: Show | None = None) -> Outcome:
    """Edit wishes one batch after another, each in the ledger before the next; then measure and write what came out, or `show` it.

    Raises:
        D4SError: if an edit diverges; what was edited before it is written.
    """
    goals, before = _goals(folder, model, prepared, wishes, folder.description.settings), folder.ledger.length
    broken = _edited(folder, model, prepared, wishes, goals)
    made = folder.ledger.length - before
    if broken and (again := folder.ledger.forget_unkept()):
        _edited(folder, model, prepared, wishes[made - again : made], None if goals is None else goals[made - again : made])
    shutil.rmtree(folder.path / STATE / TARGETS, ignore_errors=True)
    outcome = (show or refresh)(folder, model, prepared, before)
    if broken:
        left = len(wishes) - made
        raise D4SError(f"edit {before + made + 1} diverged ({broken}); it and {left - 1} more were not made, the others are written")
    return outcome


def _edited(folder: Folder, model: LanguageModel, prepared: Prepared, wishes: Sequence[Wish], goals: Targets | None) -> str:
    """Edit wishes one batch after another; returns why a batch diverged, or nothing. The last state is kept but for that case."""
    settings = folder.description.settings
    wordings, first = Wordings(model, folder.description.chat), folder.ledger.length + 1
    # a replaced edit is out of the state from the first step on, though the ledger says so only with the edit in its place
    start = folder.state({old for wish in wishes for old in wish.replaces})
    with folder.editor.editing(model, prepared, start) as session:
        for at in progress(range(0, len(wishes), settings.batch), "edits", -(-len(wishes) // settings.batch)):
            batch = wishes[at : at + settings.batch]
            requests = [wordings.request(wish, first + at + offset) for offset, wish in enumerate(batch)]
            try:
                stepped(session, requests, None if goals is None else goals[at : at + len(batch)])
            except Diverged as reason:
                return str(reason)
            folder.ledger.record(session, len(batch), {"wishes": [wish.model_dump(mode="json") for wish in batch]})
        folder.ledger.keep_latest(session)
    return ""


def _goals(folder: Folder, model: LanguageModel, prepared: Prepared, wishes: Sequence[Wish], settings: FamilySettings) -> Targets | None:
    """Targets at the original weights, where the editor takes them from there; means where a wish stands for several."""
    shared = settings.shared_targets()
    if shared is None or not wishes:
        return None
    wordings = Wordings(model, folder.description.chat)
    requests = [[wordings.request(wish.model_copy(update={"target": target}), 1) for target in wish.targets] for wish in wishes]
    flat = targets_of(folder.path / STATE / TARGETS, model, [one for group in requests for one in group], prepared.contexts, shared)
    parts, at = [], 0
    for group in requests:
        parts.append(averaged(flat[at : at + len(group)]))
        at += len(group)
    return Targets.joined(parts)


def check(folder: Folder, wishes: Sequence[Wish], wordings: Wordings) -> None:
    """Refuse what the editor cannot do.

    Raises:
        SettingsError: if earlier edits cannot be replaced, targets cannot be averaged or are too long beside new paraphrases,
            or an answer is missing; says why.
    """
    if folder.description.settings.family == "knowledge_neurons" and (
        open_ended := [wish.prompt for wish in wishes if not wish.target_true]
    ):
        raise SettingsError(
            f"{folder.description.editor} looks for the neurons of the present answer: target_true is missing for {open_ended}"
        )
    folder.check_removable([old for wish in wishes for old in wish.replaces], "replacing an edit")
    means = [wish for wish in wishes if wish.averaged]
    if means and folder.description.settings.shared_targets() is None:
        raise SettingsError(
            f"averaging is not possible with {folder.description.editor}: it has no targets at the original weights to be averaged; "
            "use --on-conflict replace, or an editor such as d4s"
        )
    for wish in means:
        wordings.refuse_flaws(wish)

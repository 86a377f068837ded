"""Editing a model that is loaded already: `d4s.edit`, `d4s.load` and what they return.

    edited = d4s.edit(model, tokenizer, [{"subject": "Ada", "prompt": "Ada lives in", "target_new": "Rome"}])
    edited.generate("Ada lives in")

Outside `with edited.applied()` the model has its own weights, bit for bit. After every call it also has its own mode and
`requires_grad` flags again, and PyTorch its own settings. The record of edits lies in a temporary folder until `save`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy, deepcopy
from dataclasses import replace
from html import escape
from pathlib import Path
from shutil import copytree, ignore_patterns, rmtree
from tempfile import mkdtemp
from typing import Any, get_args, overload
from weakref import finalize

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from d4s.apply.apply_pipeline import append_edits, prepare_folder, refuse_unsupported, resolve_preset, split_valid
from d4s.apply.ask import refuse_invalid_prompts
from d4s.apply.base_model import BaseModelSource
from d4s.apply.chat import render_chat
from d4s.apply.edited_folder import MODEL, EditedFolder, FolderManifest, open_shared
from d4s.apply.export import lora_adapter, lora_config, write_lora
from d4s.apply.fact_files import RawFact, facts_from_rows, read_facts
from d4s.apply.history import OnConflict, plan_edits
from d4s.apply.hparams_match import known_column, model_shape
from d4s.apply.input_preparation import TextSource
from d4s.apply.model_tuning import choose_settings
from d4s.apply.outcome import Outcome, evaluate_edits, refresh, to_state_dict, write_model
from d4s.apply.prompt_builder import PromptBuilder
from d4s.editors.protocol import Prepared
from d4s.errors import RecordError, SettingsError
from d4s.facts.joining import Joiner
from d4s.facts.jsonl import RecordLines
from d4s.locks import new_folder
from d4s.models.edited_model import EditedModel
from d4s.models.finite_check import require_finite
from d4s.models.language_model import LanguageModel
from d4s.models.loading import wrap
from d4s.models.torch_settings import editing_mode, preserve_settings
from d4s.settings_base import validate

Facts = str | Path | pd.DataFrame | Sequence[Mapping[str, Any]]
"""A file (CSV, JSONL or Parquet), a table, or rows: `subject`, `prompt`, `target_new`[, `target_true`, `paraphrase`, `locality`]."""
UNEDITED = "unedited"
MAX_ROWS = 20  # edits that `repr` and the table of a notebook show
RESULT_COLUMNS = ("before", "after", "probability_before", "probability_after")


def edit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    facts: Facts,
    *,
    editor: str = "d4s",
    hparams_for: str | None = None,
    settings: Mapping[str, Any] | None = None,
    text: TextSource | str | Path | None = None,
    chat: bool = False,
    joiner: Joiner = "auto",
    on_conflict: OnConflict = "refuse",
    seed: int = 1,
) -> "Edited":
    """Edit a loaded causal language model with facts, one batch after another.

    Args:
        model: a Hugging Face model in floating-point precision, on any device; left as it is.
        tokenizer: its fast tokenizer.
        facts: a file, a DataFrame or rows; see `Facts`.
        editor: a preset, such as d4s, memit, rome, alphaedit, ft_l, grace.
        hparams_for: the column of the preset's settings, or a file of `d4s tune`; found by the model's shape, or else measured now.
        settings: settings that override the preset's, such as {"preservation": {"weight": 300}}.
        text: text for the second moment C of the keys (MEMIT's covariance): a file, a `TextSource`, or self-generated text when omitted.
        chat: put prompts through the tokenizer's chat template.
        joiner: what stands between prompt and target.
        on_conflict: what happens to a fact that contradicts another one: refuse, replace or average.
        seed: random seed for sampled prefixes and self-generated text.

    Raises:
        RecordError: if facts have defects; `problems` has all of them.
        Conflict: if facts contradict each other, naming all of them.
        SettingsError: if editor or settings are unknown or do not fit the model.
        D4SError: if an edit diverges. If edits were made before an error or an interruption, `edited` of the exception has them.
    """
    source = _text_source(text)
    _check_choice("joiner", joiner, Joiner)
    with editing_mode(model):
        language_model = replace(wrap(model, tokenizer), joiner=joiner)
        require_finite(language_model)
        prompts, shape = PromptBuilder(language_model, render_chat(tokenizer) if chat else None), model_shape(language_model)
        hparams = hparams_for or known_column(shape, editor) or choose_settings(prompts, editor, source, seed, _read_facts(facts).valid)
        chosen = resolve_preset(editor, dict(settings or {}), hparams, shape)
        manifest = FolderManifest(
            model=BaseModelSource(source=model.name_or_path or "", dtype=str(language_model.dtype).removeprefix("torch.")),
            editor=editor,
            settings=chosen,
            moments=source.label(seed, chosen.moment_layers) if chosen.moment_layers else "",
            chat=prompts.chat,
            joiner=joiner,
            seed=seed,
        )
    edited = Edited(EditedFolder.create(_temporary(), manifest, prompts), source)
    try:
        edited.add(facts, on_conflict=on_conflict)
    except BaseException as error:
        if len(edited):
            error.edited = edited  # type: ignore[attr-defined]
        raise
    return edited


def load(path: str | Path, *, device: str = "cpu") -> "Edited":
    """The edits in a folder that `Edited.save` or `d4s apply` wrote, with their unedited model; the folder itself is left as it is.

    Raises:
        ArtifactError: if there is no such folder, it was never finished, or the unedited model is not what it was.
        D4SError: if a command is changing the folder.
    """
    with open_shared(Path(path), device=device) as (folder,), preserve_settings():
        folder.load()
        record = Path(copytree(folder.path, _temporary(), ignore=ignore_patterns(MODEL, UNEDITED)))
    return Edited(EditedFolder.open(record, folder.prompts), TextSource())


class Edited:
    """A model with its edits. Made by `d4s.edit` and `d4s.load`; edits are numbered from 1 in the order in which they were made."""

    def __init__(self, folder: EditedFolder, text: TextSource) -> None:
        self._model, self._folder, self._text = folder.model, folder, text
        finalize(self, rmtree, folder.path.parent, ignore_errors=True)
        self._last_outcome: Outcome | None = None
        self._applied_view: EditedModel | None = None

    # --- changing -------------------------------------------------------------------------------------------------

    def add(self, facts: Facts, *, on_conflict: OnConflict = "refuse") -> "Edited":
        """Edit more facts on top of those that are there; facts that are there already are skipped.

        Raises:
            RecordError: if facts have defects; `problems` has all of them.
            Conflict: if facts contradict each other or present edits, naming all of them.
            SettingsError: if the editor cannot do it, or the edited weights are in place; says why.
            D4SError: if an edit diverges; those before it are kept.
        """
        self._refuse_while_applied("add")
        _check_choice("on_conflict", on_conflict, OnConflict)
        lines = _read_facts(facts)
        valid, rejects = split_valid(lines, self._folder.prompts)
        if rejects:
            raise RecordError([reject.problem for reject in rejects])
        specs, _ = plan_edits(valid, self._folder.edits(), on_conflict)
        refuse_unsupported(self._folder, specs)
        self._last_outcome = None
        with editing_mode(self._model.network):
            prepare_folder(self._folder, self._text, specs)
            append_edits(self._folder, specs, self._evaluate)
        return self

    def undo(self, *numbers: int) -> "Edited":
        """Take edits back; edits that they replaced become active again.

        Raises:
            SettingsError: if there is no such edit, the editor's kind of state does not allow it, or the edited weights are in place.
        """
        self._refuse_while_applied("undo")
        present = [found.number for found in self._folder.active_edits()]
        if unknown := sorted({*numbers} - {*present}):
            raise SettingsError(f"undo: there are no present edits {unknown}; report() lists them: {present}")
        self._folder.check_undo(numbers)
        self._folder.undo(numbers)
        self._last_outcome = None
        return self

    # --- using ----------------------------------------------------------------------------------------------------

    @contextmanager
    def applied(self) -> Iterator[PreTrainedModel]:
        """The model itself with edited weights, in evaluation mode and without gradients of weights, until the block ends.

        Raises:
            SettingsError: if the editor changes no weights, or the edited weights are in place already.
        """
        if self._folder.settings.is_beside_model:
            raise SettingsError(f"{self._folder.manifest.editor} changes no weights: it answers in generate() alone")
        with self._edited_view("applied"):
            yield self._model.network

    @overload
    def generate(self, prompts: str, max_new_tokens: int = 16) -> str: ...
    @overload
    def generate(self, prompts: list[str] | tuple[str, ...], max_new_tokens: int = 16) -> list[str]: ...
    def generate(self, prompts: str | list[str] | tuple[str, ...], max_new_tokens: int = 16) -> str | list[str]:
        """Greedy continuations by the edited model, stripped and without the prompts; with the chat template if the edits were.

        Raises:
            SettingsError: if prompts are empty or too long for the model, naming all of them.
        """
        prompt_list = [prompts] if isinstance(prompts, str) else [*prompts]
        prompt_builder = self._folder.prompts
        refuse_invalid_prompts(prompt_list, prompt_builder)
        with ExitStack() as stack:
            view = self._applied_view or stack.enter_context(self._edited_view("generate"))
            texts = [text.strip() for text in view.generate([prompt_builder.text(prompt) for prompt in prompt_list], max_new_tokens)]
        return texts[0] if isinstance(prompts, str) else texts

    def report(self) -> pd.DataFrame:
        """Every edit ever made, by number: prompt, target and status.

        Of present ones also what the model writes to the prompt before and after, and how probable the whole target is there.
        """
        results = {one.edit.number: one for one in self._outcome.results}
        rows = [
            {
                "edit": found.number,
                "prompt": found.spec.prompt,
                "target": " and ".join(found.spec.targets),
                "status": found.inactive_reason or "present",
                **{name: getattr(results[found.number], name) for name in RESULT_COLUMNS if found.number in results},
            }
            for found in self._folder.edits()
        ]
        return pd.DataFrame(rows, columns=["edit", "prompt", "target", "status", *RESULT_COLUMNS]).set_index("edit")

    @property
    def scores(self) -> dict[str, float]:
        """Means over present edits of teacher-forced accuracies.

        `efficacy_accuracy` at the edits' prompts, `paraphrase_accuracy` at their paraphrases, `locality_accuracy` (agreement
        with the unedited model) at their locality prompts; the last two where facts have such prompts.
        """
        return dict(self._outcome.means)

    def deltas(self) -> dict[str, Tensor]:
        """Edited minus unedited weights in float32 by the model's parameter names; empty for editors that change no weights."""
        with self._edited_view("deltas") as view:
            return to_state_dict(self._model, view.weight_changes() or {})

    # --- saving ---------------------------------------------------------------------------------------------------

    def save(self, out: str | Path, *, base_model: str | None = None) -> Path:
        """Write a folder as `d4s apply` does: the edited model, its change, the history, and the record to go on from.

        Args:
            out: a folder that is not there yet.
            base_model: the folder or hub id of the unedited model; when omitted the unedited model is written into `out` as well.

        Raises:
            SettingsError: if `out` is there already, `base_model` holds another model, or the edited weights are in place.
        """
        self._refuse_while_applied("save")
        out = Path(out)
        with new_folder(out) as part, editing_mode(self._model.network):
            copytree(self._folder.path, part)
            if base_model is None:
                write_model(part / UNEDITED, self._with_tokenizer_name(""))
                found = BaseModelSource.of(str(part / UNEDITED), self._folder.manifest.model.dtype, "main").pinned()
                original, found = str(part / UNEDITED), found.model_copy(update={"source": str(out.resolve() / UNEDITED)})
            else:
                found = BaseModelSource.of(base_model, self._folder.manifest.model.dtype, "main").pinned()
                self._refuse_other_weights(found)
                original = base_model
            prompts = PromptBuilder(self._with_tokenizer_name(original), self._folder.manifest.chat)
            saved = EditedFolder(part, self._folder.manifest.model_copy(update={"model": found}), prompts)
            saved.prepared = self._prepared
            refresh(saved)
        return out

    def as_lora(self, out: str | Path | None = None, *, rank: int | None = None) -> dict[str, Tensor]:
        """The change of weights as LoRA factors under PEFT's parameter names; also written as an adapter where `out` is given.

        The change is taken in float32: of a model in less, a copy in float32 is made for it. Without a rank it is the lowest
        that leaves out nothing that float32 shows.

        Raises:
            SettingsError: if there is no change of weights, the rank is below 1, `out` is there already, or within `applied`.
        """
        self._refuse_while_applied("as_lora")
        model = self._model
        if model.dtype in {torch.bfloat16, torch.float16}:
            model = replace(model, network=deepcopy(model.network).float())
        with editing_mode(model.network), self._folder.editor.edited(model, self._prepared, self._folder.state()) as view:
            changes = view.weight_changes()
            if not changes:
                raise SettingsError(f"there is no change of weights by {self._folder.manifest.editor}, so there is no adapter")
            tensors, errors, chosen = lora_adapter(model, changes, rank)
        if out is not None:
            with new_folder(Path(out)) as part:
                write_lora(part, tensors, lora_config(self._folder.manifest.model, model, [*errors], chosen))
        return tensors

    # --- inside ---------------------------------------------------------------------------------------------------

    @property
    def _prepared(self) -> Prepared:
        """What the editor needs, computed now where no fact was edited yet."""
        prepare_folder(self._folder, self._text, ())
        return self._folder.prepared

    @property
    def _outcome(self) -> Outcome:
        """The present edits, measured; measured now where they have changed since."""
        if self._last_outcome is None:
            self._refuse_while_applied("report")
            with editing_mode(self._model.network):
                prepare_folder(self._folder, self._text, ())
                self._evaluate(self._folder, self._folder.ledger.length)
        assert self._last_outcome is not None
        return self._last_outcome

    def _evaluate(self, folder: EditedFolder, n_previous: int) -> Outcome:
        self._last_outcome = evaluate_edits(folder, n_previous)
        return self._last_outcome

    @contextmanager
    def _edited_view(self, what: str) -> Iterator[EditedModel]:
        """The edited model, of which there is one at a time: it is made from the weights that the model has."""
        self._refuse_while_applied(what)
        with editing_mode(self._model.network), self._folder.editor.edited(self._model, self._prepared, self._folder.state()) as view:
            self._applied_view = view
            try:
                yield view
            finally:
                self._applied_view = None

    def _refuse_while_applied(self, what: str) -> None:
        if self._applied_view is not None:
            raise SettingsError(f"{what} needs the model's own weights; call it after the `with edited.applied()` block")

    def _with_tokenizer_name(self, name: str) -> LanguageModel:
        """The model, with its tokenizer said to be from a folder or hub id, whose files are then written as they are there."""
        tokenizer = copy(self._model.tokenizer)
        tokenizer.name_or_path = name
        return replace(self._model, tokenizer=tokenizer)

    def _refuse_other_weights(self, base_model: BaseModelSource) -> None:
        """Refuse an unedited model with other weights or another vocabulary.

        Raises:
            SettingsError: naming the first difference.
        """
        remedy = "leave base_model out to write the model itself"
        with preserve_settings():
            loaded = base_model.load("cpu")
        theirs = loaded.network.state_dict()
        for name, tensor in self._model.network.state_dict().items():
            if name not in theirs or not torch.equal(theirs[name], tensor.cpu()):
                raise SettingsError(f"{base_model.source} is not the unedited model: {name} differs; {remedy}")
        if loaded.tokenizer.get_vocab() != self._model.tokenizer.get_vocab():
            raise SettingsError(f"{base_model.source} is not the unedited model: its tokenizer has another vocabulary; {remedy}")

    def __len__(self) -> int:
        return len(self._folder.active_edits())

    def __repr__(self) -> str:
        return f"{self._headline()}\n{self.report().to_string(max_rows=MAX_ROWS)}"

    def _repr_html_(self) -> str:
        return self.report().to_html(max_rows=MAX_ROWS).replace("<table", f"<p>{escape(self._headline())}</p><table", 1)

    def _headline(self) -> str:
        means = "".join(f", {name.replace('_', ' ')} {value:.3f}" for name, value in self.scores.items())
        name = self._folder.manifest.model.source or type(self._model.network).__name__
        return f"{name} edited by {self._folder.manifest.editor}: {len(self)} present edits{means}"


def _temporary() -> Path:
    """Where the record of a new `Edited` goes, which removes the folder above it in the end."""
    return Path(mkdtemp(prefix="d4s-")) / "edited"


def _read_facts(facts: Facts) -> RecordLines[RawFact]:
    return read_facts(Path(facts)) if isinstance(facts, str | Path) else facts_from_rows(facts)


def _text_source(text: TextSource | str | Path | None) -> TextSource:
    if isinstance(text, TextSource):
        return text
    return TextSource() if text is None else validate(TextSource, {"file": Path(text)}, "text")


def _check_choice(name: str, value: str, choices: Any) -> None:
    """Refuse a value that is none of the choices of a literal type.

    Raises:
        SettingsError: naming the choices.
    """
    if value not in get_args(choices):
        raise SettingsError(f"{name} is {value!r}; choose one of {', '.join(map(repr, get_args(choices)))}")

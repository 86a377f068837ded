"""What edits did: the model before and after, measured on what is written, and the files that show it.

Everything here happens with the edited weights as they are stored, rounded to the model's precision: what is measured is
what reloads.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from d4s.apply.folder import DELTA, HISTORY, MODEL, Folder
from d4s.apply.history import Edit
from d4s.apply.requests import Wordings
from d4s.apply.whole import save_whole
from d4s.artifacts import write_tensors, write_text
from d4s.editors.protocol import Prepared
from d4s.metrics.generation import free_answers
from d4s.metrics.scoring import Exam
from d4s.models.edited import EditedModel
from d4s.models.language_model import LanguageModel
from d4s.models.views import LiveModel

ANSWER_TOKENS = 12
MEANS = ("efficacy_accuracy", "paraphrase_accuracy", "locality_accuracy")
Changes = Mapping[int, Float[Tensor, "d_out d_in"]]


@dataclass(frozen=True, slots=True)
class Seen:
    """One edit: what the model writes before and after, and how probable the whole target is."""

    edit: Edit
    before: str
    after: str
    probability_before: float
    probability_after: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Every present edit, and means of teacher-forced accuracies; locality is agreement with the unedited model.

    Edits up to the number `since` were there before.
    """

    seen: Sequence[Seen]
    means: Mapping[str, float]
    since: int

    @property
    def recent(self) -> list[Seen]:
        """The edits that were made now."""
        return [one for one in self.seen if one.edit.number > self.since]


def refresh(folder: Folder, model: LanguageModel, prepared: Prepared, since: int = 0) -> Outcome:
    """Measure the present state, and write the edited model, its change and the history for it."""

    def write(changes: Changes) -> None:
        write_model(folder.path / MODEL, model)
        write_tensors(folder.path / DELTA, named(model, changes))

    found = measured(folder, model, prepared, since, write)
    _write_history(folder, found.seen)
    folder.note_written()
    return found


def measured(
    folder: Folder, model: LanguageModel, prepared: Prepared, since: int = 0, keep: Callable[[Changes], None] | None = None
) -> Outcome:
    """Measure the present state; `keep` is handed the change of weights while the model has it, where the editor changes any."""
    wordings, edits = Wordings(model, folder.description.chat), folder.active()
    facts = [wordings.fact(edit.wish, edit.number) for edit in edits]
    plain = LiveModel(model)
    exam = Exam.of(plain, facts, probes_per_fact=max([1, *(len(fact.neighborhood) for fact in facts)]), max_new_tokens=0)
    before = _answers(plain, edits, wordings)
    with folder.editor.edited(model, prepared, folder.state()) as view:
        after = _answers(view, edits, wordings)
        means = _means(exam, view)
        changes = view.weight_changes()
        if keep is not None and changes is not None:
            keep(changes)
    seen = [Seen(edit, then[0], now[0], then[1], now[1]) for edit, then, now in zip(edits, before, after, strict=True)]
    return Outcome(seen, means, since)


def named(model: LanguageModel, changes: Changes) -> dict[str, Float[Tensor, "rows columns"]]:
    """Changes by the names of the network's parameters, in its own layout, on the CPU."""
    turned = model.adapter.weight_layout == "in_out"
    return {f"{module_name(model, layer)}.weight": (change.mT if turned else change).cpu() for layer, change in changes.items()}


def module_name(model: LanguageModel, layer: int) -> str:
    """The network's name of the module that is edited in a layer."""
    return f"{model.adapter.blocks}.{layer}.{model.adapter.mlp_out}"


def write_model(folder: Path, model: LanguageModel) -> None:
    """Write the network as it is now, with its tokenizer, as a Hugging Face folder; swapped in when it is whole."""
    new, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    save_whole(new, model)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _answers(view: EditedModel, edits: Sequence[Edit], wordings: Wordings) -> list[tuple[str, float]]:
    """What a model writes to each edit's prompt, and the probability of its target there."""
    prompts = [wordings.text(edit.wish.prompt) for edit in edits]
    texts = free_answers(view, prompts, ANSWER_TOKENS)
    probabilities = (-view.score(prompts, [edit.wish.target for edit in edits]).joint_nll()).exp().tolist() if edits else []
    return list(zip(texts, probabilities, strict=True))


def _means(exam: Exam, view: EditedModel) -> dict[str, float]:
    """Means over facts of what the exam finds."""
    found = exam.means(view, [*exam.questions]).values() if exam.questions else ()
    values = {metric: [one[metric] for one in found if metric in one] for metric in MEANS}
    return {metric: float(np.mean(each)) for metric, each in values.items() if each}


def _write_history(folder: Folder, seen: Sequence[Seen]) -> None:
    """Write one line per edit ever made, with what was measured of the present ones."""
    measured = {one.edit.number: one for one in seen}
    lines = [json.dumps(_line(edit, measured.get(edit.number)), ensure_ascii=False) for edit in folder.edits()]
    write_text(folder.path / HISTORY, "".join(f"{line}\n" for line in lines))


def _line(edit: Edit, seen: Seen | None) -> dict[str, object]:
    wish = edit.wish
    line: dict[str, object] = {
        "edit": edit.number,
        "status": edit.gone or "present",
        "subject": wish.subject,
        "prompt": wish.prompt,
        "target_new": " and ".join(wish.targets),
        "target_true": wish.target_true,
    }
    if seen is not None:
        line |= {"before": seen.before, "after": seen.after}
        line |= {"probability_before": seen.probability_before, "probability_after": seen.probability_after}
    return line

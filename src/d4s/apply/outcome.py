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

from d4s.apply.edited_folder import DELTA, HISTORY, MODEL, EditedFolder
from d4s.apply.history import RecordedEdit
from d4s.apply.prompt_builder import PromptBuilder
from d4s.artifacts import write_tensors, write_text
from d4s.metrics.generation import free_answers
from d4s.metrics.scoring import FactEvaluation
from d4s.models.edited_model import EditedModel
from d4s.models.hf_folder import save_hf_folder
from d4s.models.language_model import LanguageModel
from d4s.models.views import LiveModel

ANSWER_TOKENS = 12
MEANS = ("efficacy_accuracy", "paraphrase_accuracy", "locality_accuracy")
WeightDeltas = Mapping[int, Float[Tensor, "d_out d_in"]]


@dataclass(frozen=True, slots=True)
class EditResult:
    """One edit: what the model writes before and after, and how probable the whole target is."""

    edit: RecordedEdit
    before: str
    after: str
    probability_before: float
    probability_after: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Every present edit, and means of teacher-forced accuracies; locality is agreement with the unedited model.

    Edits up to the number `n_previous` were there before.
    """

    results: Sequence[EditResult]
    means: Mapping[str, float]
    n_previous: int

    @property
    def recent(self) -> list[EditResult]:
        """The edits that were made now."""
        return [one for one in self.results if one.edit.number > self.n_previous]


def refresh(folder: EditedFolder, n_previous: int = 0) -> Outcome:
    """Measure the present state, and write the edited model, its change and the history for it."""

    def write(deltas: WeightDeltas) -> None:
        write_model(folder.path / MODEL, folder.model)
        write_tensors(folder.path / DELTA, to_state_dict(folder.model, deltas))

    found = evaluate_edits(folder, n_previous, write)
    _write_history(folder, found.results)
    folder.mark_written()
    return found


def evaluate_edits(folder: EditedFolder, n_previous: int = 0, on_deltas: Callable[[WeightDeltas], None] | None = None) -> Outcome:
    """Measure the present state; `on_deltas` is handed the change of weights while the model has it, where the editor changes any."""
    prompts, edits = folder.prompts, folder.active_edits()
    facts = [prompts.fact(edit.spec, edit.number) for edit in edits]
    unedited = LiveModel(folder.model)
    evaluation = FactEvaluation.of(unedited, facts, probes_per_fact=max([1, *(len(fact.neighborhood) for fact in facts)]), max_new_tokens=0)
    before = _answers(unedited, edits, prompts)
    with folder.edited() as view:
        after = _answers(view, edits, prompts)
        means = _means(evaluation, view)
        deltas = view.weight_changes()
        if on_deltas is not None and deltas is not None:
            on_deltas(deltas)
    results = [EditResult(edit, then[0], now[0], then[1], now[1]) for edit, then, now in zip(edits, before, after, strict=True)]
    return Outcome(results, means, n_previous)


def to_state_dict(model: LanguageModel, deltas: WeightDeltas) -> dict[str, Float[Tensor, "rows columns"]]:
    """Changes by the names of the network's parameters, in its own layout, on the CPU."""
    is_transposed = model.adapter.weight_layout == "in_out"
    return {f"{module_name(model, layer)}.weight": (delta.mT if is_transposed else delta).cpu() for layer, delta in deltas.items()}


def module_name(model: LanguageModel, layer: int) -> str:
    """The network's name of the module that is edited in a layer."""
    return f"{model.adapter.blocks}.{layer}.{model.adapter.mlp_out}"


def write_model(folder: Path, model: LanguageModel) -> None:
    """Write the network as it is now, with its tokenizer, as a Hugging Face folder; swapped in when it is whole."""
    new, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    save_hf_folder(new, model)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _answers(view: EditedModel, edits: Sequence[RecordedEdit], prompts: PromptBuilder) -> list[tuple[str, float]]:
    """What a model writes to each edit's prompt, and the probability of its target there."""
    texts = [prompts.text(edit.spec.prompt) for edit in edits]
    answers = free_answers(view, texts, ANSWER_TOKENS)
    probabilities = (-view.score(texts, [edit.spec.target for edit in edits]).joint_nll()).exp().tolist() if edits else []
    return list(zip(answers, probabilities, strict=True))


def _means(evaluation: FactEvaluation, view: EditedModel) -> dict[str, float]:
    """Means over facts of what the exam finds."""
    found = evaluation.means(view, [*evaluation.questions]).values() if evaluation.questions else ()
    values = {metric: [one[metric] for one in found if metric in one] for metric in MEANS}
    return {metric: float(np.mean(each)) for metric, each in values.items() if each}


def _write_history(folder: EditedFolder, results: Sequence[EditResult]) -> None:
    """Write one line per edit ever made, with what was measured of the present ones."""
    by_number = {one.edit.number: one for one in results}
    lines = [json.dumps(_line(edit, by_number.get(edit.number)), ensure_ascii=False) for edit in folder.edits()]
    write_text(folder.path / HISTORY, "".join(f"{line}\n" for line in lines))


def _line(edit: RecordedEdit, results: EditResult | None) -> dict[str, object]:
    spec = edit.spec
    line: dict[str, object] = {
        "edit": edit.number,
        "status": edit.inactive_reason or "present",
        "subject": spec.subject,
        "prompt": spec.prompt,
        "target_new": " and ".join(spec.targets),
        "target_true": spec.target_true,
    }
    if results is not None:
        line |= {"before": results.before, "after": results.after}
        line |= {"probability_before": results.probability_before, "probability_after": results.probability_after}
    return line

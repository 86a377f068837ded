"""The stages `ordinary` and `robustness`: how models answer shifted prompts, ordinary ones and edited ones.

Ordinary are the unedited model and those kept on the way of its training. An edited model is asked at shares of the way from the original
to the edited weights: views of a finished state, its change of weights times the share, from the original bits at 0 to the state's
own weights at 1. Nothing is edited again.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from d4s.artifacts import Artifact, StageJob, write_table
from d4s.config import OrdinaryJobSettings, RobustnessSettings
from d4s.editors.edit_requests import draw_requests
from d4s.editors.families import build
from d4s.editors.ledger import read_state
from d4s.editors.protocol import Editor, Prepared, State
from d4s.editors.weights import apply_deltas
from d4s.facts.record import from_frame
from d4s.log import progress
from d4s.metrics.robustness import Row, ShiftedQuestions
from d4s.models.edited_model import EditedModel
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.models.views import LiveModel
from d4s.pretraining.kept_models import kept_files
from d4s.runs.lengths import length_of
from d4s.runs.prepared_parts import load_prepared
from d4s.runs.run_settings import RobustnessJobSettings
from d4s.schemas import FACTS, ROBUSTNESS

ORDINARY_FILE = "ordinary.parquet"


def ordinary(job: StageJob[OrdinaryJobSettings]) -> None:
    """Ask the unedited model, and every model kept on the way of its training."""
    model = job.read_once("model", load)
    questions = _questions(job, model, job.settings, job.settings.seed)
    rows = [{"step": 0, "share": 0.0, "training_steps": None, **row} for row in questions.answers(LiveModel(model), 0)]
    rows += kept_rows(model, questions, job.inputs["model"])
    write_table(job.path(ORDINARY_FILE), rows, ROBUSTNESS)
    job.write_manifest([ORDINARY_FILE])


def kept_rows(model: LanguageModel, questions: ShiftedQuestions, folder: Path) -> Iterator[Row]:
    """Rows of the models kept in a trained model's folder; none where none were kept. `model` has its own weights again in the end."""
    kept = kept_files(Artifact.open(folder, "models"))
    parameters = dict(model.network.named_parameters())
    own = {name: parameter.detach().clone() for name, parameter in parameters.items()} if kept else {}
    try:
        for steps, file in kept.items():
            _take_over(parameters, load_file(folder / file))
            for row in questions.answers(LiveModel(model), 0):
                yield {"step": 0, "share": None, "training_steps": steps, **row}
    finally:
        _take_over(parameters, own)


@torch.no_grad()
def _take_over(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        parameters[name].copy_(weight)


def robustness(job: StageJob[RobustnessJobSettings]) -> None:
    """Ask a run's models after every wanted number of edits that is not there already, at every share."""
    lengths = sorted(map(length_of, job.missing_parts()))
    if not lengths:
        return
    model, editor = job.read_once("model", load), build(job.settings.editor)
    prepared = load_prepared(job.inputs, job.settings.editor)
    questions = _questions(job, model, job.settings.robustness, job.settings.seed)
    for length in progress(lengths, f"shifted prompts of {job.folder.name}"):
        state = read_state(job.inputs["run"], length, editor)
        rows: list[Row] = []
        for share, view in views(model, editor, prepared, state, job.settings.shares):
            rows += [{"step": length, "share": share, "training_steps": None, **row} for row in questions.answers(view, length)]
        name = f"n{length}.robustness.parquet"
        write_table(job.path(name), rows, ROBUSTNESS)
        job.write_manifest([name], f"n{length}.json")


def views(
    model: LanguageModel, editor: Editor, prepared: Prepared, state: State, shares: Sequence[float]
) -> Iterator[tuple[float, EditedModel]]:
    """Views of a state at shares of its change of weights, each open until the next is asked for.

    Of editors that change no weights there is none between the original and the edited model.
    """
    with editor.edited(model, prepared, state) as edited:
        changes = edited.weight_changes()
        if 1.0 in shares:
            yield 1.0, edited
    for share in (share for share in shares if share < 1):
        if share == 0:
            yield share, LiveModel(model)
        elif changes is not None:
            with apply_deltas(model, {layer: share * change.double() for layer, change in changes.items()}) as view:
                yield share, view


def _questions(job: StageJob, model: LanguageModel, settings: RobustnessSettings, seed: int) -> ShiftedQuestions:
    facts = from_frame(job.artifact("facts", "facts").table("facts.parquet", FACTS))
    text = job.artifact("text", "corpora").tensors("heldout.safetensors")["rows"].tolist()
    return ShiftedQuestions.of(settings, model, facts, [fact for _, fact in draw_requests(facts, seed)], text)

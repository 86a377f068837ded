"""Memory that `d4s apply` will take, step by step, from sizes alone; what cannot fit is refused before it is computed."""

from collections.abc import Iterator

from d4s.apply.base_model import BaseModelSource
from d4s.apply.edited_folder import EditedFolder
from d4s.apply.input_preparation import ROWS_PER_PASS, TextSource
from d4s.config import MeasureSettings
from d4s.editors.edit_requests import REQUESTS_PER_BLOCK
from d4s.models.model_shape import UnknownShape, shape_at, shape_of
from d4s.models.pass_sizes import LONGEST_ROW
from d4s.resources import memory_estimate
from d4s.resources.memory_estimate import ModelPlacement, PromptSizes
from d4s.resources.requirements import Remedies, Requirements

WITHOUT_GENERATION = MeasureSettings(max_new_tokens=1)
FEWER_LAYERS = "the number of edited layers: --set layers=[LAYER]"
REMEDIES = Remedies(
    {
        "weights": "--dtype to bfloat16, or take a smaller model",
        "moments": FEWER_LAYERS,
        "state": FEWER_LAYERS,
        "temporaries": FEWER_LAYERS,
        "basis": FEWER_LAYERS,
        "whole batch": "the number of facts, or the editor's batch",
        "originals": "--dtype to bfloat16: this editor changes all layers",
        "activations": "the editor's batch: --set batch=1",
        "ledger": "the number of facts",
    }
)


def estimate_loading(model: BaseModelSource, device: str) -> Iterator[tuple[str, Requirements]]:
    """The weights, before they are read; nothing where the model's configuration is not on this machine."""
    try:
        placement = ModelPlacement(shape_at(model.source, model.revision), model.dtype, device != "cpu")
    except UnknownShape:
        return
    yield (
        "loading the model",
        Requirements(*memory_estimate.split(placement, memory_estimate.WITH_TORCH, {}, {"weights": placement.weights})),
    )


def estimate_editing(folder: EditedFolder, text: TextSource, facts: int) -> Iterator[tuple[str, Requirements]]:
    """Requirements of new facts beyond the existing edits: second moments, targets, and the edits."""
    settings, model = folder.settings, folder.model
    placement = ModelPlacement(
        shape_of(model.network.config.to_dict()), folder.manifest.model.dtype, model.device.type != "cpu", LONGEST_ROW
    )
    if settings.moment_layers and not (text.is_folder or folder.is_prepared):
        yield "second moments", Requirements(*memory_estimate.moments(placement, settings.moment_layers, text.tokens, ROWS_PER_PASS))
    if (prepare_settings := settings.prepare_settings()) and not folder.is_prepared:
        yield "what the editor prepares", Requirements(*memory_estimate.prepare(placement, prepare_settings, PromptSizes()))
    if target := settings.shared_targets():
        yield (
            "targets",
            Requirements(*memory_estimate.targets(placement, target.layer, PromptSizes(), min(facts, REQUESTS_PER_BLOCK), target.shifts)),
        )
    edits = folder.ledger.length + facts
    yield "edits", Requirements(*memory_estimate.edit(placement, settings, edits, PromptSizes()))
    yield "what comes out", Requirements(*memory_estimate.measure(placement, settings, edits, PromptSizes(), WITHOUT_GENERATION))

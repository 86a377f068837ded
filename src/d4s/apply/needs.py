"""Memory that `d4s apply` will take, step by step, from sizes alone; what cannot fit is refused before it is computed."""

from collections.abc import Iterator

from d4s.apply.folder import Folder
from d4s.apply.prepared import ROWS_PER_PASS, TextSource
from d4s.apply.text import LONGEST_ROW
from d4s.config import MeasureSettings
from d4s.models.language_model import LanguageModel
from d4s.planning import memory
from d4s.planning.memory import Placed, Prompts
from d4s.planning.needs import Lowering, Needs
from d4s.planning.shape import UnknownShape, shape_at, shape_of

WITHOUT_ANSWERS = MeasureSettings(max_new_tokens=1)
FEWER_LAYERS = "the number of edited layers: --set layers=[LAYER]"
OPTIONS = Lowering(
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


def loading(source: str, revision: str, dtype: str, device: str) -> Iterator[tuple[str, Needs]]:
    """The weights, before they are read; nothing where the model's configuration is not on this machine."""
    try:
        placed = Placed(shape_at(source, revision), dtype, device != "cpu")
    except UnknownShape:
        return
    yield "loading the model", Needs(*memory.split(placed, memory.WITH_TORCH, {}, {"weights": placed.weights}))


def editing(folder: Folder, model: LanguageModel, text: TextSource, facts: int) -> Iterator[tuple[str, Needs]]:
    """What is to be done for so many facts beside the edits that are there: second moments, targets, and the edits."""
    settings, description = folder.description.settings, folder.description
    placed = Placed(shape_of(model.network.config.to_dict()), description.model.dtype, model.device.type != "cpu", LONGEST_ROW)
    if settings.moment_layers and not (text.is_folder or folder.is_prepared):
        yield "second moments", Needs(*memory.moments(placed, settings.moment_layers, text.tokens, ROWS_PER_PASS))
    if (asked := settings.prepare_settings()) and not folder.is_prepared:
        yield "what the editor prepares", Needs(*memory.prepare(placed, asked, Prompts()))
    if target := settings.shared_targets():
        yield "targets", Needs(*memory.targets(placed, target.layer, Prompts(), min(facts, memory.BLOCK), memory.parts_of(target)))
    edits = folder.ledger.length + facts
    yield "edits", Needs(*memory.edit(placed, settings, edits, Prompts()))
    yield "what comes out", Needs(*memory.measure(placed, settings, edits, Prompts(), WITHOUT_ANSWERS))

"""Memory by stage, from sizes alone: every term stands in docs/planning.md, with what it was checked against.

Sizes are those that the jobs allocate at their peak. What no setting says (tokens of prompts, what an interpreter with
torch takes) is a constant here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from d4s.config import MeasureSettings, PretrainSettings
from d4s.editors.editor_settings import (
    FamilySettings,
    FineTune,
    Grace,
    KnowledgeNeurons,
    LeastSquaresSettings,
    LocateThenEdit,
    OneTimeBatch,
)
from d4s.editors.part_settings import PrepareSettings, TargetSettings
from d4s.models.model_shape import BYTES, Shape
from d4s.resources.requirements import MIB, MOVABLE_PARTS, Bytes, Number

LIGHT, WITH_TORCH, WITH_TABLES, WITH_TASKS, WITH_CUDA = 165 * MIB, 470 * MIB, 510 * MIB, 540 * MIB, 2500 * MIB
ON_HOST, ON_DEVICE = 512, 16_384  # tokens per pass, as in d4s.models.views
LOGITS = 2**26  # entries per chunk, as there
ACTIVATIONS = 2**28  # entries per pass of targets, as in d4s.editors.target_optimisation
REQUESTS_PER_BLOCK = 50  # requests per block of targets
ATTRIBUTED, ANSWER = 256, 3  # tokens that a layer's steps join, as in d4s.editors.knowledge_neurons; tokens of an original answer
REFACTOR_EVERY = 1000  # steps between two factorisations of a recursive solver, as in d4s.editors.locate_then_edit
DOUBLE, SINGLE = 8, 4
TASK_ANSWERS = MeasureSettings(max_new_tokens=4)  # of tasks with free answers: a quarter of their prompts


@dataclass(frozen=True, slots=True)
class PromptSizes:
    """Wordings of a request, unprefixed and prefixed; typical tokens of one, and how many of them follow the last subject token."""

    per_request: int = 4
    tokens: int = 22
    after_subject: int = 9


@dataclass(frozen=True, slots=True)
class ModelPlacement:
    """A model's shape and precision, whether a device holds it, and whether the state of editors stays on the host then."""

    shape: Shape
    dtype: str = "float32"
    on_device: bool = False
    row_tokens: int = 64
    has_state_on_host: bool = False

    @property
    def item(self) -> int:
        """Bytes of a weight."""
        return BYTES[self.dtype]

    @property
    def weights(self) -> Number:
        """Bytes of the network; on a host without input embeddings of their own, which are mapped and hardly read."""
        unread = 0 if self.shape.is_tied or self.on_device else self.shape.vocabulary * self.shape.width
        return (self.shape.parameters - unread) * self.item

    @property
    def pass_tokens(self) -> int:
        """Tokens of a pass when questions are asked or text is read."""
        return max(ON_DEVICE if self.on_device else ON_HOST, self.row_tokens)

    def activations(self, tokens: Number) -> Number:
        """Peak of a pass that keeps nothing: one block's inner vectors, of every token."""
        return tokens * self.token_entries * self.item

    @property
    def token_entries(self) -> int:
        """Entries of a token that one block holds at once."""
        shape = self.shape
        return 6 * shape.width + (4 if shape.is_gated else 2) * shape.mlp_width

    def cache(self, tokens: Number) -> Number:
        """Keys and values of all blocks."""
        return 2.0 * tokens * self.shape.layers * self.shape.kv_width * self.item

    def logits(self, rows: Number, copies: int) -> Number:
        """Logits of rows and what is computed from them, in float32 and at most a chunk at a time."""
        return min(rows * self.shape.vocabulary, LOGITS) * SINGLE * copies


def split(placement: ModelPlacement, process: Number, on_host: Mapping[str, Number], on_model: Mapping[str, Number]) -> tuple[Bytes, Bytes]:
    """Parts on the host and on the device; without a device everything is on the host.

    A part that both hold is read into the host and copied to the device; where there is one place, it is the same tensors.
    """
    if not placement.on_device:
        return {"process": process, **on_host, **on_model}, {}
    moved = {name: size for name, size in on_model.items() if placement.has_state_on_host and name in MOVABLE_PARTS}
    return {"process": process + WITH_CUDA, **on_host, **moved}, {name: size for name, size in on_model.items() if name not in moved}


def moments(placement: ModelPlacement, layers: Sequence[int], tokens: int, batch_rows: int) -> tuple[Bytes, Bytes]:
    """Sums of every layer, keys of a batch of rows at every layer, one product, one copy while it is written.

    The pass ends at the last of the layers; weights behind it are mapped, and on a host never read.
    """
    d, shape = placement.shape.mlp_width, placement.shape
    batch = min(batch_rows * placement.row_tokens, tokens)
    wide = SINGLE if placement.item < SINGLE else 0
    on_model = {
        "weights": placement.weights if placement.on_device else (max(layers) + 1) * shape.block_parameters * placement.item,
        "moments": len(layers) * d * d * DOUBLE,
        "temporaries": d * d * SINGLE,
        "activations": placement.activations(batch) + len(layers) * batch * d * (placement.item + wide),
    }
    return split(placement, WITH_TORCH, {"written": d * d * DOUBLE}, on_model)


def targets(
    placement: ModelPlacement, layer: int, prompt_sizes: PromptSizes, requests: int = REQUESTS_PER_BLOCK, parts: int = 1
) -> tuple[Bytes, Bytes]:
    """A block of requests: the first pass with its cache, then what the later blocks keep for one gradient."""
    return split(
        placement, WITH_TABLES, {}, {"weights": placement.weights, **_target_optimisation(placement, layer, prompt_sizes, requests, parts)}
    )


def parts_of(target: TargetSettings) -> int:
    """How many vectors of a request are shifted at once."""
    return 2 if target.hook == "mlp_and_attention" else 1


def at_once(placement: ModelPlacement, prompt_sizes: PromptSizes, requests: int) -> int:
    """Requests whose targets are optimised in one pass."""
    each = (prompt_sizes.per_request + 1) * prompt_sizes.tokens * placement.shape.width * placement.shape.layers
    return max(1, min(requests, ACTIVATIONS // each))


def _target_optimisation(
    placement: ModelPlacement, layer: int, prompt_sizes: PromptSizes, requests: int, parts: int = 1
) -> dict[str, Number]:
    shape = placement.shape
    rows = at_once(placement, prompt_sizes, requests) * (prompt_sizes.per_request + 1)
    later = shape.layers - 1 - layer + (parts > 1)
    kept = (
        prompt_sizes.after_subject * (4 * shape.width + (3 if shape.is_gated else 1) * shape.mlp_width)
        + 2 * prompt_sizes.tokens * shape.kv_width
    )
    predicted = rows * (max(1, 1.5 * prompt_sizes.per_request) + 1) / (prompt_sizes.per_request + 1)
    first = placement.activations(rows * prompt_sizes.tokens)
    gradient = rows * later * kept * placement.item + predicted * shape.vocabulary * SINGLE * 5
    return {"cache": placement.cache(rows * prompt_sizes.tokens), "activations": max(first, gradient)}


def questions(placement: ModelPlacement, settings: MeasureSettings | None) -> dict[str, Number]:
    """Passes that score questions and text, and with settings that ask for it, free answers with their cache."""
    tokens, rows = placement.pass_tokens, 1.0
    scored = tokens if settings is not None else tokens / 3
    found = {"activations": placement.activations(tokens), "logits": placement.logits(scored, 2)}
    if settings is not None and settings.generate:
        prompt = 16
        rows = tokens / prompt
        found["cache"] = placement.cache(rows * (prompt + settings.max_new_tokens)) + placement.logits(rows, 1)
    return found


# --- editors ----------------------------------------------------------------------------------------------------------


def state(editor: FamilySettings, shape: Shape, item: int = SINGLE, edits: int = 0) -> dict[str, Number]:
    """What an editor holds while it edits, beside the model: solvers and changes of its layers, and the largest temporaries."""
    matrix = shape.mlp_out
    if isinstance(editor, LeastSquaresSettings):
        return _least_squares(editor, shape, item, edits) if isinstance(editor, LocateThenEdit) else {}
    if isinstance(editor, FineTune):
        return {"state": 8.0 * matrix * SINGLE, "temporaries": 3.0 * matrix * DOUBLE}
    if isinstance(editor, KnowledgeNeurons):
        return {"originals": shape.layers * matrix * (DOUBLE + 2.0 * item), "temporaries": 2.0 * matrix * DOUBLE}
    return {}


def _least_squares(editor: LocateThenEdit, shape: Shape, item: int, edits: int) -> dict[str, Number]:
    """Per layer the preserved matrix and its solver, 2 d² in float64; its change, and its original weight twice.

    With a queue the Gram matrix of all keys stands in the solver's place, and their products with residuals beside the change.
    Directions that a step is reduced by are at most as many as the weight has rows: no more entries than the weight.
    """
    matrix, square = shape.mlp_out, shape.mlp_width**2
    solvers = 2 + _is_simie(editor)
    changes = (
        1 + (editor.history == "adaptive_refit") + (editor.step_transform is not None and editor.step_transform.kind in {"rect", "sphere"})
    )
    per_layer = (solvers * square + changes * matrix) * DOUBLE + 2 * matrix * item
    twice = 2 if editor.keys.mode == "refreshed" else 1
    is_factored_anew = editor.history == "adaptive_refit" or editor.state_kind == "dense" or editor.neurons < 1
    squares = 3 if _refactors(editor, shape, edits) else 2 if is_factored_anew else 1
    temporaries = squares * square + 3 * matrix
    return {"state": float(twice * len(editor.layers) * per_layer), "temporaries": float(temporaries * DOUBLE)}


def _refactors(editor: LocateThenEdit, shape: Shape, edits: int) -> bool:
    """Whether a recursive solver is recomputed during the run: the matrix, its factor and the new inverse beside the old one."""
    is_recursive = editor.state_kind != "dense" and editor.neurons == 1 and 4 * editor.batch < shape.mlp_width
    grows = editor.history in {"keys", "refit"} and editor.keys.mode != "refreshed"
    return ((is_recursive and grows) or _is_simie(editor)) and edits // editor.batch >= REFACTOR_EVERY


def _is_simie(editor: LocateThenEdit) -> bool:
    return editor.step_transform is not None and editor.step_transform.kind == "simie"


def _whole_batch(placement: ModelPlacement, editor: LocateThenEdit, edits: int, prompt_sizes: PromptSizes) -> dict[str, Number]:
    """The largest pass that reads keys: a batch, or all requests that a refresh solves."""
    between = editor.batch * editor.keys.every
    refreshed = edits // between * between if editor.keys.mode == "refreshed" else 0
    return {"whole batch": placement.activations(max(editor.batch, refreshed) * prompt_sizes.per_request * prompt_sizes.tokens)}


def _largest(*alternatives: dict[str, Number]) -> dict[str, Number]:
    """Of parts that are not held at the same time those that hold most, the first among equals."""
    return max(alternatives, key=lambda parts: sum(parts.values()))


def ledger(editor: FamilySettings, shape: Shape, edits: int) -> Number:
    """Bytes of a run's ledger: rows of keys and residuals or of factors, or the dense state as it is."""
    d_in, d_out, layers = shape.mlp_width, shape.width, len(editor.layers)
    if isinstance(editor, LocateThenEdit):
        if editor.state_kind == "dense":
            return float(layers * (shape.mlp_out + (d_in * d_in if editor.history == "keys" else 0)) * DOUBLE)
        if editor.state_kind == "refit":
            return float(edits * SINGLE * (layers * d_in + d_out))
        keys = SINGLE * d_in if editor.history != "none" else 0
        return float(edits * layers * (DOUBLE * (d_in + d_out) + keys))
    if isinstance(editor, OneTimeBatch):
        return float(edits * SINGLE * 4 * d_out)
    if isinstance(editor, FineTune):
        return float(shape.mlp_out * SINGLE)
    return float(edits * SINGLE * (d_in + d_out)) if isinstance(editor, Grace) else float(edits * DOUBLE * d_out)


def edit(placement: ModelPlacement, editor: FamilySettings, edits: int, prompt_sizes: PromptSizes) -> tuple[Bytes, Bytes]:
    """Model, moments, the editor's state, its ledger, and the larger of finding a target and asking questions."""
    shape = placement.shape
    passes = questions(placement, None)
    if isinstance(editor, LocateThenEdit):
        passes = _largest(passes, _whole_batch(placement, editor, edits, prompt_sizes))
        if editor.target.at == "current":
            passes = _largest(
                passes, _target_optimisation(placement, editor.target.layer, prompt_sizes, editor.batch, parts_of(editor.target))
            )
    elif isinstance(editor, FineTune | Grace | KnowledgeNeurons):
        tokens = prompt_sizes.tokens
        if isinstance(editor, KnowledgeNeurons):
            tokens = max(tokens, min(ATTRIBUTED, editor.steps * ANSWER * shape.layers))
        passes = {**passes, "activations": max(passes["activations"], placement.activations(tokens) * shape.layers)}
    on_host = {"ledger": ledger(editor, shape, edits)}
    held = state(editor, shape, placement.item, edits)
    if not isinstance(editor, OneTimeBatch):
        on_host |= _read(editor, shape)
        held |= _basis(editor, shape)
    return split(placement, WITH_TABLES, on_host, {"weights": placement.weights, **held, **passes})


def _read(editor: FamilySettings, shape: Shape) -> dict[str, Number]:
    """Second moments or bases as they are read, per layer."""
    if isinstance(editor, LeastSquaresSettings) and "moments" in editor.required_inputs:
        return {"moments": float(len(editor.layers) * shape.mlp_width**2 * DOUBLE)}
    return _basis(editor, shape)


def _basis(editor: FamilySettings, shape: Shape) -> dict[str, Number]:
    """Free directions, per layer: at most as many as a key has entries."""
    if isinstance(editor, LeastSquaresSettings) and editor.preservation.kind == "null_space":
        return {"basis": float(len(editor.layers) * shape.mlp_width**2 * DOUBLE)}
    return {}


def _session_of(editor: FamilySettings, edits: int) -> LocateThenEdit | None:
    """The settings of the session that makes the edited model from a recorded state; None where no session is needed."""
    if isinstance(editor, OneTimeBatch):
        return LocateThenEdit(**{name: getattr(editor, name) for name in LeastSquaresSettings.model_fields}, batch=max(1, edits))
    if isinstance(editor, LocateThenEdit) and (editor.keys.mode == "refreshed" or editor.history == "adaptive_refit"):
        return editor
    return None


def measure(
    placement: ModelPlacement, editor: FamilySettings, edits: int, prompt_sizes: PromptSizes, settings: MeasureSettings | None
) -> tuple[Bytes, Bytes]:
    """Model, the state's change of weights made ready, and the passes that ask. Without settings, of a benchmark."""
    shape, layers = placement.shape, len(editor.layers)
    held = {
        "state": layers * shape.mlp_out * (DOUBLE + 2.0 * placement.item),
        "temporaries": 3.0 * shape.mlp_out * DOUBLE if layers else 0.0,
    }
    on_host = {"ledger": ledger(editor, shape, edits)}
    passes = questions(placement, settings or TASK_ANSWERS)
    if isinstance(editor, KnowledgeNeurons):
        held = {"originals": sum(state(editor, shape, placement.item).values())}
    session = _session_of(editor, edits)
    if session is not None:
        held = state(session, shape, placement.item, edits) | _basis(editor, shape)
        on_host |= _read(editor, shape)
        passes = _largest(passes, _whole_batch(placement, session, edits, prompt_sizes))
    elif isinstance(editor, LocateThenEdit) and editor.state_kind == "refit":
        on_host |= _read(editor, shape)
        held["temporaries"] += (4.0 if editor.preservation.kind == "null_space" else 3.0) * shape.mlp_width**2 * DOUBLE
    passes = _largest(passes, {"temporaries": held.pop("temporaries", 0.0)})
    process = WITH_TABLES if settings else WITH_TASKS
    return split(placement, process, on_host, {"weights": placement.weights, **held, **passes})


# --- the rest ---------------------------------------------------------------------------------------------------------


def pretrain(placement: ModelPlacement, settings: PretrainSettings) -> tuple[Bytes, Bytes]:
    """Weights, gradients, two moments and a checkpoint; what every block keeps for the gradients; logits."""
    shape, tokens = placement.shape, settings.batch_rows * settings.positions
    kept = tokens * (shape.layers * (16 * shape.width + 3 * shape.mlp_width) + 4 * shape.vocabulary) * SINGLE
    return {"process": WITH_TABLES, "weights": placement.weights, "optimiser": 4 * placement.weights, "activations": float(kept)}, {}


def prepare(placement: ModelPlacement, settings: PrepareSettings, prompt_sizes: PromptSizes) -> tuple[Bytes, Bytes]:
    """Moments of all layers, the free directions of each, and one decomposition at work, all on the host.

    With an anchor the model too, and then the requests that it is taken from, at their unprefixed prompts.
    """
    square, layers, anchor = placement.shape.mlp_width**2 * DOUBLE, settings.basis_layers, settings.anchor
    moments, work = {"moments": float(2 * layers * square)}, {"temporaries": 4.0 * square if layers else 0.0}
    if anchor is None:
        return {"process": WITH_TORCH, **moments, **work}, {}
    alone, target = replace(prompt_sizes, per_request=1), anchor.target
    passes = _target_optimisation(placement, target.layer, alone, anchor.anchor.requests, parts_of(target))
    if not placement.on_device:
        return {"process": WITH_TABLES, **moments, "weights": placement.weights, **_largest(work, passes)}, {}
    return split(placement, WITH_TABLES, moments | work, {"weights": placement.weights, **passes})


def reading(placement: ModelPlacement, settings: MeasureSettings | None = None) -> tuple[Bytes, Bytes]:
    """A job that asks the unedited model: contexts, objectives, with settings a baseline."""
    return split(placement, WITH_TABLES, {}, {"weights": placement.weights, **questions(placement, settings)})


def corpus(tokens: int) -> tuple[Bytes, Bytes]:
    """Rows of tokens with their weights."""
    return {"process": WITH_TORCH + 20 * MIB, "rows": float(tokens * 12)}, {}


def light() -> tuple[Bytes, Bytes]:
    """A job without a model."""
    return {"process": float(LIGHT)}, {}

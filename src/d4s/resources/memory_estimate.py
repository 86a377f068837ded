"""Memory by stage, from sizes alone: every term stands in docs/planning.md, with what it was checked against.

Sizes are those that the jobs allocate at their peak. What no setting says (tokens of prompts, what an interpreter with
torch takes) is a constant here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from d4s.config import MeasureSettings, PretrainSettings, TraceSettings
from d4s.editors.constants import ACTIVATIONS_PER_PASS, ANSWER_TOKENS
from d4s.editors.edit_requests import REQUESTS_PER_BLOCK
from d4s.editors.editor_settings import FamilySettings
from d4s.editors.family_settings import Family
from d4s.editors.gradient_settings import CURVATURE_ROWS, GRADIENT_REQUESTS
from d4s.editors.parts.hypernetwork_settings import HypernetworkSettings
from d4s.editors.parts.input_settings import PrepareSettings
from d4s.editors.parts.scope_settings import ScopeSettings, TrainedAnswer
from d4s.editors.parts.target_rule import TargetSettings
from d4s.models.model_shape import BYTES, Shape
from d4s.models.pass_sizes import LOGITS_PER_CHUNK, LONGEST_ROW, TOKENS_ON_ACCELERATORS, TOKENS_ON_CPU
from d4s.resources.requirements import MIB, MOVABLE_PARTS, Bytes, Number

BARE, LIGHT, WITH_TORCH, WITH_TABLES, WITH_TASKS, WITH_CUDA = 45 * MIB, 165 * MIB, 470 * MIB, 510 * MIB, 540 * MIB, 2500 * MIB
DOUBLE, SINGLE = 8, 4
CONTEXT_TOKENS = 32  # of an edit, a prompt behind it, and the target
TASK_ANSWERS = MeasureSettings(max_new_tokens=4)  # of tasks with free answers: a quarter of their prompts


@dataclass(frozen=True, slots=True)
class PromptSizes:
    """Wordings of a request, unprefixed and prefixed; tokens of one, and how many of them stand from the last subject token on.

    `alike` is the share of requests whose wordings are of similar length there, so that their targets are optimised in one pass.
    """

    per_request: int = 4
    tokens: int = 20
    after_subject: int = 5
    alike: float = 1.0

    @property
    def suffix(self) -> int:
        """Tokens of a request's row from the last subject tokens on: of all its wordings, and the one of the KL prompt."""
        return self.per_request * self.after_subject + 1

    def of(self, target: TargetSettings) -> "PromptSizes":
        """The same for targets that settings ask for: one wording where no prefixes count. Answers count as one window."""
        return self if target.prefixes else replace(self, per_request=1)


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
        return max(TOKENS_ON_ACCELERATORS if self.on_device else TOKENS_ON_CPU, self.row_tokens)

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
        return min(rows * self.shape.vocabulary, LOGITS_PER_CHUNK) * SINGLE * copies


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

    The pass ends at the last of the layers; weights behind it are mapped, and on a host never read, nor are embeddings of other tokens.
    """
    d, shape = placement.shape.mlp_width, placement.shape
    read = (max(layers) + 1) * shape.block_parameters + min(tokens, shape.vocabulary) * shape.width
    batch = min(batch_rows * placement.row_tokens, tokens)
    wide = SINGLE if placement.item < SINGLE else 0
    on_model = {
        "weights": placement.weights if placement.on_device else read * placement.item,
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


def at_once(placement: ModelPlacement, prompt_sizes: PromptSizes, requests: int) -> int:
    """Most requests whose targets are optimised in one pass."""
    each = (prompt_sizes.per_request + 1) * prompt_sizes.tokens * placement.shape.width * placement.shape.layers
    return max(1, min(ceil(prompt_sizes.alike * requests), ACTIVATIONS_PER_PASS // each))


def _target_optimisation(
    placement: ModelPlacement, layer: int, prompt_sizes: PromptSizes, requests: int, parts: int = 1
) -> dict[str, Number]:
    shape, count = placement.shape, at_once(placement, prompt_sizes, requests)
    later = shape.layers - 1 - layer + (parts > 1)
    rows, wordings = count * (prompt_sizes.per_request + 1), prompt_sizes.per_request
    attended = 2 * (wordings + 1) * prompt_sizes.tokens * shape.heads * shape.head_width  # keys and values are repeated for every head
    kept = prompt_sizes.suffix * (4 * shape.width + (3 if shape.is_gated else 1) * shape.mlp_width) + attended
    predicted = count * (max(1, 1.5 * wordings) + 1)
    first = placement.activations(rows * prompt_sizes.tokens)
    gradient = count * later * kept * placement.item + predicted * shape.vocabulary * SINGLE * 5
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
    if settings is not None and settings.fluency:
        rows, longest = tokens / 16, 16 + settings.fluency.tokens
        found["cache"] = max(found.get("cache", 0.0), placement.cache(rows * longest) + placement.logits(rows, 3))
    return found


# --- editors ----------------------------------------------------------------------------------------------------------


def _whole_batch(placement: ModelPlacement, editor: Family, edits: int, prompt_sizes: PromptSizes) -> dict[str, Number]:
    """The largest pass that reads keys."""
    return {"whole batch": placement.activations(editor.requests_per_pass(edits) * prompt_sizes.per_request * prompt_sizes.tokens)}


def _with_gradient(placement: ModelPlacement, editor: Family, prompt_sizes: PromptSizes, passes: dict[str, Number]) -> dict[str, Number]:
    """Passes of which the largest, where steps differentiate, keeps what all blocks need for a gradient."""
    tokens = editor.gradient_tokens(placement.shape, prompt_sizes.tokens)
    gradient = placement.activations(tokens) * placement.shape.layers
    return {**passes, "activations": max(passes.get("activations", 0.0), gradient)} if tokens else passes


def _largest(*alternatives: dict[str, Number]) -> dict[str, Number]:
    """Of parts that are not held at the same time those that hold most, the first among equals."""
    return max(alternatives, key=lambda parts: sum(parts.values()))


def edit(placement: ModelPlacement, editor: FamilySettings, edits: int, prompt_sizes: PromptSizes) -> tuple[Bytes, Bytes]:
    """Model, moments, the editor's state, its ledger, and the larger of finding a target and asking questions."""
    shape = placement.shape
    asked = questions(placement, None)
    passes = _largest(_with_gradient(placement, editor, prompt_sizes, asked), _whole_batch(placement, editor, edits, prompt_sizes))
    if target := editor.step_targets():
        sizes = prompt_sizes.of(target)
        passes = _largest(passes, _target_optimisation(placement, target.layer, sizes, target.at_once(editor.batch), target.shifts))
    on_host = {"ledger": editor.ledger_bytes(shape, edits)}
    held = editor.held_bytes(shape, placement.item, edits)
    if not editor.is_deferred:
        on_host |= _read(editor, shape)
        held |= _basis(editor, shape)
    return split(placement, WITH_TABLES, on_host, {"weights": placement.weights, **held, **passes})


def single(placement: ModelPlacement, editor: FamilySettings, prompt_sizes: PromptSizes) -> tuple[Bytes, Bytes]:
    """One edit at a time, then questions and text: the larger of a sequence of one edit and of its measures."""
    alternatives = edit(placement, editor, 1, prompt_sizes), measure(placement, editor, 1, prompt_sizes, MeasureSettings(generate=False))
    return max(alternatives, key=lambda needed: sum(needed[0].values()) + sum(needed[1].values()))


def _read(editor: FamilySettings, shape: Shape) -> dict[str, Number]:
    """Second moments or bases as they are read, per layer."""
    if "moments" in editor.required_inputs:
        return {"moments": float(len(editor.layers) * shape.mlp_width**2 * DOUBLE)}
    return _basis(editor, shape)


def _basis(editor: FamilySettings, shape: Shape) -> dict[str, Number]:
    """Free directions, per layer: at most as many as a key has entries."""
    layers = len(editor.null_space_layers)
    return {"basis": float(layers * shape.mlp_width**2 * DOUBLE)} if layers else {}


def measure(
    placement: ModelPlacement, editor: FamilySettings, edits: int, prompt_sizes: PromptSizes, settings: MeasureSettings | None
) -> tuple[Bytes, Bytes]:
    """Model, the state's change of weights made ready, and the passes that ask. Without settings, of a benchmark.

    Nothing is asked of the unedited model, whose baseline is read; its weights are still there from the run.
    """
    shape, held = placement.shape, editor.view_bytes(placement.shape, placement.item)
    if settings and not editor.is_measured:
        return split(placement, WITH_TABLES, {}, {"weights": placement.weights})
    on_host = {"ledger": editor.ledger_bytes(shape, edits)}
    passes = questions(placement, settings or TASK_ANSWERS)
    if session := editor.session_settings(edits):
        held = session.held_bytes(shape, placement.item, edits) | _basis(editor, shape)
        on_host |= _read(editor, shape)
        passes = _with_gradient(placement, session, prompt_sizes, _largest(passes, _whole_batch(placement, session, edits, prompt_sizes)))
    elif editor.is_refitted:
        on_host |= _read(editor, shape)
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

    With an anchor or a warm-up the model too, and then the requests that these are taken from, at their unprefixed prompts; for curvature
    the model, and rows of text with what all blocks keep for a gradient; with sentences the model, and the passes that ask which of them it
    knows; for a side memory the model, and single texts; with scopes the model, and of a trained answer its training; of a hypernetwork the
    model and the training.
    """
    square, layers, anchor = placement.shape.mlp_width**2 * DOUBLE, len(settings.moment_layers), settings.anchor
    moments, work = {"moments": float(2 * layers * square)}, {"temporaries": 4.0 * square if layers else 0.0}
    if settings.warm_up is not None:
        gradient = placement.activations(GRADIENT_REQUESTS * prompt_sizes.tokens) * placement.shape.layers
        statistics = 3.0 * placement.shape.width**2 * DOUBLE if settings.warm_up.whiten else 0.0
        return split(placement, WITH_TABLES, {}, {"weights": placement.weights, "activations": gradient, "state": statistics})
    if settings.curvature is not None:
        tokens = CURVATURE_ROWS * LONGEST_ROW
        passes = {"activations": placement.activations(tokens) * placement.shape.layers, "logits": placement.logits(tokens, 3)}
        return split(placement, WITH_TABLES, moments | work, {"weights": placement.weights, **passes})
    if settings.scope is not None:
        return split(placement, WITH_TABLES, {}, {"weights": placement.weights, **_scope_training(placement, settings.scope)})
    if settings.hypernetwork is not None:
        training = _hypernetwork_training(placement, settings.hypernetwork, prompt_sizes)
        return split(placement, WITH_TABLES, {}, {"weights": placement.weights, **training})
    if not settings.reads_model:
        return {"process": WITH_TORCH, **moments, **work}, {}
    passes = {"activations": placement.activations(prompt_sizes.tokens)}
    if settings.facts is not None:
        passes = questions(placement, None)
    if anchor is not None:
        alone, target = replace(prompt_sizes, per_request=1), anchor.target
        passes = _largest(passes, _target_optimisation(placement, target.layer, alone, anchor.anchor.requests, target.shifts))
    if not placement.on_device:
        return {"process": WITH_TABLES, **moments, "weights": placement.weights, **_largest(work, passes)}, {}
    return split(placement, WITH_TABLES, moments | work, {"weights": placement.weights, **passes})


def _scope_training(placement: ModelPlacement, scope: ScopeSettings) -> dict[str, Number]:
    """Passes over prompts; of an answer that is trained, its weights, gradient, both moments of Adam and a checkpoint, and a batch."""
    if not isinstance(scope.answer, TrainedAnswer):
        return questions(placement, None)
    tokens, shape = scope.answer.rows * CONTEXT_TOKENS, placement.shape
    logits = placement.logits(scope.answer.rows * ANSWER_TOKENS, 3)
    return {"state": 5.0 * shape.parameters * SINGLE, "activations": placement.activations(tokens) * shape.layers, "logits": logits}


def _hypernetwork_training(placement: ModelPlacement, settings: HypernetworkSettings, prompt_sizes: PromptSizes) -> dict[str, Number]:
    """The network, its gradient, both moments of Adam and the best so far; per layer originals, sum, change and both gradients.

    Of the model a pass with a gradient, and the unedited model's probabilities at the unrelated facts of a sequence of turns.
    """
    network, shape, layers = settings.network, placement.shape, len(settings.layers)
    answers = network.edits * network.turns * ANSWER_TOKENS * shape.vocabulary * SINGLE
    per_token = prompt_sizes.tokens if settings.reads_prompts else ANSWER_TOKENS
    tokens = network.edits * per_token
    rows = layers * tokens * (shape.mlp_width + shape.width) * (DOUBLE * (3 + network.blocks))
    return {
        "state": 5.0 * network.entries(shape.mlp_width, shape.width, layers) * SINGLE
        + layers * shape.mlp_out * (2.0 * placement.item + 4 * DOUBLE),
        "activations": placement.activations(GRADIENT_REQUESTS * prompt_sizes.tokens) * shape.layers,
        "logits": placement.logits(GRADIENT_REQUESTS * ANSWER_TOKENS, 3) + float(answers),
        "temporaries": float(rows + 4 * tokens**2 * DOUBLE),
    }


def reading(placement: ModelPlacement, settings: MeasureSettings | None = None) -> tuple[Bytes, Bytes]:
    """A job that asks the unedited model: contexts, objectives, with settings a baseline."""
    return split(placement, WITH_TABLES, {}, {"weights": placement.weights, **questions(placement, settings)})


def traces(placement: ModelPlacement, settings: TraceSettings, prompt_sizes: PromptSizes) -> tuple[Bytes, Bytes]:
    """A prompt's noised copies with their cache and what entered every block; then all windows of a token at once."""
    layers = placement.shape.layers if settings.layers == "all" else len(settings.layers)
    copies = settings.noise.copies + 1
    rows = len(settings.windows) * layers * copies
    kept = copies * prompt_sizes.tokens * placement.shape.layers * placement.shape.width * placement.item
    on_model = {
        "weights": placement.weights,
        "cache": (copies + rows) * placement.cache(prompt_sizes.tokens) / placement.shape.layers
        + placement.cache(copies * prompt_sizes.tokens),
        "activations": kept + placement.activations(rows * prompt_sizes.after_subject),
        "logits": placement.logits(rows, 2),
    }
    return split(placement, WITH_TABLES, {}, on_model)


def corpus(tokens: int) -> tuple[Bytes, Bytes]:
    """Rows of tokens with their weights."""
    return {"process": WITH_TORCH + 20 * MIB, "rows": float(tokens * 12)}, {}


def light(process: Number = LIGHT) -> tuple[Bytes, Bytes]:
    """A job without a model."""
    return {"process": float(process)}, {}

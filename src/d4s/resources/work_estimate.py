"""Work by stage: floating-point operations and calls of blocks, from sizes alone. Bounds rather than expectations.

Optimisation of targets is counted with all its steps, though most requests stop earlier.
"""

from collections.abc import Sequence
from dataclasses import replace

from d4s.config import CorpusSettings, FluencySettings, FreeAnswersSettings, MeasureSettings, RobustnessSettings, TraceSettings
from d4s.editors.constants import ANSWER_TOKENS, BACKWARD
from d4s.editors.edit_requests import REQUESTS_PER_BLOCK
from d4s.editors.editor_settings import FamilySettings
from d4s.editors.gradient_settings import GRADIENT_REQUESTS
from d4s.editors.parts.hypernetwork_settings import HypernetworkSettings
from d4s.editors.parts.input_settings import PrepareSettings
from d4s.editors.parts.scope_settings import TrainedAnswer
from d4s.editors.parts.target_rule import TargetSettings
from d4s.metrics.benchmark_files import ItemTokens
from d4s.resources.memory_estimate import CONTEXT_TOKENS, ModelPlacement, PromptSizes, at_once
from d4s.resources.requirements import Number, Work
from d4s.runs.run_settings import SingleSettings

QUESTIONS, QUESTION_TOKENS, PROMPTS_PER_FACT = 9, 14, 12
SHIFTED_PROMPTS = 6


def forward(placement: ModelPlacement, tokens: Number, layers: int | None = None, passes: Number = 1.0) -> Work:
    """Tokens through blocks, without the output matrix."""
    shape = placement.shape
    count = shape.layers if layers is None else layers
    return Work(single=2.0 * tokens * shape.block_parameters * count, calls=passes * count)


def unembedding(placement: ModelPlacement, places: Number) -> Work:
    """Logits at some places."""
    return Work(single=2.0 * places * placement.shape.width * placement.shape.vocabulary)


def target_work(placement: ModelPlacement, target: TargetSettings, prompt_sizes: PromptSizes, requests: Number, batch: int) -> Work:
    """Targets of requests, a batch of them at once."""
    prompt_sizes = prompt_sizes.of(target)
    rows, later = requests * (prompt_sizes.per_request + 1), max(1, placement.shape.layers - 1 - target.layer)
    batches = requests / batch
    first = forward(placement, rows * prompt_sizes.tokens, passes=batches)
    step = forward(placement, requests * prompt_sizes.suffix, later, batches) + unembedding(placement, rows * 2)
    return first + step.times(BACKWARD * target.steps)


def targets(placement: ModelPlacement, target: TargetSettings, prompt_sizes: PromptSizes, requests: int) -> Work:
    """Blocks of requests."""
    return target_work(placement, target, prompt_sizes, requests, min(REQUESTS_PER_BLOCK, requests))


def prepare(placement: ModelPlacement, settings: PrepareSettings, prompt_sizes: PromptSizes) -> Work:
    """Eigenvectors of every layer's moment; of requests, at their unprefixed prompts, targets for an anchor or gradients of a warm-up.

    For curvature the model writes text, and takes its gradients. Sentences are scored; as many again are counted that the model may not
    know. Those that the model writes are read again at every token. Of scopes all wordings and near misses are read, and an answer may be
    trained. Of a hypernetwork all steps are counted.
    """
    found, anchor = Work(double=9.0 * len(settings.moment_layers) * placement.shape.mlp_width**3), settings.anchor
    if settings.warm_up is not None:
        passes = settings.warm_up.requests / GRADIENT_REQUESTS
        found += forward(placement, GRADIENT_REQUESTS * prompt_sizes.tokens).times((1.0 + BACKWARD) * passes)
    if (curvature := settings.curvature) is not None:
        found += Work(double=9.0 * placement.shape.width**3)
        found += (forward(placement, curvature.tokens) + unembedding(placement, curvature.tokens)).times(2.0 + BACKWARD)
    if settings.facts is not None:
        tokens = 2 * settings.facts.count * QUESTION_TOKENS
        found += forward(placement, tokens, passes=tokens / placement.pass_tokens) + unembedding(placement, tokens)
    if (locality := settings.locality) is not None:
        tokens = locality.count * locality.tokens
        found += forward(placement, tokens * locality.tokens / 2, passes=tokens) + unembedding(placement, tokens * locality.tokens / 2)
    if settings.background is not None:
        found += forward(placement, settings.background.requests * prompt_sizes.tokens, passes=settings.background.requests)
    if settings.scope is not None:
        tokens = settings.scope.facts * PROMPTS_PER_FACT * QUESTION_TOKENS
        found += forward(placement, tokens, passes=tokens / placement.pass_tokens)
        if isinstance(answer := settings.scope.answer, TrainedAnswer):
            step = forward(placement, answer.rows * CONTEXT_TOKENS) + unembedding(placement, answer.rows * ANSWER_TOKENS)
            found += step.times((1.0 + BACKWARD) * answer.steps) + Work(single=12.0 * placement.shape.parameters * answer.steps)
    if settings.hypernetwork is not None:
        found += _hypernetwork(placement, settings.hypernetwork, prompt_sizes)
    if anchor is None:
        return found
    alone, requests = replace(prompt_sizes, per_request=1), anchor.anchor.requests
    return found + target_work(placement, anchor.target, alone, requests, at_once(placement, alone, requests))


def _hypernetwork(placement: ModelPlacement, settings: HypernetworkSettings, prompt_sizes: PromptSizes) -> Work:
    """Gradients of every request, the unedited model's answers beside it, both again after every turn with their gradient, and the network.

    Every `check_every` steps the same without gradients of the loss, of a twentieth of the facts.
    """
    network, shape = settings.network, placement.shape
    rows, after = float(network.accumulate * network.turns * network.edits), 2.0 * min(network.back, network.turns)
    looks, held_out = network.steps / network.check_every, network.facts / 20
    texts = network.steps * rows * (2.0 + BACKWARD + (1.0 + BACKWARD) * after) + looks * held_out * (2.0 + BACKWARD + after)
    together = min(network.edits, GRADIENT_REQUESTS)
    found = forward(placement, together * prompt_sizes.tokens).times((texts + (1.0 + BACKWARD) * network.facts) / together)
    found += unembedding(placement, texts * ANSWER_TOKENS)
    tokens = rows * (prompt_sizes.tokens if settings.reads_prompts else ANSWER_TOKENS)
    width, layers = shape.mlp_width + shape.width, len(settings.layers)
    rewritten = (1.0 + BACKWARD) * 4.0 * tokens * layers * network.blocks * network.rank * width
    adam = 12.0 * network.entries(shape.mlp_width, shape.width, layers)
    products = layers * (1.0 + BACKWARD) * (2.0 * tokens * shape.mlp_out + tokens**2 * width) + 6.0 * rows * layers * shape.mlp_out
    return found + Work(single=network.steps * (rewritten + adam), double=network.steps * products)


def moments(placement: ModelPlacement, layers: Sequence[int], tokens: int, batch_rows: int) -> Work:
    """A pass over text up to the last of the layers, and the products of keys."""
    square = placement.shape.mlp_width**2
    passes = tokens / placement.row_tokens / batch_rows
    return forward(placement, tokens, max(layers) + 1, passes) + Work(single=2.0 * tokens * square * len(layers))


def questions(placement: ModelPlacement, facts: Number, settings: MeasureSettings) -> Work:
    """Questions about facts, scored and, where settings say so, answered freely."""
    tokens = facts * QUESTIONS * QUESTION_TOKENS
    found = forward(placement, tokens, passes=tokens / placement.pass_tokens) + unembedding(placement, facts * QUESTIONS * 2)
    if settings.generate:
        words, groups = settings.max_new_tokens, max(10.0, tokens / placement.pass_tokens)
        answers = facts * QUESTIONS * words
        found += forward(placement, tokens + answers, passes=groups * words) + unembedding(placement, answers)
    return found


def writing(placement: ModelPlacement, requests: Number, settings: FluencySettings | None) -> Work:
    """Texts about requests, token by token, rows of equal prompts together."""
    if settings is None:
        return Work()
    rows = -(-requests // settings.every) * settings.texts
    tokens, groups = rows * settings.tokens, max(1.0, rows * QUESTION_TOKENS / placement.pass_tokens)
    return forward(placement, rows * QUESTION_TOKENS + tokens, passes=groups * settings.tokens) + unembedding(placement, tokens)


def baseline(placement: ModelPlacement, requests: int, settings: MeasureSettings, rows: int) -> Work:
    """Questions about blocks of requests, texts about them, and rows of text, put to the unedited model."""
    return questions(placement, requests, settings) + writing(placement, requests, settings.fluency) + read(placement, rows)


def shifted_questions(placement: ModelPlacement, settings: RobustnessSettings, edited: Number) -> Work:
    """Prompts about general and edited facts, clean and in every shift, and rows of both texts, put to one model."""
    prompts = (settings.facts + edited) * SHIFTED_PROMPTS
    found = forward(placement, prompts * QUESTION_TOKENS, passes=prompts * QUESTION_TOKENS / placement.pass_tokens)
    return found + unembedding(placement, prompts * 2) + read(placement, 2 * settings.text_rows)


def read(placement: ModelPlacement, rows: int) -> Work:
    """Rows of text, every token predicted."""
    return forward(placement, rows * placement.row_tokens) + unembedding(placement, rows * placement.row_tokens)


def edit(placement: ModelPlacement, editor: FamilySettings, edits: int, prompt_sizes: PromptSizes) -> Work:
    """A sequence: its solver, keys and targets, and questions right after each edit."""
    found = Work(double=editor.solver_operations(placement.shape, edits))
    if editor.is_deferred:
        return found
    found += forward(placement, QUESTIONS * QUESTION_TOKENS, passes=1).times(edits) + unembedding(placement, edits * QUESTIONS)
    for tokens, calls, times in editor.edit_passes(placement.shape, edits, prompt_sizes.per_request, prompt_sizes.tokens):
        found += forward(placement, tokens, passes=calls).times(times)
    if target := editor.step_targets():
        found += target_work(placement, target, prompt_sizes, edits, target.at_once(editor.batch))
    return found


def singles(placement: ModelPlacement, settings: SingleSettings, requests: int, prompt_sizes: PromptSizes) -> Work:
    """Requests edited alone: a step, the change made ready where steps write none, questions and text; text once if unedited."""
    editor, texts = settings.editor, requests if settings.editor.is_measured else 1
    found = edit(placement, editor, requests, prompt_sizes) + read(placement, settings.perplexity_rows).times(texts)
    return found + replay(placement, editor, 1, prompt_sizes).times(requests) if editor.is_deferred else found


def traces(placement: ModelPlacement, settings: TraceSettings, facts: int, prompt_sizes: PromptSizes) -> Work:
    """Facts traced: a pass of every copy, then for each restored token every window from its lowest block on."""
    layers = range(placement.shape.layers) if settings.layers == "all" else settings.layers
    windows = len(settings.windows) * len(layers)
    restored = prompt_sizes.after_subject if "after" in settings.tokens else len(settings.tokens)
    first = forward(placement, (1 + settings.noise.copies) * prompt_sizes.tokens)
    later = forward(placement, windows * settings.noise.copies * prompt_sizes.after_subject / 2, placement.shape.layers // 2 + 1)
    return (first + (later + unembedding(placement, windows * settings.noise.copies)).times(restored)).times(facts)


def measure(
    placement: ModelPlacement, editor: FamilySettings, lengths: Sequence[int], prompt_sizes: PromptSizes, settings: MeasureSettings
) -> Work:
    """At each length the change of weights made ready, questions and text; nothing of the unedited model, whose baseline is read."""
    if not editor.is_measured:
        return Work()
    sample = [length if settings.sample == "all" else min(length, settings.sample) for length in lengths]
    text = read(placement, settings.perplexity_rows)
    each = (
        questions(placement, facts, settings)
        + writing(placement, length, settings.fluency)
        + text
        + replay(placement, editor, length, prompt_sizes)
        for length, facts in zip(lengths, sample, strict=True)
    )
    return sum(each, Work())


def free_answers(
    placement: ModelPlacement, editor: FamilySettings, lengths: Sequence[int], prompt_sizes: PromptSizes, settings: FreeAnswersSettings
) -> Work:
    """At each length the change of weights made ready, and answers about a sample; the unedited model is asked once."""
    asked = MeasureSettings(max_new_tokens=settings.max_new_tokens)
    if not editor.is_measured:
        return questions(placement, -(-max(lengths) // settings.every), asked)
    each = (
        questions(placement, -(-length // settings.every), asked) + replay(placement, editor, length, prompt_sizes) for length in lengths
    )
    return sum(each, Work())


def replay(placement: ModelPlacement, editor: FamilySettings, edits: int, prompt_sizes: PromptSizes) -> Work:
    """The edited model from a recorded state."""
    d, matrix, layers = float(placement.shape.mlp_width), float(placement.shape.mlp_out), len(editor.layers)
    found = Work(double=layers * (2.0 * edits * matrix + 8 * matrix))
    if editor.is_refitted:
        found += Work(double=layers * (d**3 / 3 + 2.0 * edits * d * d))
    for tokens, calls, times in editor.replay_passes(placement.shape, edits, prompt_sizes.per_request, prompt_sizes.tokens):
        found += forward(placement, tokens, passes=calls).times(times)
    return found


def benchmark(
    placement: ModelPlacement,
    editor: FamilySettings,
    lengths: Sequence[int],
    tasks: Sequence[tuple[int, ItemTokens]],
    prompt_sizes: PromptSizes,
) -> Work:
    """Items of tasks: each context is read once, its answers after it, and the rest is written; the unedited model is asked once."""
    each = sum((answers(placement, count, item) for count, item in tasks), Work())
    times = lengths if editor.is_measured else lengths[:1]
    return sum((each + replay(placement, editor, length, prompt_sizes) for length in times), Work())


def answers(placement: ModelPlacement, items: int, item: ItemTokens) -> Work:
    """Items of a task; what is written goes token by token, as many items at once as a pass has contexts."""
    context = min(item.context, placement.shape.positions)
    tokens, together = items * (context + item.answers), max(1.0, placement.pass_tokens / context)
    passes = tokens / placement.pass_tokens + items / together * item.written
    written = items * item.written
    return forward(placement, tokens + written, passes=passes) + unembedding(placement, items * item.answers + written)


def pretrain(placement: ModelPlacement, settings: CorpusSettings, batch_tokens: int) -> Work:
    """Training on all tokens once, forward and backward."""
    shape = placement.shape
    return Work(single=6.0 * settings.tokens * shape.parameters, calls=4.0 * shape.layers * settings.tokens / batch_tokens)

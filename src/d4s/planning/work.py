"""Work by verb: floating-point operations and calls of blocks, from sizes alone. Bounds rather than expectations.

Optimisation of targets is counted with all its steps, though most requests stop earlier.
"""

from collections.abc import Sequence
from dataclasses import replace

from d4s.config import CorpusSettings, MeasureSettings
from d4s.editors.parts import PrepareSettings, TargetSettings
from d4s.editors.settings import FamilySettings, FineTune, Grace, KnowledgeNeurons, LocateThenEdit, OneTimeBatch, Unedited
from d4s.planning.memory import ANSWER, BLOCK, Placed, Prompts, at_once
from d4s.planning.needs import Number, Work

QUESTIONS, QUESTION_TOKENS = 9, 14
BACKWARD = 2  # a gradient with respect to hidden states costs another pass


def forward(placed: Placed, tokens: Number, layers: int | None = None, passes: Number = 1.0) -> Work:
    """Tokens through blocks, without the output matrix."""
    shape = placed.shape
    count = shape.layers if layers is None else layers
    return Work(single=2.0 * tokens * shape.block_parameters * count, calls=passes * count)


def predicted(placed: Placed, places: Number) -> Work:
    """Logits at some places."""
    return Work(single=2.0 * places * placed.shape.width * placed.shape.vocabulary)


def optimising(placed: Placed, target: TargetSettings, prompts: Prompts, requests: Number, batch: int) -> Work:
    """Targets of requests, a batch of them at once."""
    rows, later = requests * (prompts.wordings + 1), max(1, placed.shape.layers - 1 - target.layer)
    batches = requests / batch
    first = forward(placed, rows * prompts.tokens, passes=batches)
    step = forward(placed, rows * prompts.after, later, batches) + predicted(placed, rows * 2)
    return first + step.times(BACKWARD * target.steps)


def targets(placed: Placed, target: TargetSettings, prompts: Prompts, requests: int) -> Work:
    """Blocks of requests."""
    return optimising(placed, target, prompts, requests, min(BLOCK, requests))


def prepare(placed: Placed, settings: PrepareSettings, prompts: Prompts) -> Work:
    """Eigenvectors of every layer's moment, and targets of the requests that an anchor is taken from, at their bare prompts."""
    found, anchor = Work(double=9.0 * settings.basis_layers * placed.shape.mlp_width**3), settings.anchor
    if anchor is None:
        return found
    alone, requests = replace(prompts, wordings=1), anchor.anchor.requests
    return found + optimising(placed, anchor.target, alone, requests, at_once(placed, alone, requests))


def moments(placed: Placed, layers: Sequence[int], tokens: int, batch_rows: int) -> Work:
    """A pass over text up to the last of the layers, and the products of keys."""
    square = placed.shape.mlp_width**2
    passes = tokens / placed.row / batch_rows
    return forward(placed, tokens, max(layers) + 1, passes) + Work(single=2.0 * tokens * square * len(layers))


def asked(placed: Placed, facts: Number, settings: MeasureSettings) -> Work:
    """Questions about facts, scored and, where settings say so, answered freely."""
    tokens = facts * QUESTIONS * QUESTION_TOKENS
    found = forward(placed, tokens, passes=tokens / placed.pass_tokens) + predicted(placed, facts * QUESTIONS * 2)
    if settings.generate:
        words, groups = settings.max_new_tokens, max(10.0, tokens / placed.pass_tokens)
        answers = facts * QUESTIONS * words
        found += forward(placed, tokens + answers, passes=groups * words) + predicted(placed, answers)
    return found


def solved(editor: FamilySettings, placed: Placed, edits: int) -> Work:
    """What the solvers of a sequence do, in double precision, and the weights that are written."""
    d, matrix, layers = float(placed.shape.mlp_width), float(placed.shape.mlp_out), len(editor.layers)
    if not isinstance(editor, LocateThenEdit):
        return Work(double=edits * layers * 4 * matrix)
    steps = edits / editor.batch
    at_start, each = d**3, 6 * d * d * editor.batch
    if editor.state_kind == "dense" and editor.history != "none":
        each = d**3 / 3
    if editor.history == "queue":
        each = d**3 / 3 + 4 * d * matrix
    if editor.history != "none" and steps > 1000:
        at_start *= 1 + steps // 1000
    return Work(double=layers * (at_start + steps * (each + 10 * matrix)))


def baseline(placed: Placed, requests: int, settings: MeasureSettings, rows: int) -> Work:
    """Questions about blocks of requests, and rows of text, put to the unedited model."""
    return asked(placed, requests, settings) + read(placed, rows)


def read(placed: Placed, rows: int) -> Work:
    """Rows of text, every token predicted."""
    return forward(placed, rows * placed.row) + predicted(placed, rows * placed.row)


def edit(placed: Placed, editor: FamilySettings, edits: int, prompts: Prompts) -> Work:
    """A sequence: its solver, keys and targets, and questions right after each edit."""
    found = solved(editor, placed, edits)
    if isinstance(editor, OneTimeBatch):
        return found
    look = forward(placed, QUESTIONS * QUESTION_TOKENS, passes=1).times(edits) + predicted(placed, edits * QUESTIONS)
    found += look
    if isinstance(editor, LocateThenEdit):
        found += forward(placed, prompts.wordings * prompts.tokens, passes=2).times(edits * len(editor.layers) / 2)
        if editor.target.at == "current":
            found += optimising(placed, editor.target, prompts, edits, editor.batch)
        return found
    if isinstance(editor, FineTune | Grace):
        return found + forward(placed, prompts.tokens).times(3.0 * edits * editor.steps)
    if isinstance(editor, KnowledgeNeurons):
        layers = placed.shape.layers
        each = forward(placed, ANSWER * editor.steps * layers / 2, passes=1).times(BACKWARD) + forward(placed, prompts.tokens)
        return found + each.times(edits)
    return found


def measure(placed: Placed, editor: FamilySettings, lengths: Sequence[int], prompts: Prompts, settings: MeasureSettings) -> Work:
    """At each length the change of weights made ready, questions and text; nothing of the unedited model, whose baseline is read."""
    if isinstance(editor, Unedited):
        return Work()
    sample = [length if settings.sample == "all" else min(length, settings.sample) for length in lengths]
    text = read(placed, settings.perplexity_rows)
    each = (
        asked(placed, facts, settings) + text + ready(placed, editor, length, prompts)
        for length, facts in zip(lengths, sample, strict=True)
    )
    return sum(each, Work())


def ready(placed: Placed, editor: FamilySettings, edits: int, prompts: Prompts) -> Work:
    """The edited model from a recorded state."""
    d, matrix, layers = float(placed.shape.mlp_width), float(placed.shape.mlp_out), len(editor.layers)
    found = Work(double=layers * (2.0 * edits * matrix + 8 * matrix))
    if isinstance(editor, OneTimeBatch) or (isinstance(editor, LocateThenEdit) and editor.state_kind == "refit"):
        found += Work(double=layers * (d**3 / 3 + 2.0 * edits * d * d))
    if isinstance(editor, OneTimeBatch):
        found += forward(placed, edits * prompts.wordings * prompts.tokens).times(layers)
    return found


def benchmark(placed: Placed, editor: FamilySettings, lengths: Sequence[int], tokens: Number, prompts: Prompts) -> Work:
    """Items of all tasks with all their options, so many tokens at every length."""
    each = forward(placed, tokens, passes=tokens / placed.pass_tokens) + predicted(placed, tokens / 20)
    return sum((each + ready(placed, editor, length, prompts) for length in lengths), Work())


def pretrain(placed: Placed, settings: CorpusSettings, batch_tokens: int) -> Work:
    """Training on all tokens once, forward and backward."""
    shape = placed.shape
    return Work(single=6.0 * settings.tokens * shape.parameters, calls=4.0 * shape.layers * settings.tokens / batch_tokens)

"""SERAC's counterfactual model: a model trained to read the answer of a prompt from an edit that stands before it.

Every text is an edit in its context form, a prompt, and the edit's target; loss is on the target alone. Targets are drawn again for
every text from the objects of the fact's relation, so that reading is learnt and no fact. A step's draw depends on the seed and the
step alone, and a checkpoint holds weights and moments: a training that was interrupted ends with the same bits.

Terms and symbols: docs/notation.md.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.editors.fact_pool import wordings_of
from d4s.editors.memory_texts import context_of
from d4s.editors.parts.scope_settings import Answer, ScopeSettings, TrainedAnswer
from d4s.editors.training_checkpoints import Checkpoint
from d4s.errors import D4SError, SettingsError
from d4s.facts.record import Fact
from d4s.log import progress
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.models.tokens import Pair, encode_pairs
from d4s.questions.question_items import keyed_rng

log = logging.getLogger(__name__)
PREFIX = "answer."
CHECKPOINT_EVERY = 100  # steps; enters no result
RISE = 0.05  # share of the steps over which the learning rate rises
WEIGHT_DECAY, CLIP = 0.01, 1.0


def train_answers(model: LanguageModel, settings: ScopeSettings, facts: Sequence[Fact], checkpoint: Checkpoint | None) -> dict[str, Tensor]:
    """Weights of the trained model by name; nothing where the model itself answers.

    Raises:
        SettingsError: if it begins from a model with another tokenizer.
        D4SError: if the loss stops being finite.
    """
    answer = settings.answer
    if not isinstance(answer, TrainedAnswer):
        return {}
    trained = starting_model(model, answer)
    trained.network.requires_grad_(True)
    weights = dict(trained.network.named_parameters())
    adam = torch.optim.AdamW(weights.values(), lr=answer.lr, weight_decay=WEIGHT_DECAY)
    done = checkpoint.restore(weights, adam)[0] if checkpoint is not None else 0
    for step in progress(range(done, answer.steps), "answers in context", answer.steps, done=done):
        adam.param_groups[0]["lr"] = answer.lr * _rate(step, answer.steps)
        loss = context_loss(trained, texts_of_step(trained, settings, facts, step))
        if not bool(loss.isfinite()):
            raise D4SError(f"training of answers in context diverged: the loss is {loss.item()} at step {step + 1}; lower `answer.lr`")
        for weight, gradient in zip(weights.values(), torch.autograd.grad(loss, [*weights.values()]), strict=True):
            weight.grad = gradient
        torch.nn.utils.clip_grad_norm_(weights.values(), CLIP)
        adam.step()
        log.debug("step %d of %d: loss %.3f", step + 1, answer.steps, loss.item())
        if checkpoint is not None and (step + 1) % CHECKPOINT_EVERY == 0 and step + 1 < answer.steps:
            checkpoint.save(step + 1, weights, adam)
    return {f"{PREFIX}{name}": weight.detach() for name, weight in weights.items()}


def answering_model(model: LanguageModel, answer: Answer, extras: Mapping[str, Tensor]) -> LanguageModel:
    """Who answers in scope: the model itself, or the one whose weights are among the prepared tensors."""
    if not isinstance(answer, TrainedAnswer):
        return model
    found = starting_model(model, answer)
    with torch.no_grad():
        for name, weight in found.network.named_parameters():
            weight.copy_(extras[f"{PREFIX}{name}"])
    return found


def starting_model(model: LanguageModel, answer: TrainedAnswer) -> LanguageModel:
    """A copy of the model, or of the one in a folder, that may be trained.

    Raises:
        SettingsError: if its tokenizer is another one.
    """
    if answer.start == "base":
        return replace(model, network=copy.deepcopy(model.network))
    found = load(answer.start, dtype=model.dtype, device=model.device)
    if found.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        raise SettingsError(f"the model in {answer.start} has another tokenizer than the edited one; both must read and write equal tokens")
    return found


def texts_of_step(model: LanguageModel, settings: ScopeSettings, facts: Sequence[Fact], step: int) -> list[Pair]:
    """Prompts behind an edit, with the edit's target: ids before the target, and its ids."""
    assert isinstance(settings.answer, TrainedAnswer)
    rng = keyed_rng("answers", settings.seed, step)
    objects: dict[str, list[str]] = {}
    for fact in facts:
        objects.setdefault(fact.relation, []).append(fact.target_true)
    prompts, targets = list[str](), list[str]()
    for fact in (facts[int(place)] for place in rng.integers(len(facts), size=settings.answer.rows)):
        wordings, known = wordings_of(fact), objects[fact.relation]
        edited, asked = (wordings[int(rng.integers(len(wordings)))] for _ in range(2))
        targets.append(known[int(rng.integers(len(known)))])
        prompts.append(context_of(settings.context, edited, targets[-1]) + asked)
    return encode_pairs(model, prompts, targets)


def context_loss(model: LanguageModel, texts: Sequence[Pair]) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of the target tokens of texts, nats; a mask by position."""
    rows = [(*prompt, *target) for prompt, target in texts]
    width = max(map(len, rows))
    ids = torch.tensor([(*row, *(0,) * (width - len(row))) for row in rows], device=model.device)
    at = [(number, place) for number, (prompt, target) in enumerate(texts) for place in range(len(prompt), len(prompt) + len(target))]
    number, place = torch.tensor(at, device=model.device).unbind(1)
    hidden = model.network.base_model(input_ids=ids, use_cache=False).last_hidden_state
    logits = model.unembed(hidden[number, place - 1]).float()
    return torch.nn.functional.cross_entropy(logits, ids[number, place])


def _rate(step: int, steps: int) -> float:
    """Share of the learning rate: a linear rise, then a linear fall to zero."""
    return min((step + 1) / (RISE * steps), (steps - step) / ((1 - RISE) * steps), 1.0)

"""Slow, direct transcriptions of the methods: one text at a time, loops, inverses. What fast code must agree with."""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from d4s.editors.edit_requests import EditRequest, draw_requests
from d4s.editors.least_squares_settings import LocateThenEdit
from d4s.editors.parts.key_rule import KeySettings
from d4s.editors.parts.target_rule import AlignSettings, TargetSettings
from d4s.editors.prompts import Prompt, PromptSet, build_prompts
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode_pair
from d4s.models.trace import trace
from tests.tiny import tiny_facts

PREFIXES = ("The old city is", "Therefore Ada Reed works as a pilot.")


LONG_ANSWERS = ("Paris Rome Oslo Lima Cairo", "Delhi", "Quito Seoul Paris", "Oslo")


def requests_of(count: int) -> list[EditRequest]:
    return [request for request, _ in draw_requests(tiny_facts(count + 4), seed=5, count=count)]


def long_requests(count: int = 4) -> list[EditRequest]:
    """Requests whose answers have five, one, three and one words in turn."""
    return [replace(request, target=LONG_ANSWERS[number % len(LONG_ANSWERS)]) for number, request in enumerate(requests_of(count))]


def rewritings_of(model: LanguageModel, requests: Sequence[EditRequest], prefixes: Sequence[str] = PREFIXES) -> list[PromptSet]:
    return [build_prompts(model, request, prefixes) for request in requests]


@contextmanager
def watching(module: torch.nn.Module, change=None):
    """Inputs and outputs of a module's latest call; `change` may replace its output."""
    seen: dict[str, Tensor] = {}

    def hook(_module, args, kwargs, output):
        first = output[0] if isinstance(output, tuple) else output
        seen["in"] = (args[0] if args else kwargs["hidden_states"]).detach()
        if change is None:
            seen["out"] = first.detach()
            return None
        changed = change(first)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def hooked(model: LanguageModel, settings: TargetSettings) -> torch.nn.Module:
    return model.block(settings.layer) if settings.hook == "block_output" else model.mlp_share(settings.layer)


def shifted(model: LanguageModel, settings: TargetSettings) -> torch.nn.Module:
    """What a shift is added to: the hooked vector, or before a norm after the MLP the MLP's output."""
    return hooked(model, settings) if model.post_norm(settings.layer) is None else model.mlp_out(settings.layer)


def key_of(model: LanguageModel, prompt: Prompt, layer: int) -> Tensor:
    with watching(model.mlp_out(layer)) as seen:
        model.network(input_ids=torch.tensor([prompt.ids]))
    return seen["in"][0, prompt.subject_last].double()


def hidden_of(model: LanguageModel, prompt: Prompt, settings: TargetSettings) -> Tensor:
    with watching(hooked(model, settings)) as seen:
        model.network(input_ids=torch.tensor([prompt.ids]))
    return seen["out"][0, prompt.subject_last].double()


def average_key(model: LanguageModel, one: PromptSet, layer: int, settings: KeySettings) -> Tensor:
    keys = [key_of(model, prompt, layer) for prompt in one.prompts]
    if settings.average == "unprefixed":
        return keys[0]
    if settings.average == "plain":
        return sum(keys) / len(keys)
    return 0.5 * keys[0] + 0.5 * sum(keys[1:]) / len(keys[1:])


@dataclass
class Others:
    """For aligned targets: the request's key, and key and shift of each earlier request of its batch."""

    key: Tensor
    earlier: Sequence[tuple[Tensor, Tensor]]

    def loss(self, settings: AlignSettings, shift: Tensor) -> Tensor:
        if not self.earlier:
            return torch.zeros(())
        cosine = torch.nn.functional.cosine_similarity
        keys = torch.stack([cosine(self.key, key, dim=0) for key, _ in self.earlier])
        shifts = torch.stack([cosine(shift, other, dim=0) if shift.any() else torch.zeros_like(other[0]) for _, other in self.earlier])
        p, q = (torch.exp(one / settings.tau) / torch.exp(one / settings.tau).sum() for one in (keys, shifts))
        near = sorted(range(len(keys)), key=lambda i: -float(keys[i]))[: settings.top]
        weight = torch.exp(keys[near] / settings.tau)
        squares = (weight / weight.sum() * (keys[near] - shifts[near]) ** 2).sum()
        return settings.kl * (p * torch.log(p / q)).sum() + settings.mse * squares


def targets_in_turn(model: LanguageModel, batch: Sequence[PromptSet], settings: TargetSettings, keys: KeySettings) -> list[Any]:
    """The targets of a batch, each aligned with those before it."""
    found, own = list[Any](), [average_key(model, one, settings.layer, keys) for one in batch]
    for number, one in enumerate(batch):
        earlier = [(own[i], found[i]["hidden_shift"]) for i in range(number)]
        found.append(target_of(model, one, settings, Others(own[number], earlier)))
    return found


def target_of(model: LanguageModel, one: PromptSet, settings: TargetSettings, others: Others | None = None) -> dict[str, Tensor]:
    """The loop of the released code, one request and one wording at a time, every token through the whole model."""
    hidden = hidden_of(model, one.prompts[0], settings)
    unit, norm = 1.0, hidden.norm()
    if model.post_norm(settings.layer) is not None:
        with watching(model.mlp_out(settings.layer)) as seen, watching(model.post_norm(settings.layer)) as normed:
            model.network(input_ids=torch.tensor([one.prompts[0].ids]))
        output, share = (found["out"][0, one.prompts[0].subject_last].double() for found in (seen, normed))
        unit, norm = output.norm() / share.norm(), share.norm()
    shift, limit = torch.zeros_like(hidden, requires_grad=True), settings.clamp * norm
    before, first, last, done = None, None, None, 0
    if others is not None and settings.align is not None:
        _, first, _, before = _loss(model, one, settings, shift, norm, None, unit)
        if settings.align.start == "hidden" and hidden.norm() < settings.align.start_below:
            shift = (hidden / hidden.norm() * others.key.norm()).requires_grad_()
        limit = settings.clamp * others.key.norm() if settings.align.clamp_to == "key" else limit
    adam = torch.optim.Adam([shift], lr=settings.lr)
    for step in range(settings.steps):
        loss, probability, lowest, present = _loss(model, one, settings, shift, norm, before, unit)
        if others is not None and settings.align is not None:
            loss = loss + others.loss(settings.align, shift)
        before = present if before is None else before
        first, last = (probability if first is None else first), probability
        stop = settings.stop_probability is not None and lowest >= settings.stop_probability
        if loss.item() < settings.stop_loss or stop or step == settings.steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        done += 1
        with torch.no_grad():
            if shift.norm() > limit:
                shift.mul_(limit / shift.norm())
    return {"hidden_shift": unit * shift.detach(), "hidden": hidden, "probability_before": first, "probability_after": last, "steps": done}


def _loss(model, one, settings, shift, norm, before, unit):
    total, probabilities, lowest = 0.0, [], 1.0
    for prompt in one.prompts:
        likely = _log_probabilities(model, prompt.ids + prompt.target[:-1], prompt.subject_last, settings, unit * shift)
        of_target = torch.stack([likely[len(prompt.ids) - 1 + i, token] for i, token in enumerate(prompt.target)])
        total = total - of_target.mean()
        probabilities.append(of_target.mean().exp().detach())
        lowest = min(lowest, float(of_target.min().exp().detach()))
    present = _log_probabilities(model, one.kl_prompt.ids, one.kl_prompt.subject_last, settings, unit * shift)[one.kl_prompt.subject_last]
    before = present.detach() if before is None else before
    divergence = (present.exp() * (present - before)).sum()
    loss = total / len(one.prompts) + settings.kl_weight * divergence + settings.weight_decay * shift.norm() / norm**2
    if settings.consistency is not None:
        loss = loss + settings.consistency.weight * _unlike(model, one, settings, unit * shift)
    return loss, torch.stack(probabilities).mean(), lowest, present.detach()


def _unlike(model, one, settings, shift):
    """Squared distances of hidden states between all pairs of prompts, over their width, a mean over the blocks above."""
    blocks = range(settings.layer + 1, min(settings.layer + 1 + settings.consistency.blocks, model.n_layers))
    states = {block: [] for block in blocks}
    for prompt in one.prompts:
        with trace({block: model.block(block) for block in blocks}) as seen:
            _log_probabilities(model, prompt.ids, prompt.subject_last, settings, shift)
        for block in blocks:
            states[block].append(seen.outputs[block][0, prompt.subject_last])
    pairs = [sum((a - b).square().sum() for i, a in enumerate(of) for b in of[i + 1 :]) / len(of[0]) for of in states.values()]
    return sum(pairs) / len(pairs)


def _log_probabilities(model, ids, subject_last, settings, shift):
    def change(output):
        output = output.clone()
        output[0, subject_last] = output[0, subject_last] + shift.to(output.dtype)
        return output

    with watching(shifted(model, settings), change):
        logits = model.network(input_ids=torch.tensor([ids])).logits
    return logits[0].to(shift.dtype).log_softmax(-1)


# --- methods: every function returns the change of each layer's weight after each batch of edits ------------------------


def stored(model: LanguageModel, layer: int) -> Tensor:
    """The weight as the network keeps it."""
    return model.mlp_out(layer).weight.data


def put(model: LanguageModel, layer: int, weight: Tensor) -> None:
    """Write a weight of shape (d_out, d_in), transposed where the network keeps it so."""
    live = stored(model, layer)
    live.copy_(weight if type(model.mlp_out(layer)).__name__ == "Linear" else weight.T)


def got(model: LanguageModel, layer: int) -> Tensor:
    weight = stored(model, layer).clone()
    return weight if type(model.mlp_out(layer)).__name__ == "Linear" else weight.T.contiguous()


def preserved_by(settings, moments, layer: int) -> Tensor:
    """lambda C; where that is singular a millionth of its mean diagonal is added."""
    base = settings.preservation.weight * moments[layer].mean()
    if torch.linalg.eigvalsh(base)[0] > 1e-12 * base.diagonal().max():
        return base
    return base + 1e-6 * base.trace() / len(base) * torch.eye(len(base), dtype=torch.float64)


def d4s(model: LanguageModel, edits: Sequence[PromptSet], settings, moments) -> list[dict[int, Tensor]]:
    """As released: sums of r k' and k k', solved anew from the original weights at every edit."""
    layers = settings.layers
    original = {layer: got(model, layer) for layer in layers}
    sums = {layer: torch.zeros_like(original[layer]) for layer in layers}
    grams = {layer: torch.zeros(original[layer].shape[1], original[layer].shape[1], dtype=torch.float64) for layer in layers}
    history = []
    for one in edits:
        residual = target_of(model, one, settings.target)["hidden_shift"]
        delta = {}
        for i, layer in enumerate(layers):
            key = average_key(model, one, layer, settings.keys)
            sums[layer] += torch.outer(residual, key)
            grams[layer] += torch.outer(key, key)
            solved = sums[layer] @ torch.linalg.inv(preserved_by(settings, moments, layer) + grams[layer])
            delta[layer] = solved / (len(layers) if settings.residual_schedule.kind == "even" else len(layers) - i)
            put(model, layer, original[layer] + delta[layer])
        for layer in layers:
            put(model, layer, original[layer])
        history.append(delta)
    return history


def memit(model: LanguageModel, batches: Sequence[Sequence[PromptSet]], settings, moments) -> list[dict[int, Tensor]]:
    """Batch after batch on the edited model; with `history: keys` the keys of earlier batches are preserved as well."""
    layers = settings.layers
    original = {layer: got(model, layer) for layer in layers}
    seen = {layer: torch.zeros(original[layer].shape[1], original[layer].shape[1], dtype=torch.float64) for layer in layers}
    history = []
    for batch in batches:
        if settings.target.align is None:
            goals = [target_of(model, one, settings.target) for one in batch]
        else:
            goals = targets_in_turn(model, batch, settings.target, settings.keys)
        wanted = torch.stack([goal["hidden"] + goal["hidden_shift"] for goal in goals], 1)
        for i, layer in enumerate(layers):
            keys = torch.stack([average_key(model, one, layer, settings.keys) for one in batch], 1)
            present = torch.stack([hidden_of(model, one.prompts[0], settings.target) for one in batch], 1)
            residuals = (wanted - present) / (len(layers) - i)
            update = residuals @ keys.T @ torch.linalg.inv(preserved_by(settings, moments, layer) + seen[layer] + keys @ keys.T)
            put(model, layer, got(model, layer) + update)
            if isinstance(settings, LocateThenEdit) and settings.history.kind == "keys":
                seen[layer] += keys @ keys.T
        history.append({layer: got(model, layer) - original[layer] for layer in layers})
    for layer in layers:
        put(model, layer, original[layer])
    return history


def alphaedit(model: LanguageModel, edits: Sequence[PromptSet], settings, moments) -> list[dict[int, Tensor]]:
    """The unsymmetric projected system of the release, with the projector written out."""
    layers = settings.layers
    original = {layer: got(model, layer) for layer in layers}
    seen = {layer: torch.zeros(original[layer].shape[1], original[layer].shape[1], dtype=torch.float64) for layer in layers}
    projectors = {}
    for layer in layers:
        left, values, _ = torch.linalg.svd(moments[layer].mean())
        free = left[:, values < settings.preservation.threshold]
        projectors[layer] = free @ free.T
    history = []
    for one in edits:
        goal = target_of(model, one, settings.target)
        for i, layer in enumerate(layers):
            key = average_key(model, one, layer, settings.keys)
            residual = (goal["hidden"] + goal["hidden_shift"] - hidden_of(model, one.prompts[0], settings.target)) / (len(layers) - i)
            system = projectors[layer] @ (torch.outer(key, key) + seen[layer]) + settings.preservation.weight * torch.eye(len(key)).double()
            update = torch.linalg.solve(system, projectors[layer] @ torch.outer(key, residual)).T
            put(model, layer, got(model, layer) + update)
            seen[layer] += torch.outer(key, key)
        history.append({layer: got(model, layer) - original[layer] for layer in layers})
    for layer in layers:
        put(model, layer, original[layer])
    return history


def rome(model: LanguageModel, edits: Sequence[PromptSet], settings, moments) -> list[dict[int, Tensor]]:
    """One rank-one change per edit: the average key in the numerator, the unprefixed one in the denominator."""
    (layer,) = settings.layers
    original = got(model, layer)
    history = []
    for one in edits:
        goal = target_of(model, one, settings.target)
        inverse = torch.linalg.inv(preserved_by(settings, moments, layer))
        direction = inverse @ average_key(model, one, layer, settings.keys)
        direction = direction / direction.norm()
        unprefixed = key_of(model, one.prompts[0], layer)
        right = (goal["hidden"] + goal["hidden_shift"] - hidden_of(model, one.prompts[0], settings.target)) / (unprefixed @ direction)
        put(model, layer, got(model, layer) + torch.outer(right, direction))
        history.append({layer: got(model, layer) - original})
    put(model, layer, original)
    return history


def keys_and_gradients(model: LanguageModel, request, layers) -> tuple[dict[int, Tensor], dict[int, Tensor], int]:
    """What enters matrices at every token of one request, and the gradient of the sum of its target's losses at what leaves them.

    One pass with hooks, in float64. The number is the place from which the target's tokens are predicted.
    """
    prompt, target = encode_pair(model, request.prompt, request.target)
    inputs: dict[int, Tensor] = {}
    added = {layer: torch.zeros(len(prompt) + len(target) - 1, model.d_out(), dtype=torch.float64, requires_grad=True) for layer in layers}

    def hook(layer: int):
        def add(_module, args, output):
            inputs[layer] = args[0][0].detach()
            return output + added[layer]

        return add

    handles = [model.mlp_out(layer).register_forward_hook(hook(layer)) for layer in layers]
    logits = model.network(input_ids=torch.tensor([prompt + target[:-1]])).logits[0, len(prompt) - 1 :]
    for handle in handles:
        handle.remove()
    torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="sum").backward()
    return inputs, {layer: shift.grad for layer, shift in added.items()}, len(prompt) - 1

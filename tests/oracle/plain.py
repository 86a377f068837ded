"""Slow, direct transcriptions of the methods: one text at a time, loops, inverses. What fast code must agree with."""

from collections.abc import Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from d4s.editors.prompts import Rewriting, Wording, rewriting
from d4s.editors.settings import KeySettings, TargetSettings
from d4s.models.language_model import LanguageModel
from d4s.requests.draw import EditRequest, draw
from tests.tiny import tiny_facts

PREFIXES = ("The old city is", "Therefore Ada Reed works as a pilot.")


def requests_of(count: int) -> list[EditRequest]:
    return [request for request, _ in draw(tiny_facts(count + 4), seed=5, count=count)]


def rewritings_of(model: LanguageModel, requests: Sequence[EditRequest], prefixes: Sequence[str] = PREFIXES) -> list[Rewriting]:
    return [rewriting(model, request, prefixes) for request in requests]


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
    return model.block(settings.layer) if settings.hook == "block_output" else model.mlp_out(settings.layer)


def key_of(model: LanguageModel, wording: Wording, layer: int) -> Tensor:
    with watching(model.mlp_out(layer)) as seen:
        model.network(input_ids=torch.tensor([wording.ids]))
    return seen["in"][0, wording.lookup].double()


def hidden_of(model: LanguageModel, wording: Wording, settings: TargetSettings) -> Tensor:
    with watching(hooked(model, settings)) as seen:
        model.network(input_ids=torch.tensor([wording.ids]))
    return seen["out"][0, wording.lookup].double()


def average_key(model: LanguageModel, one: Rewriting, layer: int, settings: KeySettings) -> Tensor:
    keys = [key_of(model, wording, layer) for wording in one.wordings]
    if settings.average == "bare":
        return keys[0]
    if settings.average == "plain":
        return sum(keys) / len(keys)
    return 0.5 * keys[0] + 0.5 * sum(keys[1:]) / len(keys[1:])


def target_of(model: LanguageModel, one: Rewriting, settings: TargetSettings) -> dict[str, Tensor]:
    """The loop of the released code, one request and one wording at a time, every token through the whole model."""
    hidden = hidden_of(model, one.wordings[0], settings)
    shift = torch.zeros_like(hidden, requires_grad=True)
    adam = torch.optim.Adam([shift], lr=settings.lr)
    before, first, last, done = None, None, None, 0
    for step in range(settings.steps):
        loss, probability, lowest, present = _loss(model, one, settings, shift, hidden, before)
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
            limit = settings.clamp * hidden.norm()
            if shift.norm() > limit:
                shift.mul_(limit / shift.norm())
    return {"hidden_shift": shift.detach(), "hidden": hidden, "probability_before": first, "probability_after": last, "steps": done}


def _loss(model, one, settings, shift, hidden, before):
    total, probabilities, lowest = 0.0, [], 1.0
    for wording in one.wordings:
        likely = _log_probabilities(model, wording.ids + wording.target[:-1], wording.lookup, settings, shift)
        of_target = torch.stack([likely[len(wording.ids) - 1 + i, token] for i, token in enumerate(wording.target)])
        total = total - of_target.mean()
        probabilities.append(of_target.mean().exp().detach())
        lowest = min(lowest, float(of_target.min().exp().detach()))
    present = _log_probabilities(model, one.essence.ids, one.essence.lookup, settings, shift)[one.essence.lookup]
    before = present.detach() if before is None else before
    divergence = torch.nn.functional.kl_div(before, present, log_target=True, reduction="sum")
    divergence = (present.exp() * (present - before)).sum() + 0.0 * divergence
    loss = total / len(one.wordings) + settings.kl_weight * divergence + settings.weight_decay * shift.norm() / hidden.norm() ** 2
    return loss, torch.stack(probabilities).mean(), lowest, present.detach()


def _log_probabilities(model, ids, lookup, settings, shift):
    def change(output):
        output = output.clone()
        output[0, lookup] = output[0, lookup] + shift.to(output.dtype)
        return output

    with watching(hooked(model, settings), change):
        logits = model.network(input_ids=torch.tensor([ids])).logits
    return logits[0].to(shift.dtype).log_softmax(-1)

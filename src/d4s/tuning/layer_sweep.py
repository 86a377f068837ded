"""Which block takes a target: targets of a few requests optimised at a block, injected there, and read back in other wordings.

Injected means that the optimised shift is added by hand at the subject's last token, so no weight changes and no key has to generalise:
what is measured is the best that an edit of the layers up to this block can reach.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from d4s.editors.edit_requests import EditRequest
from d4s.editors.parts.target_rule import TargetSettings
from d4s.editors.prompts import build_prompts, pad_ids
from d4s.editors.settings_file import LayerScore
from d4s.editors.target_optimisation import build_target_loss, optimise_requests
from d4s.editors.weight_side import target_change
from d4s.facts.record import Fact
from d4s.models.language_model import LanguageModel
from d4s.models.trace import trace
from d4s.tuning.known_facts import paraphrase_templates

STEP_SHARE = 0.12  # of the hidden state's norm that one step of Adam moves the shift by
STOP_PROBABILITY = 0.9
STEPS = 25
CLAMP = 1.0
TOLERANCE = 0.05  # smallest difference of scores that counts
USUAL_DEPTH = 0.3  # of the block of the target in the released settings of five models: .25 to .36 of the blocks
HIGHEST_DEPTH = 0.75  # blocks above take no target in any model that was tried


def hidden_norms(model: LanguageModel, requests: Sequence[EditRequest]) -> tuple[list[float], list[float]]:
    """Median norms at the subjects' last tokens by block: of what clamps of `block_output` are relative to, and of `mlp_output`.

    These are the block's output and what its MLP adds to it; with a norm after the MLP both are the latter. The median, since the first
    token of a text has a far larger norm in many models, and a subject may be that token.
    """
    prompts = [build_prompts(model, request, ()).prompts[0] for request in requests]
    modules = {("block", layer): model.block(layer) for layer in range(model.n_layers)}
    modules |= {("mlp", layer): model.mlp_out(layer) for layer in range(model.n_layers)}
    places, each = torch.tensor([prompt.subject_last for prompt in prompts]), torch.arange(len(prompts))
    with torch.no_grad(), trace(modules) as found:
        model.network.base_model(input_ids=pad_ids([prompt.through_subject for prompt in prompts], model.device), use_cache=False)
        outputs = {key: output[each, places] for key, output in found.outputs.items()}
        added = [model.block_output_change(n, torch.zeros_like(outputs["mlp", n]), outputs["mlp", n]) for n in range(model.n_layers)]
    blocks = [added[n] if model.post_norm(n) is not None else outputs["block", n] for n in range(model.n_layers)]
    medians = [[float(hidden.double().norm(dim=1).median()) for hidden in kind] for kind in (blocks, added)]
    return medians[0], medians[1]


def target_settings(layer: int, norm: float, width: int, clamp: float = CLAMP, lr_scale: float = 1.0) -> TargetSettings:
    """How targets are optimised at a block where clamps are relative to a norm: a step moves the shift by an eighth of that."""
    lr = lr_scale * STEP_SHARE * norm / width**0.5
    return TargetSettings(
        layer=layer, lr=float(f"{lr:.2g}"), clamp=clamp, steps=STEPS, stop_probability=STOP_PROBABILITY, at="original", weight_decay=0.5
    )


def score_target(
    model: LanguageModel, drawn: Sequence[tuple[EditRequest, Fact]], prefixes: Sequence[str], settings: TargetSettings
) -> dict[str, float]:
    """Efficacy and paraphrase of targets injected at a block, with the mean probability and size of the shift.

    Efficacy is the share of edited prompts after which every token of the new target is the likeliest one; paraphrase the mean over
    facts of the same share of their paraphrases.
    """
    requests = [request for request, _ in drawn]
    targets = optimise_requests(model, requests, prefixes, settings)
    rows = [
        (number, replace(request, template=template, prompt=template.replace("{}", request.subject)))
        for number, (request, fact) in enumerate(drawn)
        for template in (request.template, *paraphrase_templates(fact))
    ]
    owner = torch.tensor([number for number, _ in rows])
    is_top1, probability = inject(model, [request for _, request in rows], targets.hidden_shift[owner], settings)
    is_edited = torch.tensor([request.template == requests[number].template for number, request in rows])
    right = is_top1.double()
    paraphrase = [right[(owner == number) & ~is_edited].mean() for number in range(len(requests))]
    ratio = target_change(model, settings.layer, targets).norm(dim=1) / targets.hidden.norm(dim=1)
    return {
        "efficacy": float(right[is_edited].mean()),
        "paraphrase": float(torch.stack(paraphrase).mean()),
        "probability": float(probability[is_edited].mean()),
        "shift_ratio": float(ratio.mean()),
        "paraphrases": len(rows) - len(requests),
    }


@torch.no_grad()
def inject(
    model: LanguageModel, requests: Sequence[EditRequest], shift: Float[Tensor, "n d_out"], settings: TargetSettings
) -> tuple[Bool[Tensor, " n"], Float[Tensor, " n"]]:
    """With a shift added at each request's last subject token: whether every target token is the likeliest one, and the probability.

    Where a norm follows the MLP, the shift is one of the MLP's output before it, as targets have it.
    """
    prompt_sets = [build_prompts(model, request, ()) for request in requests]
    target_loss, _ = build_target_loss(model, prompt_sets, settings.model_copy(update={"stop_top1": 0}))
    found, _ = target_loss.evaluate(shift[:, None] / target_loss.unit)
    return found.is_top1.cpu(), found.probability.cpu()


def coarse_layers(n_layers: int, count: int) -> list[int]:
    """At most `count` blocks, evenly spaced from the lowest ones to three quarters of the depth."""
    highest = min(n_layers - 1, max(1, round(HIGHEST_DEPTH * n_layers) - 1))
    lowest = min(highest, n_layers // 15)
    return sorted({round(lowest + (highest - lowest) * number / max(1, count - 1)) for number in range(count)})


def fine_layers(scores: Sequence[LayerScore], n_layers: int) -> list[int]:
    """Blocks halfway between the block chosen so far and its neighbours in the sweep."""
    swept = sorted(found.layer for found in scores)
    place = swept.index(usual_layer(scores, n_layers))
    halfway = [(swept[place] + other) // 2 for other in (*swept[max(0, place - 1) : place], *swept[place + 1 : place + 2])]
    return [layer for layer in halfway if layer not in swept]


def plateau(scores: Sequence[LayerScore]) -> list[int]:
    """Blocks whose score is within a standard error of the best, that of a share of one half among the paraphrases that were asked."""
    best = max(scores, key=lambda found: found.score)
    tolerance = max(TOLERANCE, 0.5 / best.paraphrases**0.5)
    return sorted(found.layer for found in scores if found.score >= best.score - tolerance)


def usual_layer(scores: Sequence[LayerScore], n_layers: int) -> int:
    """The block of the plateau that is nearest to the depth at which released settings have it."""
    usual = USUAL_DEPTH * n_layers
    return min(plateau(scores), key=lambda layer: (abs(layer - usual), layer))


def layers_below(layer: int, n_layers: int) -> tuple[int, ...]:
    """The edited layers of a target at a block: it and the blocks below it, at most five and at most half of all."""
    count = max(1, min(5, n_layers // 2, layer + 1))
    return tuple(range(layer - count + 1, layer + 1))

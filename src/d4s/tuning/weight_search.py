"""The weight λ of what is preserved: where it starts, from the keys of the requests, and what a sequence of edits does with it.

The change that a single edit makes at a layer moves its own key's output by the share g = x / (1 + x) of the residual, with
x = kᵀ(λC)⁻¹k. So λ = kᵀC⁻¹k · (1 − g) / g reaches a share g; in a null space kᵀU₀U₀ᵀk takes the place of kᵀC⁻¹k.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from d4s.editors.edit_requests import EditRequest
from d4s.editors.families import build
from d4s.editors.keys import read_activations
from d4s.editors.least_squares_settings import LocateThenEdit
from d4s.editors.moments import SecondMoment
from d4s.editors.parts.key_rule import KeySettings
from d4s.editors.prompts import build_prompts
from d4s.editors.protocol import Diverged, Prepared, Targets, run_step
from d4s.errors import D4SError
from d4s.facts.record import Fact
from d4s.metrics.scoring import FactEvaluation
from d4s.models.language_model import LanguageModel
from d4s.models.views import LiveModel

METRICS = {"efficacy": "efficacy_accuracy", "paraphrase": "paraphrase_accuracy", "locality": "locality_accuracy"}
RIDGE = 1e-6  # of the mean eigenvalue of C, for moments of few tokens


@dataclass(frozen=True, slots=True)
class SequenceMaterial:
    """Requests of a sequence with the questions that measure it, the same for every trial."""

    requests: Sequence[EditRequest]
    evaluation: FactEvaluation

    @classmethod
    def of(cls, model: LanguageModel, drawn: Sequence[tuple[EditRequest, Fact]], probes_per_fact: int) -> "SequenceMaterial":
        """The material of requests and their facts, with what the unedited model answers."""
        facts = [fact for _, fact in drawn]
        evaluation = FactEvaluation.of(LiveModel(model), facts, probes_per_fact=probes_per_fact, max_new_tokens=0)
        return cls([request for request, _ in drawn], evaluation)


def key_leverage(
    model: LanguageModel, requests: Sequence[EditRequest], prefixes: Sequence[str], moments: Mapping[int, SecondMoment]
) -> dict[int, float]:
    """Median over requests of kᵀC⁻¹k at each layer; over all tokens of the text of C its mean is the number of entries of a key."""
    prompt_sets = [build_prompts(model, request, prefixes) for request in requests]
    keys_by_layer = read_activations(model, prompt_sets, sorted(moments), KeySettings()).keys
    found: dict[int, float] = {}
    for layer, keys in keys_by_layer.items():
        second_moment = moments[layer].mean()
        rows = keys.to(second_moment)
        eye = torch.eye(len(second_moment), dtype=second_moment.dtype, device=second_moment.device)
        factor = torch.linalg.cholesky(second_moment + RIDGE * second_moment.diagonal().mean() * eye)
        found[layer] = float(torch.linalg.solve_triangular(factor, rows.mT, upper=False).square().sum(0).median())
    return found


def free_leverage(
    model: LanguageModel, requests: Sequence[EditRequest], prefixes: Sequence[str], bases: Mapping[int, torch.Tensor]
) -> float:
    """Median over requests and layers of kᵀU₀U₀ᵀk, the part of a key within directions that text hardly uses."""
    prompt_sets = [build_prompts(model, request, prefixes) for request in requests]
    keys_by_layer = read_activations(model, prompt_sets, sorted(bases), KeySettings()).keys
    parts = [(keys.to(bases[layer]) @ bases[layer]).square().sum(1) for layer, keys in keys_by_layer.items()]
    return float(torch.cat(parts).median())


def weight_for(leverage: float, share: float) -> float:
    """The weight with which a single edit of a key of this leverage moves its output by a share of the residual."""
    return float(f"{leverage * (1 - share) / share:.2g}")


def run_trial(
    model: LanguageModel, prepared: Prepared, settings: LocateThenEdit, material: SequenceMaterial, targets: Targets
) -> dict[str, float]:
    """Efficacy, paraphrase and locality after all requests were edited one after another; zeros where a step diverges.

    Targets are those at the original weights, for every editor: they are optimised once.

    Raises:
        D4SError: if the editor has no edited model before its sequence ends.
    """
    editor = build(settings)
    with editor.editing(model, prepared, editor.start(model, prepared)) as session:
        for number, request in enumerate(material.requests):
            try:
                run_step(session, [request], targets[number : number + 1])
            except Diverged:
                return dict.fromkeys(METRICS, 0.0)
        view = session.live()
        if view is None:
            raise D4SError(f"trials need an editor whose weights change with every step, found delta_transform {settings.delta_transform}")
        means = material.evaluation.means(view, [*material.evaluation.questions], [*METRICS.values()]).values()
    return {name: _mean([one[metric] for one in means if metric in one]) for name, metric in METRICS.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0

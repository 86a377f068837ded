"""What a model must fulfil to show anything about editing, measured so that no editor is favoured.

Target hidden states must work when they are put in by hand; keys of different requests must not be mixes of each other;
and every editor must succeed with a single edit.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.artifacts import Artifact
from d4s.editors.contexts import read_contexts
from d4s.editors.edit_requests import EditRequest
from d4s.editors.editor_settings import FamilySettings
from d4s.editors.families import build
from d4s.editors.first_edit import first_edit_settings
from d4s.editors.keys import read_activations
from d4s.editors.moments import read_moments
from d4s.editors.parts.key_rule import KeySettings
from d4s.editors.parts.target_rule import TargetSettings
from d4s.editors.preparation import PoolSource
from d4s.editors.prompts import Prompt, PromptSet, build_prompts
from d4s.editors.protocol import Diverged, Prepared, Targets, run_step
from d4s.editors.target_optimisation import build_target_loss, optimise_requests, read_targets
from d4s.facts.record import Fact, from_frame
from d4s.log import progress
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode_pair, subject_last_index
from d4s.runs.prepared_parts import assemble_prepared
from d4s.runs.run_settings import WorldReportSettings
from d4s.schemas import FACTS

log = logging.getLogger(__name__)
BASE, EFFICACY, PARAPHRASE, SPECTRUM, SINGLE = 0.95, 0.9, 0.8, 1e-4, 0.95
Drawn = Sequence[tuple[EditRequest, Fact]]


@dataclass(frozen=True, slots=True)
class Criterion:
    """One number that must not be below its threshold; `subject` is what it is about."""

    criterion: str
    subject: str
    value: float
    threshold: float
    n: int

    @property
    def passed(self) -> bool:
        """Whether it holds; a value that is not a number does not."""
        return self.value >= self.threshold


class CriteriaRun:
    """A model with the requests of a report and what editors need, read from inputs or computed for those requests."""

    def __init__(self, model: LanguageModel, drawn: Drawn, settings: WorldReportSettings, inputs: Mapping[str, Path]) -> None:
        self.model, self.drawn, self.settings, self.inputs = model, drawn, settings, inputs
        self.contexts = read_contexts(inputs["contexts"])
        shared = [target for target in (editor.shared_targets() for editor in settings.editors.values()) if target is not None]
        self.targets: dict[TargetSettings, Targets] = {target: self._targets_of(target) for target in dict.fromkeys(shared)}
        self._first_edit_targets = dict(self.targets)

    def criteria(self) -> Iterator[Criterion]:
        """Injection for every kind of target, keys of every edited layer, a single edit by every editor."""
        few, single = self.drawn[: self.settings.requests], self.drawn[: self.settings.single_edits]
        for target, targets in self.targets.items():
            own, others = injection_success(self.model, few, targets, target)
            where = f"{target.hook} of block {target.layer}, clamp {target.clamp:g}"
            yield Criterion("injected_efficacy", where, float(own.mean()), EFFICACY, len(own))
            if len(others):
                yield Criterion("injected_paraphrase", where, float(others.mean()), PARAPHRASE, len(others))
        texts = [build_prompts(self.model, request, self.contexts) for request, _ in few]
        for layer in sorted({layer for editor in self.settings.editors.values() if editor.required_inputs for layer in editor.layers}):
            yield Criterion("key_spectrum", f"layer {layer}", float(key_spectrum(self.model, texts, layer)[0]), SPECTRUM, len(few))
        for name, editor in progress(self.settings.editors.items(), "single edits", len(self.settings.editors)):
            if editor.family != "unedited":
                yield Criterion("single_edit", name, self._single_edits(editor, single), SINGLE, len(single))

    def _single_edits(self, settings: FamilySettings, drawn: Drawn) -> float:
        """Share of requests of which an editor, from the unedited model each time, makes the model say the whole target."""
        settings = first_edit_settings(settings)
        editor, prepared, targets_of = build(settings), self._prepared(settings), self._first_targets(settings)
        right = 0
        for number, (request, _) in enumerate(drawn):
            targets = None if targets_of is None else targets_of[number : number + 1]
            try:
                with editor.editing(self.model, prepared, editor.start(self.model, prepared)) as session:
                    run_step(session, [request], targets)
                    state = session.state()
            except Diverged as reason:
                log.warning("the single edit %s diverged: %s", request.request_id, reason)
                continue
            with editor.edited(self.model, prepared, state) as view:
                right += int(view.score([request.prompt], [request.target]).exact().sum())
        return right / len(drawn)

    def _first_targets(self, settings: FamilySettings) -> Targets | None:
        """Targets at the unedited weights of all requests, computed once for all editors that share their settings."""
        shared = settings.shared_targets()
        if shared is not None and shared not in self._first_edit_targets:
            self._first_edit_targets[shared] = self._targets_of(shared)
        return None if shared is None else self._first_edit_targets[shared]

    def _prepared(self, editor: FamilySettings) -> Prepared:
        moments = read_moments(self.inputs["moments"], editor.moment_layers) if editor.moment_layers else {}
        requests, source = [request for request, _ in self.drawn], None
        if "pool" in self.inputs:
            source = PoolSource(*(_facts(self.inputs[role]) for role in ("pool", "facts")))
        parts = assemble_prepared(editor, self.contexts, moments, self.model, requests, source=source)
        return replace(parts, solvers={})

    def _targets_of(self, settings: TargetSettings) -> Targets:
        requests, folder = [request for request, _ in self.drawn], self.inputs.get("targets")
        wanted = {"target": settings.model_dump(mode="json"), "seed": self.settings.seed}
        if folder is not None and Artifact.open(folder, "targets", "b0.json").manifest.settings == wanted:
            return read_targets(folder, requests)
        log.info("targets of %d requests at block %d", len(requests), settings.layer)
        return optimise_requests(self.model, requests, self.contexts, settings)


def _facts(folder: Path) -> list[Fact]:
    return from_frame(Artifact.open(folder, "facts").table("facts.parquet", FACTS))


@torch.no_grad()
def injection_success(
    model: LanguageModel, drawn: Drawn, targets: Targets, settings: TargetSettings
) -> tuple[Float[Tensor, " n"], Float[Tensor, " p"]]:
    """Whether requests' own prompts, and their paraphrases, get the whole new target (1) or not (0) with its shift put in by hand.

    Weights stay as they are. Paraphrases that do not hold the subject are left out.
    """
    own = [(number, build_prompts(model, request, ()).prompts[0]) for number, (request, _) in enumerate(drawn)]
    others = [
        (number, _prompt(model, prompt, request))
        for number, (request, fact) in enumerate(drawn)
        for prompt in fact.paraphrases
        if request.subject in prompt
    ]
    prompts = [prompt for _, prompt in (*own, *others)]
    target_loss, _ = build_target_loss(model, [PromptSet((prompt,), replace(prompt, target=())) for prompt in prompts], settings)
    numbers = torch.tensor([number for number, _ in (*own, *others)], device=model.device)
    shift = targets.hidden_shift.to(model.device)[numbers][:, None]
    count = len(target_loss.token)
    predicted = model.unembed(model.final_norm(target_loss.later_blocks.run(shift, target_loss.output_positions)[:count])).argmax(-1)
    wrong = torch.zeros(len(prompts), device=model.device).index_add(0, target_loss.row[:count], (predicted != target_loss.token).float())
    right = (wrong == 0).float()
    return right[: len(own)], right[len(own) :]


def _prompt(model: LanguageModel, prompt: str, request: EditRequest) -> Prompt:
    ids, target = encode_pair(model, prompt, request.target)
    head, _, tail = prompt.rpartition(request.subject)
    return Prompt(tuple(ids), subject_last_index(model, prompt, request.subject, f"{head}{{}}{tail}"), tuple(target))


def key_spectrum(model: LanguageModel, texts: Sequence[PromptSet], layer: int) -> Float[Tensor, " n"]:
    """Eigenvalues of the Gram matrix of the requests' averaged keys at a layer, ascending, relative to their mean."""
    keys = read_activations(model, texts, (layer,), KeySettings()).keys[layer].double()
    values = torch.linalg.eigvalsh(keys @ keys.mT)
    return values / values.mean()

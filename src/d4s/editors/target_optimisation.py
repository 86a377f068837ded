"""Target hidden states: per request, the shift at the last subject token that makes the model say the new target.

For a request with p prompts and a shift δ of the hooked vector h (of the unprefixed prompt), minimised by Adam from δ = 0:

    mean over prompts and target tokens of −log P(token) + kl · KL(P_δ ‖ P_0 at the KL prompt) + decay · ‖δ‖ / ‖h‖²

with ‖δ‖ clamped to a multiple of ‖h‖ after every update. PMET shifts the MLP's and the attention's share of the block's
output at once, each with its own clamp and decay, and keeps the MLP's. With a norm after the MLP, the weight writes u and the
block adds norm(u): then u is shifted, by δ · ‖u‖ / ‖norm(u)‖, and h in the loss and in the clamp is norm(u).

Requests are independent: many are optimised in one batch, each stopping on its own. At the original weights the `targets` stage
does this in blocks of requests, before any edit. Where shifts are aligned with each other (EAMET), a batch is optimised one request after
another, on the model as it is before the batch is written.

Terms and symbols: docs/notation.md.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from d4s.artifacts import Artifact, StageJob, write_tensors
from d4s.editors.constants import ACTIVATIONS_PER_PASS
from d4s.editors.contexts import read_contexts
from d4s.editors.edit_requests import REQUESTS_PER_BLOCK, EditRequest, draw_requests
from d4s.editors.held_shifts import HeldShifts, holding
from d4s.editors.keys import read_activations
from d4s.editors.parts.input_settings import TargetsJobSettings
from d4s.editors.parts.key_rule import KeySettings
from d4s.editors.parts.target_rule import AnchorSettings, TargetSettings
from d4s.editors.prompts import PromptSet, pad_ids, prompts_to_edit
from d4s.editors.protocol import Targets
from d4s.editors.target_terms import Alignment, compared_blocks, inconsistency
from d4s.errors import ArtifactError
from d4s.facts.record import from_frame
from d4s.log import progress
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.models.restart import Restart, restart, restart_sublayers
from d4s.models.trace import trace
from d4s.schemas import FACTS

log = logging.getLogger(__name__)
MAX_PADDING_RATIO = 1.25  # of the first request of a pass by a later one: each is filled up to the last
MIN_ACTIVE_SHARE = 0.85  # share of a pass's requests that still move, below which the others are left out
BETAS, EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True, slots=True)
class ShiftEvaluation:
    """Each request at its shift.

    The loss, the mean probability of its target, that of its least likely token, the divergence at the KL prompt, and
    whether every target token is the most likely one after every prompt (False where no setting asks).
    """

    loss: Float[Tensor, " b"]
    probability: Float[Tensor, " b"]
    lowest_probability: Float[Tensor, " b"]
    divergence: Float[Tensor, " b"]
    is_top1: Bool[Tensor, " b"]


@dataclass(frozen=True, slots=True)
class TargetLoss:
    """A batch of requests laid out for the loss: a row per request, its prompts one after another, then its KL prompt.

    Target tokens are listed flat: the prompt that each follows (counted over all requests), its id, and its weight in the
    prompt's mean. `row` is the request of each, and after them each request, for its KL prompt; `position` where in the row
    that is predicted or looked up. `before` are the log-probabilities at the KL prompts without a shift. `unit` scales a shift
    for where it is added: 1, or ‖u‖ / ‖norm(u)‖ where that is before a norm. `alignment` is with earlier requests, of a batch of one.
    """

    settings: TargetSettings
    later_blocks: Restart
    hidden_norm: Float[Tensor, "b parts"]
    unit: Float[Tensor, "b parts 1"]
    prompt_index: Int[Tensor, " t"]
    token: Int[Tensor, " t"]
    weight: Float[Tensor, " t"]
    row: Int[Tensor, " t+b"]
    position: Int[Tensor, " t+b"]
    before: Float[Tensor, "b vocab"] | None = None
    alignment: Alignment | None = None

    @property
    def output_positions(self) -> Int[Tensor, " k"]:
        """Where target tokens are predicted and KL prompts looked up, counted through the rows."""
        return self.row * self.later_blocks.hidden.shape[1] + self.position

    def evaluate(self, shift: Float[Tensor, "b parts d"]) -> tuple[ShiftEvaluation, Float[Tensor, "b vocab"]]:
        """Loss and probabilities at a shift per request, and the log-probabilities at the KL prompts."""
        count, predicted, model = len(shift), len(self.token), self.later_blocks.model
        hidden, inconsistent = self._run(shift)
        log_probs = model.unembed(model.final_norm(hidden)).to(shift).log_softmax(-1)
        token, present = log_probs[:predicted].gather(1, self.token[:, None])[:, 0], log_probs[predicted:]
        before = present.detach() if self.before is None else self.before
        divergence = (present.exp() * (present - before)).sum(-1)
        prompt_log_probs = shift.new_zeros(count * (self.later_blocks.starts.shape[1] - 1)).index_add(
            0, self.prompt_index, token * self.weight
        )
        loss = -prompt_log_probs.view(count, -1).mean(1)
        top1 = self._is_top1(log_probs[:predicted].detach(), count)
        if self.settings.top1_weight != 1:
            loss = torch.where(top1, self.settings.top1_weight * loss, loss)
        decay = (torch.linalg.vector_norm(shift, dim=2) / self.hidden_norm**2).sum(1)
        loss = loss + self.settings.kl_weight * divergence + self.settings.weight_decay * decay
        if self.settings.consistency is not None and inconsistent is not None:
            loss = loss + self.settings.consistency.weight * inconsistent
        if self.alignment is not None:
            loss = loss + self.alignment.loss(shift[:, 0])
        probability = prompt_log_probs.detach().exp().view(count, -1).mean(1)
        return ShiftEvaluation(loss, probability, self._lowest(token.detach(), count), divergence.detach(), top1), before

    def _run(self, shift: Float[Tensor, "b parts d"]) -> tuple[Float[Tensor, "k d"], Float[Tensor, " b"] | None]:
        """The last block's output where it is read, and how unlike hidden states above the target are behind different prefixes."""
        later, model = self.later_blocks, self.later_blocks.model
        blocks = compared_blocks(model, self.settings.layer, self.settings.consistency)
        if not blocks:
            return later.run(shift * self.unit, self.output_positions), None
        rows = torch.arange(len(shift), device=later.starts.device)[:, None] * later.hidden.shape[1]
        subjects = (rows + later.starts[:, :-1]).flatten()
        with trace({block: model.block(block) for block in blocks}) as found:
            hidden = later.run(shift * self.unit, torch.cat([self.output_positions, subjects]))
        compared = [found.outputs[block].flatten(0, 1)[subjects.to(found.outputs[block].device)] for block in blocks]
        return hidden[: -len(subjects)], inconsistency([one.to(shift).unflatten(0, (len(shift), -1)) for one in compared])

    def _lowest(self, log_probs: Float[Tensor, " t"], count: int) -> Float[Tensor, " b"]:
        return log_probs.new_zeros(count).scatter_reduce(0, self.row[: len(log_probs)], log_probs, "amin", include_self=False).exp()

    def _is_top1(self, log_probs: Float[Tensor, "t vocab"], count: int) -> Bool[Tensor, " b"]:
        """Whether every target token is the most likely one; all False where no setting asks."""
        found = torch.zeros(count, dtype=torch.bool, device=log_probs.device)
        if self.settings.stop_top1 is None and self.settings.top1_divergence is None and self.settings.top1_weight == 1:
            return found
        right = (log_probs.argmax(-1) == self.token).to(log_probs.dtype)
        return log_probs.new_ones(count).scatter_reduce(0, self.row[: len(right)], right, "amin").bool()

    def select(self, keep: Bool[Tensor, " b"]) -> "TargetLoss":
        """The same for some of the requests."""
        kept = keep[self.row]
        tokens, per_request = kept[: len(self.token)], self.later_blocks.starts.shape[1] - 1
        number = keep.cumsum(0) - 1
        of_token = self.prompt_index[tokens]
        return replace(
            self,
            later_blocks=self.later_blocks.select(keep.nonzero()[:, 0]),
            hidden_norm=self.hidden_norm[keep],
            unit=self.unit[keep],
            prompt_index=number[of_token // per_request] * per_request + of_token % per_request,
            token=self.token[tokens],
            weight=self.weight[tokens],
            row=number[self.row[kept]],
            position=self.position[kept],
            before=None if self.before is None else self.before[keep],
        )


@dataclass(frozen=True, slots=True)
class InitialHidden:
    """Where a batch starts from, at the unprefixed prompts: the hooked vectors, and the MLP's output before any norm."""

    hidden: Float[Tensor, "b parts d"]
    mlp_output: Float[Tensor, "b d"]


def build_target_loss(
    model: LanguageModel, batch: Sequence[PromptSet], settings: TargetSettings, held: Sequence[HeldShifts] = ()
) -> tuple[TargetLoss, InitialHidden]:
    """A batch laid out for the loss, and where it starts from; runs the model once, with the shifts that each request holds in place."""
    texts = [text for one in batch for text in (*one.prompts, one.kl_prompt)]
    each = len(texts) // len(batch)
    ids = [text.through_subject if number % each == each - 1 else text.teacher_forced for number, text in enumerate(texts)]
    precision = torch.promote_types(model.dtype, torch.float32)
    subject_lasts, lengths = torch.tensor([[text.subject_last for text in texts], [len(text) for text in ids]], device=model.device)
    is_before_norm = model.post_norm(settings.layer) is not None
    open_restart = restart_sublayers if settings.hook == "mlp_and_attention" or is_before_norm else restart
    with holding(model, settings.layer, [one for shifts in held for one in (shifts, *[()] * (each - 1))]):
        later_blocks, seen = open_restart(model, pad_ids(ids, model.device), subject_lasts, lengths, settings.layer, texts_per_row=each)
    device = seen.block.device
    share = model.block_output_change(settings.layer, torch.zeros_like(seen.mlp), seen.mlp)
    parts = {"block_output": [seen.block], "mlp_output": [share], "mlp_and_attention": [share, seen.attention]}[settings.hook]
    hidden = torch.stack([part[::each].to(precision) for part in parts], 1)
    mlp_output = seen.mlp[::each].to(precision)
    hidden_norm, unit = hidden.norm(dim=2), torch.ones_like(hidden[..., :1])
    if is_before_norm:
        hidden_norm[:, 0] = share[::each].to(precision).norm(dim=1)
        unit[:, 0, 0] = mlp_output.norm(dim=1) / hidden_norm[:, 0]
    starts = later_blocks.starts.tolist()
    flat = [
        (
            row * (each - 1) + number,
            token,
            1.0 / len(text.target),
            row,
            starts[row][number] + len(text.ids) - 1 - text.subject_last + offset,
        )
        for row, one in enumerate(batch)
        for number, text in enumerate(one.prompts)
        for offset, token in enumerate(text.target)
    ]
    kl_prompt = [(row, places[-1]) for row, places in enumerate(starts)]
    row, position = torch.tensor([*(entry[3:] for entry in flat), *kl_prompt], device=device).unbind(1)
    prompt_index, token = torch.tensor([entry[:2] for entry in flat], device=device).unbind(1)
    weight = torch.tensor([entry[2] for entry in flat], dtype=precision, device=device)
    target_loss = TargetLoss(settings, later_blocks, hidden_norm, unit, prompt_index, token, weight, row, position)
    return target_loss, InitialHidden(hidden, mlp_output)


class Shifts:
    """Shifts of a batch under Adam, each moving until it is stopped and clamped to a multiple of the norm of what it shifts."""

    def __init__(self, start: Float[Tensor, "b parts d"], norm: Float[Tensor, "b parts"], settings: TargetSettings) -> None:
        self.value = start
        self._mean, self._square = torch.zeros_like(start), torch.zeros_like(start)
        self._limit = settings.clamp * norm[..., None]
        self._lr = settings.lr

    def update(self, which: Int[Tensor, " k"], gradient: Float[Tensor, "k parts d"], step: int) -> None:
        """Move some of the shifts; `step` counts from 1 and is the same for all that still move."""
        mean = self._mean[which].mul_(BETAS[0]).add_(gradient, alpha=1 - BETAS[0])
        square = self._square[which].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        self._mean[which], self._square[which] = mean, square
        root = (square.sqrt() / (1 - BETAS[1] ** step) ** 0.5).add_(EPSILON)
        updated = self.value[which] - self._lr / (1 - BETAS[0] ** step) * mean / root
        norm, limit = updated.norm(dim=2, keepdim=True), self._limit[which]
        self.value[which] = torch.where(norm > limit, updated * (limit / norm), updated)


def optimise(
    model: LanguageModel, batch: Sequence[PromptSet], settings: TargetSettings, held: Sequence[HeldShifts] | None = None
) -> Targets:
    """Targets of a batch of requests on the model as it is now, in as many passes as its activations ask for.

    Requests of similar length share a pass, so that little of it is filler. `held` are, per request, earlier shifts in its unprefixed text.
    """
    held = [()] * len(batch) if held is None else held
    suffix_lengths = [sum(len(prompt.teacher_forced) - prompt.subject_last for prompt in one.prompts) + 1 for one in batch]
    order = sorted(range(len(batch)), key=suffix_lengths.__getitem__)
    parts = [
        _optimise(model, [batch[number] for number in some], settings, held=[held[number] for number in some])
        for some in _passes(model, batch, order, suffix_lengths)
    ]
    if len(batch) == 1:
        return parts[0]
    return Targets.concatenate(parts)[torch.tensor(order).argsort()]


def optimise_in_turn(model: LanguageModel, batch: Sequence[PromptSet], settings: TargetSettings, key_rule: KeySettings) -> Targets:
    """Targets of a batch one after another, each aligned with those before it as their keys at the target's layer are (EAMET).

    Raises:
        ValueError: if the settings align nothing.
    """
    if settings.align is None:
        raise ValueError("targets are optimised in turn where they are aligned; give the settings `align`, or optimise them at once")
    keys = read_activations(model, batch, (settings.layer,), key_rule).keys[settings.layer]
    keys = keys.to(torch.promote_types(keys.dtype, torch.float32))
    found: list[Targets] = []
    shifts: list[Float[Tensor, "1 d"]] = []
    for one in batch:
        found.append(_optimise(model, [one], settings, Alignment.of(settings.align, keys, shifts)))
        shifts.append(found[-1].hidden_shift)
    return Targets.concatenate(found)


def optimise_requests(model: LanguageModel, requests: Sequence[EditRequest], prefixes: Sequence[str], settings: TargetSettings) -> Targets:
    """Targets of requests, at their unprefixed prompts and, where settings say so, behind prefixes, on the model as it is now."""
    return optimise(model, [one for request in requests for one in prompts_to_edit(model, request, prefixes, settings)], settings)


def _passes(model: LanguageModel, batch: Sequence[PromptSet], order: Sequence[int], suffix_lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of requests, in an order of rising length, that are optimised together."""
    longest = max(len(prompt.teacher_forced) for one in batch for prompt in one.prompts)
    activations = (len(batch[0].prompts) + 1) * longest * model.d_out(0) * model.n_layers
    size = max(1, int(ACTIVATIONS_PER_PASS / activations))
    some: list[int] = []
    for number in order:
        if some and (len(some) == size or suffix_lengths[number] > MAX_PADDING_RATIO * suffix_lengths[some[0]]):
            yield some
            some = []
        some.append(number)
    yield some


def _optimise(
    model: LanguageModel,
    batch: Sequence[PromptSet],
    settings: TargetSettings,
    alignment: Alignment | None = None,
    held: Sequence[HeldShifts] = (),
) -> Targets:
    target_loss, start = build_target_loss(model, batch, settings, held)
    first, norm, unit = torch.zeros_like(start.hidden), target_loss.hidden_norm, target_loss.unit
    batch_indices = torch.arange(len(batch), device=start.hidden.device)
    active = torch.ones(len(batch), dtype=torch.bool, device=batch_indices.device)
    steps_at_top1 = torch.zeros(len(batch), dtype=torch.long, device=batch_indices.device)
    probability_before, probability_after, steps = (start.hidden.new_zeros(len(batch)) for _ in range(3))
    if alignment is not None:
        with torch.no_grad():  # what was before is what was without a shift, wherever the shift begins
            unshifted, kl_log_probs = target_loss.evaluate(first)
        target_loss, probability_before = replace(target_loss, before=kl_log_probs, alignment=alignment), unshifted.probability
        first, norm = alignment.start(start.hidden), alignment.limit_norm(norm)
    shifts = Shifts(first, norm, settings)
    for step in range(1, settings.steps + 1):
        if int(active[batch_indices].sum()) <= MIN_ACTIVE_SHARE * len(batch_indices):
            target_loss, batch_indices = target_loss.select(active[batch_indices]), batch_indices[active[batch_indices]]
        shift = shifts.value[batch_indices].requires_grad_()
        found, kl_log_probs = target_loss.evaluate(shift)
        if target_loss.before is None:
            target_loss, probability_before = replace(target_loss, before=kl_log_probs), found.probability
        still = active[batch_indices]
        probability_after[batch_indices[still]] = found.probability[still]
        steps_at_top1[batch_indices] = torch.where(found.is_top1 | (steps_at_top1[batch_indices] > 0), steps_at_top1[batch_indices] + 1, 0)
        active[batch_indices[_is_done(found, steps_at_top1[batch_indices], settings)]] = False
        if step == settings.steps or not active.any():
            break
        (gradient,) = torch.autograd.grad(found.loss.sum(), shift)
        still = active[batch_indices]
        shifts.update(batch_indices[still], gradient[still], step)
        steps[batch_indices[still]] += 1
    return Targets((shifts.value * unit)[:, 0], start.hidden[:, 0], start.mlp_output, probability_before, probability_after, steps)


def _is_done(found: ShiftEvaluation, steps_at_top1: Int[Tensor, " k"], settings: TargetSettings) -> Bool[Tensor, " k"]:
    """Which requests stop here; `steps_at_top1` counts evaluations since their target was first the most likely one."""
    done = found.loss.detach() < settings.stop_loss
    if settings.stop_probability is not None:
        done |= found.lowest_probability >= settings.stop_probability
    if settings.stop_top1 is not None:
        done |= steps_at_top1 > settings.stop_top1
    if settings.top1_divergence is not None:
        done |= found.is_top1 & (found.divergence <= settings.top1_divergence)
    return done


def rescale_targets(targets: Targets, norm: float, skip: float) -> Targets:
    """Targets at which the MLP puts out vectors of a norm; unshifted where the norm found is more than `skip` times that (NAS)."""
    mlp_target = targets.mlp_output + targets.hidden_shift
    found = mlp_target.norm(dim=1, keepdim=True)
    shift = torch.where(found > skip * norm, 0.0, mlp_target * (norm / found) - targets.mlp_output)
    return replace(targets, hidden_shift=shift)


def anchor_norm(model: LanguageModel, requests: Sequence[EditRequest], target: TargetSettings, settings: AnchorSettings) -> float:
    """The usual norm of what the MLP at the target's layer puts out for solved requests, at unprefixed prompts of the unedited model."""
    targets = optimise_requests(model, requests[: settings.requests], (), target)
    norms = (targets.mlp_output + targets.hidden_shift).norm(dim=1).double().sort().values
    return float(norms[: max(1, math.floor((1 - settings.drop) * len(norms)))].mean())


# --- the stage --------------------------------------------------------------------------------------------------------


def targets(job: StageJob[TargetsJobSettings]) -> None:
    """Write bBLOCK.safetensors for every manifest bBLOCK.json asked for that is not there yet, whole blocks at a time.

    A block depends on its own requests alone, so any number of jobs may share the blocks of a folder, at the same time too.
    """
    blocks = sorted(int(Path(name).stem.removeprefix("b")) for name in job.missing_parts())
    if not blocks:
        return
    facts = from_frame(job.artifact("facts", "facts").table("facts.parquet", FACTS))
    requests = [request for request, _ in draw_requests(facts, job.settings.seed)]
    model, contexts = job.read_once("model", load), read_contexts(job.inputs["contexts"])
    log.info("targets of blocks %s, of %d requests each; %d others are there", blocks, REQUESTS_PER_BLOCK, len(job.outputs) - len(blocks))
    for done, block in enumerate(progress(blocks, "targets", len(blocks)), start=1):
        batch = requests[block * REQUESTS_PER_BLOCK : (block + 1) * REQUESTS_PER_BLOCK]
        found = optimise_requests(model, batch, contexts, job.settings.target)
        write_tensors(job.path(f"b{block}.safetensors"), found.to_tensors())
        job.write_manifest([f"b{block}.safetensors"], f"b{block}.json", requests=[request.request_id for request in batch])
        log.info("block %d is there, %d of %d", block, done, len(blocks))


def read_targets(folder: Path, requests: Sequence[EditRequest]) -> Targets:
    """Targets of the first requests of a sequence, from the blocks that hold them, checked.

    Raises:
        ArtifactError: if a block is missing, was computed for other requests, or unlike the others.
    """
    parts: list[Targets] = []
    blocks = range(-(-len(requests) // REQUESTS_PER_BLOCK))
    for block, artifact in zip(blocks, Artifact.open_parts(folder, "targets", [f"b{block}.json" for block in blocks]), strict=True):
        wanted = [request.request_id for request in requests[block * REQUESTS_PER_BLOCK : (block + 1) * REQUESTS_PER_BLOCK]]
        if artifact.manifest.notes["requests"][: len(wanted)] != wanted:
            raise ArtifactError(f"{folder} holds targets of other requests in block {block}; delete it and run the rule that makes targets")
        parts.append(Targets(**artifact.tensors(f"b{block}.safetensors"))[: len(wanted)])
    return Targets.concatenate(parts)

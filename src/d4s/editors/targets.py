"""Target hidden states: per request, the shift at the lookup token that makes the model say the new target.

For a request with p wordings and a shift δ of the hooked vector h (of the bare prompt), minimised by Adam from δ = 0:

    mean over wordings and target tokens of −log P(token) + kl · KL(P_δ ‖ P_0 at the essence prompt) + decay · ‖δ‖ / ‖h‖²

with ‖δ‖ clamped to a multiple of ‖h‖ after every update. PMET shifts the MLP's and the attention's share of the block's
output at once, each with its own clamp and decay, and keeps the MLP's. Requests are independent: many are optimised in one batch, each
stopping on its own. At the original weights the `targets` stage does this in blocks of requests, before any edit.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from d4s.artifacts import Artifact, Job, write_tensors
from d4s.editors.contexts import read_contexts
from d4s.editors.parts import AnchorSettings, TargetSettings, TargetsJobSettings
from d4s.editors.prompts import Rewriting, padded, rewriting
from d4s.editors.protocol import Targets
from d4s.errors import ArtifactError
from d4s.facts.record import from_frame
from d4s.log import progress
from d4s.models.language_model import LanguageModel
from d4s.models.loading import load
from d4s.models.restart import Restart, restart, restart_within
from d4s.requests.draw import REQUESTS_PER_BLOCK, EditRequest, draw
from d4s.schemas import FACTS

log = logging.getLogger(__name__)
ACTIVATIONS_PER_PASS = 2**28
WIDENING = 1.25  # of the first request of a pass by a later one: each is filled up to the last
CROWDED = 0.85  # share of a pass's requests that still move, below which the others are left out
BETAS, EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Each request at its shift.

    The loss, the mean probability of its target, that of its least likely token, the divergence at the essence prompt, and
    whether every target token is the most likely one after every wording (False where no setting asks).
    """

    loss: Float[Tensor, " b"]
    probability: Float[Tensor, " b"]
    lowest: Float[Tensor, " b"]
    divergence: Float[Tensor, " b"]
    is_settled: Bool[Tensor, " b"]


@dataclass(frozen=True, slots=True)
class Problem:
    """A batch of requests laid out for the loss: a row per request, its wordings one after another, then its essence prompt.

    Target tokens are listed flat: the wording that each follows (counted over all requests), its id, and its weight in the
    wording's mean. `row` is the request of each, and after them each request, for its essence prompt; `place` where in the row
    that is predicted or looked up. `before` are the log-probabilities at the essence prompts without a shift.
    """

    settings: TargetSettings
    again: Restart
    hidden_norm: Float[Tensor, "b parts"]
    wording: Int[Tensor, " t"]
    token: Int[Tensor, " t"]
    weight: Float[Tensor, " t"]
    row: Int[Tensor, " t+b"]
    place: Int[Tensor, " t+b"]
    before: Float[Tensor, "b vocab"] | None = None

    @property
    def read(self) -> Int[Tensor, " k"]:
        """Where target tokens are predicted and essence prompts looked up, counted through the rows."""
        return self.row * self.again.hidden.shape[1] + self.place

    def evaluate(self, shift: Float[Tensor, "b parts d"]) -> tuple[Evaluation, Float[Tensor, "b vocab"]]:
        """Loss and probabilities at a shift per request, and the log-probabilities at the essence prompts."""
        count, predicted, model = len(shift), len(self.token), self.again.model
        likely = model.unembed(model.final_norm(self.again.run(shift, self.read))).to(shift).log_softmax(-1)
        token, present = likely[:predicted].gather(1, self.token[:, None])[:, 0], likely[predicted:]
        before = present.detach() if self.before is None else self.before
        divergence = (present.exp() * (present - before)).sum(-1)
        wordings = shift.new_zeros(count * (self.again.starts.shape[1] - 1)).index_add(0, self.wording, token * self.weight)
        loss = -wordings.view(count, -1).mean(1)
        settled = self._settled(likely[:predicted].detach(), count)
        if self.settings.settled_weight != 1:
            loss = torch.where(settled, self.settings.settled_weight * loss, loss)
        decay = (torch.linalg.vector_norm(shift, dim=2) / self.hidden_norm**2).sum(1)
        loss = loss + self.settings.kl_weight * divergence + self.settings.weight_decay * decay
        probability = wordings.detach().exp().view(count, -1).mean(1)
        return Evaluation(loss, probability, self._lowest(token.detach(), count), divergence.detach(), settled), before

    def _lowest(self, likely: Float[Tensor, " t"], count: int) -> Float[Tensor, " b"]:
        return likely.new_zeros(count).scatter_reduce(0, self.row[: len(likely)], likely, "amin", include_self=False).exp()

    def _settled(self, likely: Float[Tensor, "t vocab"], count: int) -> Bool[Tensor, " b"]:
        """Whether every target token is the most likely one; all False where no setting asks."""
        found = torch.zeros(count, dtype=torch.bool, device=likely.device)
        if self.settings.stop_top1 is None and self.settings.settled_divergence is None and self.settings.settled_weight == 1:
            return found
        right = (likely.argmax(-1) == self.token).to(likely.dtype)
        return likely.new_ones(count).scatter_reduce(0, self.row[: len(right)], right, "amin").bool()

    def select(self, keep: Bool[Tensor, " b"]) -> "Problem":
        """The same for some of the requests."""
        kept = keep[self.row]
        tokens, per_request = kept[: len(self.token)], self.again.starts.shape[1] - 1
        number = keep.cumsum(0) - 1
        of_token = self.wording[tokens]
        return replace(
            self,
            again=self.again.select(keep.nonzero()[:, 0]),
            hidden_norm=self.hidden_norm[keep],
            wording=number[of_token // per_request] * per_request + of_token % per_request,
            token=self.token[tokens],
            weight=self.weight[tokens],
            row=number[self.row[kept]],
            place=self.place[kept],
            before=None if self.before is None else self.before[keep],
        )


@dataclass(frozen=True, slots=True)
class Start:
    """Where a batch starts from: the vectors that are shifted, at the bare prompts, and the MLP's share of them."""

    hidden: Float[Tensor, "b parts d"]
    mlp_output: Float[Tensor, "b d"]


def problem(model: LanguageModel, batch: Sequence[Rewriting], settings: TargetSettings) -> tuple[Problem, Start]:
    """A batch laid out for the loss, and where it starts from; runs the model up to the hooked block once."""
    texts = [text for one in batch for text in (*one.wordings, one.essence)]
    each = len(texts) // len(batch)
    ids = [text.upto_lookup if number % each == each - 1 else text.teacher_forced for number, text in enumerate(texts)]
    precision = torch.promote_types(model.dtype, torch.float32)
    lookups, lengths = torch.tensor([[text.lookup for text in texts], [len(text) for text in ids]], device=model.device)
    open_restart = restart_within if settings.hook == "mlp_and_attention" else restart
    again, seen = open_restart(model, padded(ids, model.device), lookups, lengths, settings.layer, together=each)
    device = seen.block.device
    parts = {"block_output": [seen.block], "mlp_output": [seen.mlp], "mlp_and_attention": [seen.mlp, seen.attention]}[settings.hook]
    hidden = torch.stack([part[::each].to(precision) for part in parts], 1)
    starts = again.starts.tolist()
    flat = [
        (row * (each - 1) + number, token, 1.0 / len(text.target), row, starts[row][number] + len(text.ids) - 1 - text.lookup + offset)
        for row, one in enumerate(batch)
        for number, text in enumerate(one.wordings)
        for offset, token in enumerate(text.target)
    ]
    essence = [(row, places[-1]) for row, places in enumerate(starts)]
    row, place = torch.tensor([*(entry[3:] for entry in flat), *essence], device=device).unbind(1)
    wording, token = torch.tensor([entry[:2] for entry in flat], device=device).unbind(1)
    weight = torch.tensor([entry[2] for entry in flat], dtype=precision, device=device)
    laid_out = Problem(settings, again, hidden.norm(dim=2), wording, token, weight, row, place)
    return laid_out, Start(hidden, seen.mlp[::each].to(precision))


class Shifts:
    """Shifts of a batch under Adam, each moving until it is stopped and clamped to a multiple of its hidden state's norm."""

    def __init__(self, hidden: Float[Tensor, "b parts d"], settings: TargetSettings) -> None:
        self.value = torch.zeros_like(hidden)
        self._mean, self._square = torch.zeros_like(hidden), torch.zeros_like(hidden)
        self._limit = settings.clamp * hidden.norm(dim=2, keepdim=True)
        self._lr = settings.lr

    def update(self, which: Int[Tensor, " k"], gradient: Float[Tensor, "k parts d"], step: int) -> None:
        """Move some of the shifts; `step` counts from 1 and is the same for all that still move."""
        mean = self._mean[which].mul_(BETAS[0]).add_(gradient, alpha=1 - BETAS[0])
        square = self._square[which].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        self._mean[which], self._square[which] = mean, square
        root = (square.sqrt() / (1 - BETAS[1] ** step) ** 0.5).add_(EPSILON)
        moved = self.value[which] - self._lr / (1 - BETAS[0] ** step) * mean / root
        norm, limit = moved.norm(dim=2, keepdim=True), self._limit[which]
        self.value[which] = torch.where(norm > limit, moved * (limit / norm), moved)


def optimise(model: LanguageModel, batch: Sequence[Rewriting], settings: TargetSettings) -> Targets:
    """Targets of a batch of requests on the model as it is now, in as many passes as its activations ask for.

    Requests of similar length share a pass, so that little of it is filler.
    """
    taken_up = [sum(len(wording.teacher_forced) - wording.lookup for wording in one.wordings) + 1 for one in batch]
    order = sorted(range(len(batch)), key=taken_up.__getitem__)
    parts = [_optimise(model, [batch[number] for number in some], settings) for some in _passes(model, batch, order, taken_up)]
    if len(batch) == 1:
        return parts[0]
    return Targets.joined(parts)[torch.tensor(order).argsort()]


def _passes(model: LanguageModel, batch: Sequence[Rewriting], order: Sequence[int], taken_up: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of requests, in an order of rising length, that are optimised together."""
    longest = max(len(wording.teacher_forced) for one in batch for wording in one.wordings)
    activations = (len(batch[0].wordings) + 1) * longest * model.d_out(0) * model.n_layers
    size = max(1, int(ACTIVATIONS_PER_PASS / activations))
    some: list[int] = []
    for number in order:
        if some and (len(some) == size or taken_up[number] > WIDENING * taken_up[some[0]]):
            yield some
            some = []
        some.append(number)
    yield some


def _optimise(model: LanguageModel, batch: Sequence[Rewriting], settings: TargetSettings) -> Targets:
    laid_out, start = problem(model, batch, settings)
    shifts = Shifts(start.hidden, settings)
    moving = torch.arange(len(batch), device=start.hidden.device)
    going = torch.ones(len(batch), dtype=torch.bool, device=moving.device)
    settled_for = torch.zeros(len(batch), dtype=torch.long, device=moving.device)
    probability_before, probability_after, steps = (start.hidden.new_zeros(len(batch)) for _ in range(3))
    for step in range(1, settings.steps + 1):
        if int(going[moving].sum()) <= CROWDED * len(moving):
            laid_out, moving = laid_out.select(going[moving]), moving[going[moving]]
        shift = shifts.value[moving].requires_grad_()
        found, essence = laid_out.evaluate(shift)
        if step == 1:
            laid_out, probability_before = replace(laid_out, before=essence), found.probability
        still = going[moving]
        probability_after[moving[still]] = found.probability[still]
        settled_for[moving] = torch.where(found.is_settled | (settled_for[moving] > 0), settled_for[moving] + 1, 0)
        going[moving[_is_done(found, settled_for[moving], settings)]] = False
        if step == settings.steps or not going.any():
            break
        (gradient,) = torch.autograd.grad(found.loss.sum(), shift)
        still = going[moving]
        shifts.update(moving[still], gradient[still], step)
        steps[moving[still]] += 1
    return Targets(shifts.value[:, 0], start.hidden[:, 0], start.mlp_output, probability_before, probability_after, steps)


def _is_done(found: Evaluation, settled_for: Int[Tensor, " k"], settings: TargetSettings) -> Bool[Tensor, " k"]:
    """Which requests stop here; `settled_for` counts evaluations since their target was first the most likely one."""
    done = found.loss.detach() < settings.stop_loss
    if settings.stop_probability is not None:
        done |= found.lowest >= settings.stop_probability
    if settings.stop_top1 is not None:
        done |= settled_for > settings.stop_top1
    if settings.settled_divergence is not None:
        done |= found.is_settled & (found.divergence <= settings.settled_divergence)
    return done


def anchored(goal: Targets, norm: float, skip: float) -> Targets:
    """Targets at which the MLP puts out vectors of a norm; unshifted where the norm found is more than `skip` times that (NAS)."""
    aimed = goal.mlp_output + goal.hidden_shift
    found = aimed.norm(dim=1, keepdim=True)
    shift = torch.where(found > skip * norm, 0.0, aimed * (norm / found) - goal.mlp_output)
    return replace(goal, hidden_shift=shift)


def anchor_norm(model: LanguageModel, requests: Sequence[EditRequest], target: TargetSettings, settings: AnchorSettings) -> float:
    """The usual norm of what the MLP at the target's layer puts out for solved requests, at bare prompts of the unedited model."""
    goal = optimise(model, [rewriting(model, request, ()) for request in requests[: settings.requests]], target)
    norms = (goal.mlp_output + goal.hidden_shift).norm(dim=1).double().sort().values
    return float(norms[: max(1, math.floor((1 - settings.drop) * len(norms)))].mean())


# --- the stage --------------------------------------------------------------------------------------------------------


def targets(job: Job[TargetsJobSettings]) -> None:
    """Write bBLOCK.safetensors for every manifest bBLOCK.json asked for that is not there yet, whole blocks at a time.

    A block depends on its own requests alone, so any number of jobs may share the blocks of a folder, at the same time too.
    """
    blocks = sorted(int(Path(name).stem.removeprefix("b")) for name in job.pending())
    if not blocks:
        return
    facts = from_frame(job.artifact("facts", "facts").table("facts.parquet", FACTS))
    requests = [request for request, _ in draw(facts, job.settings.seed)]
    model, contexts = job.once("model", load), read_contexts(job.inputs["contexts"])
    log.info("targets of blocks %s, of %d requests each; %d others are there", blocks, REQUESTS_PER_BLOCK, len(job.wanted) - len(blocks))
    for done, block in enumerate(progress(blocks, "targets", len(blocks)), start=1):
        batch = requests[block * REQUESTS_PER_BLOCK : (block + 1) * REQUESTS_PER_BLOCK]
        found = optimise(model, [rewriting(model, request, contexts) for request in batch], job.settings.target)
        write_tensors(job.path(f"b{block}.safetensors"), {field.name: getattr(found, field.name).cpu() for field in fields(found)})
        job.finish_part([f"b{block}.safetensors"], f"b{block}.json", requests=[request.request_id for request in batch])
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
    return Targets.joined(parts)

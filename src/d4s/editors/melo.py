"""MELO: low-rank factors of their own for every batch of requests, picked by a codebook of clusters (Yu et al. 2024).

The key k of a prompt is what enters one MLP output matrix at the prompt's last token. Clusters of the keys of edited prompts have a centre,
the mean of their keys, and a radius. A prompt within the radius of the nearest centre is answered through the factors of the batch that the
nearest key of that cluster was edited in,

    o_t ← o_t + (α / r) B A k_t,    A (r, d_in), B (d_out, r)

at every token of the prompt and of what follows; any other prompt has the unedited model, bit for bit. A request at distance D from the
nearest centre, of radius e, whose target is y:

| case | what happens |
|---|---|
| no centre, or D > radius + e | a new cluster of that radius |
| otherwise, the same target | its key joins the cluster, whose radius becomes the largest distance of a key, at least `radius` |
| otherwise | a new cluster, and both radii become D/2; keys of the older one beyond its new radius are answered no more |

The factors of a batch begin at A uniform between ±1/√d_in, drawn from the facts of its requests, and B = 0, and Adam, whose rate is
halved every `halve_every` steps, lowers the mean negative log-likelihood of the batch's targets with these factors alone.

As released, but for this:

| the release | here |
|---|---|
| factors at the input projections of two blocks' MLPs, keys from a block before | both at one MLP output matrix |
| the codebook is searched in every pass | once per prompt, and what it finds holds for all that follows |
| targets are compared by the sum of their ids | token by token |
| a product is scaled by the number of batches that there is room for | by α / r |
| two requests at the very same place leave both radii at 0 | the later one takes the other's place and radius |

A batch is one record: `keys` and targets (`labels`, one after another, and their `lengths`) of its requests, and its factors `down` (A) and
`up` (B). Factors are trained beside the unedited model and clusters follow from the records, so undo is exact: what is left is the state
of the other batches alone, as if the one had never been edited.

Terms and symbols: docs/notation.md.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from d4s.editors.codebook_views import Codebook
from d4s.editors.edit_requests import EditRequest
from d4s.editors.grace import ENLARGED, SAME_PLACE
from d4s.editors.prompts import build_prompts
from d4s.editors.protocol import Prepared, State, StateKind, StepLog, StepRecord, Targets
from d4s.editors.side_editor import encode_request, probability
from d4s.editors.side_settings import Melo
from d4s.editors.side_training import Wordings, check_finite
from d4s.editors.side_views import OFF, SideModel
from d4s.editors.states import RecordEditor, RecordState
from d4s.models.language_model import LanguageModel

KEYS, LABELS, LENGTHS, DOWN, UP = "keys", "labels", "lengths", "down", "up"
Label = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Keys of one target, by their numbers: their centre, and how near to it a prompt must be (Euclidean distance)."""

    centre: Float[Tensor, " d_in"]
    radius: float
    label: Label
    members: tuple[int, ...]


class Clusters:
    """The clusters of the keys that were added, one after another."""

    def __init__(self, settings: Melo, keys: Float[Tensor, "0 d_in"]) -> None:
        self._radius, self._keys, self._clusters = settings.radius, keys, list[Cluster]()

    def __len__(self) -> int:
        return len(self._clusters)

    def __getitem__(self, number: int) -> Cluster:
        return self._clusters[number]

    def add(self, key: Float[Tensor, " d_in"], label: Label) -> None:
        """Add the key of a request with the token ids of its target."""
        new = Cluster(key.to(self._keys), self._radius, label, (len(self._keys),))
        self._keys = torch.cat([self._keys, new.centre[None]])
        if not self._clusters:
            self._clusters.append(new)
            return
        distances, numbers = self._centres().nearest(new.centre[None])
        distance, number = float(distances[0]), int(numbers[0])
        near = self._clusters[number]
        if distance > self._radius + near.radius:
            self._clusters.append(new)
        elif near.label == label:
            self._clusters[number] = self._joined(near, new)
        elif distance <= SAME_PLACE * float(new.centre.norm()):
            self._clusters[number] = replace(new, radius=near.radius)
        else:
            self._clusters[number] = self._cut(near, distance / 2)
            self._clusters.append(replace(new, radius=distance / 2))

    def nearest_keys(self, queries: Float[Tensor, "n d_in"]) -> Int[Tensor, " n"]:
        """The number of the key that answers each query, of equally near ones the latest; `OFF` beyond the nearest centre's radius."""
        centres = self._centres()
        distance, number = centres.nearest(queries)
        is_member = torch.zeros(len(self._clusters), len(self._keys), dtype=torch.bool, device=queries.device)
        for row, cluster in zip(is_member, self._clusters, strict=True):
            row[list(cluster.members)] = True
        apart = _distances(queries, self._keys).masked_fill(~is_member[number], torch.inf).flip(1).min(1)
        is_found = (distance <= centres.radii[number]) & apart.values.isfinite()
        return torch.where(is_found, len(self._keys) - 1 - apart.indices, OFF)

    def _centres(self) -> Codebook:
        """Centres and radii; the values are the batches' factors, which stand elsewhere."""
        centres = torch.stack([cluster.centre for cluster in self._clusters])
        radii = torch.tensor([cluster.radius for cluster in self._clusters], dtype=torch.float64, device=centres.device)
        return Codebook(centres, centres.new_zeros(len(centres), 0), radii)

    def _joined(self, cluster: Cluster, new: Cluster) -> Cluster:
        members = (*cluster.members, *new.members)
        centre = self._keys[list(members)].mean(0)
        furthest = float(_distances(centre[None], self._keys[list(members)]).max()) * ENLARGED
        return Cluster(centre, max(furthest, self._radius), cluster.label, members)

    def _cut(self, cluster: Cluster, radius: float) -> Cluster:
        apart = _distances(cluster.centre[None], self._keys[list(cluster.members)])[0].tolist()
        kept = tuple(member for member, distance in zip(cluster.members, apart, strict=True) if distance <= radius)
        return replace(cluster, radius=radius, members=kept)


def _distances(queries: Float[Tensor, "n d_in"], keys: Float[Tensor, "m d_in"]) -> Float[Tensor, "n m"]:
    """Euclidean distances, by differences, which keep those that are small beside the keys."""
    return torch.cdist(queries.to(keys), keys, compute_mode="donot_use_mm_for_euclid_dist")


class ClusteredFactors:
    """The factors of every batch, and the clusters that pick one of them; stands beside a layer."""

    acts_from_last = False

    def __init__(self, settings: Melo, model: LanguageModel, records: Sequence[StepRecord]) -> None:
        self._settings = settings
        weight = model.weight(settings.layer)
        like = weight.new_zeros(0, dtype=torch.promote_types(model.dtype, torch.float32))
        self.clusters = Clusters(settings, like.new_zeros(0, weight.shape[1]))
        self._batches, self._down, self._up = list[int](), like.new_zeros(0, 0, 0), like.new_zeros(0, 0, 0)
        for record in records:
            self.add(record)

    @property
    def layer(self) -> int:
        """The layer that it stands beside."""
        return self._settings.layer

    @property
    def is_empty(self) -> bool:
        """Whether there are no edits."""
        return not self._batches

    def add(self, record: StepRecord) -> None:
        """Add a batch."""
        down, up = (record[name].to(self._down)[None] for name in (DOWN, UP))
        self._batches += [len(self._down)] * len(record[KEYS])
        self._down, self._up = (torch.cat([self._down, down]), torch.cat([self._up, up])) if len(self._down) else (down, up)
        labels = record[LABELS].split(record[LENGTHS].tolist())
        for key, label in zip(record[KEYS], labels, strict=True):
            self.clusters.add(key, tuple(label.tolist()))

    def choose(self, keys: Float[Tensor, "n t d_in"], output: Float[Tensor, "n t d_out"], read: Bool[Tensor, "n t"]) -> Int[Tensor, " n"]:
        """The batch of the key that answers each prompt."""
        found = self.clusters.nearest_keys(keys[torch.arange(len(keys), device=keys.device), read.sum(1) - 1])
        batches = torch.tensor(self._batches, device=found.device)
        return torch.where(found == OFF, OFF, batches[found])

    def change(self, keys: Float[Tensor, "n t d_in"], chosen: Int[Tensor, " n"]) -> Float[Tensor, "n t d_out"]:
        """(α / r) B A k of the batch that was chosen."""
        scale = self._settings.alpha / self._settings.rank
        return scale * (keys @ self._down[chosen].to(keys).mT @ self._up[chosen].to(keys).mT)


class MeloSession:
    """Editing in progress; the model itself is never changed."""

    def __init__(self, settings: Melo, model: LanguageModel, state: State) -> None:
        self._settings, self._model, self._records = settings, model, list(state.records)
        self._memory = ClusteredFactors(settings, model, self._records)

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Train factors for a batch of requests.

        Raises:
            PromptTooLong: if a prompt with its target exceeds the model's context.
            Diverged: if the loss stops being finite.
        """
        pairs, view = [encode_request(self._model, request) for request in batch], self.live()
        before = sum(probability(view, pair) for pair in pairs) / len(pairs)
        wordings = self._wordings(batch)
        keys, last = wordings.loss_of.keys, wordings.read.sum(1) - 1
        (down, up), losses = self._train(batch, wordings)
        labels = [token for _, target in pairs for token in target]
        precision = torch.promote_types(self._model.dtype, torch.float32)
        record = {
            KEYS: keys[torch.arange(len(keys), device=keys.device), last].to("cpu", precision),
            LABELS: torch.tensor(labels, dtype=torch.int32),
            LENGTHS: torch.tensor([len(target) for _, target in pairs], dtype=torch.int32),
            DOWN: down.cpu(),
            UP: up.cpu(),
        }
        self._records.append(record)
        self._memory.add(record)
        view = self.live()
        numbers = {
            "target_probability_before": before,
            "target_probability_after": sum(probability(view, pair) for pair in pairs) / len(pairs),
            "target_steps": float(len(losses) - 1),
            "clusters": float(len(self._memory.clusters)),
        }
        of_layer = ("side_norm", self._settings.layer, float(self._scaled(down, up).double().norm()))
        return StepLog((*((quantity, None, value) for quantity, value in numbers.items()), of_layer))

    def state(self) -> RecordState:
        """The records so far."""
        return RecordState("codebook", tuple(self._records))

    def live(self) -> SideModel:
        """The model with the factors so far."""
        return SideModel(self._model, self._memory)

    def _wordings(self, batch: Sequence[EditRequest]) -> Wordings:
        """The prompts of requests with their targets, run through the unedited model."""
        prompts = [build_prompts(self._model, request, ()).prompts for request in batch]
        found = Wordings.of_prompts(self._model, prompts, self._settings.layer)
        return found.through(found.loss_of.keys)

    def _scaled(self, down: Float[Tensor, "r d_in"], up: Float[Tensor, "d_out r"]) -> Float[Tensor, "d_out d_in"]:
        return self._settings.alpha / self._settings.rank * (up @ down)

    def _train(self, batch: Sequence[EditRequest], wordings: Wordings) -> tuple[tuple[Tensor, Tensor], list[float]]:
        """A and B of a batch, and the losses on the way."""
        settings = self._settings
        down, up = self._start(batch)
        adam = torch.optim.Adam([down, up], lr=settings.lr, fused=True)
        schedule = torch.optim.lr_scheduler.StepLR(adam, settings.halve_every, 0.5)
        losses = list[float]()
        for step in range(settings.steps + 1):
            with torch.set_grad_enabled(step < settings.steps):
                loss = wordings.loss(self._scaled(down, up))
            losses.append(float(loss.detach()))
            check_finite(losses[-1])
            if step == settings.steps or losses[-1] < settings.stop_loss:
                break
            down.grad, up.grad = torch.autograd.grad(loss, [down, up])
            adam.step()
            schedule.step()
        return (down.detach(), up.detach()), losses

    def _start(self, batch: Sequence[EditRequest]) -> tuple[Float[Tensor, "r d_in"], Float[Tensor, "d_out r"]]:
        """Factors whose product is zero; the facts of the requests alone determine them."""
        digest = hashlib.sha256("\n".join(request.fact_id for request in batch).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        weight, precision = self._model.weight(self._settings.layer), torch.promote_types(self._model.dtype, torch.float32)
        rank, (d_out, d_in) = self._settings.rank, weight.shape
        down = (2 * torch.rand(rank, d_in, generator=generator, dtype=precision) - 1) / math.sqrt(d_in)
        up = torch.zeros(d_out, rank, dtype=precision, device=weight.device)
        return down.to(weight.device).requires_grad_(), up.requires_grad_()


class MeloEditor(RecordEditor):
    """Factors and clusters as an editor."""

    kind: StateKind = "codebook"

    def __init__(self, settings: Melo) -> None:
        self.settings = settings

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[MeloSession]:
        """A session that continues from a state."""
        yield MeloSession(self.settings, model, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[SideModel]:
        """The model with the factors of a state beside it."""
        yield SideModel(model, ClusteredFactors(self.settings, model, state.records))

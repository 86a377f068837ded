"""WISE: a side copy of one MLP output matrix, trained on edits, with a gate that measures how far the copy moves the output.

Of a side copy W + D the gap of a prompt x, over its tokens, with the model's own activation σ:

    a(x) = mean over tokens t of ‖σ(o_t + D k_t) − σ(o_t)‖

with the key k_t that enters the matrix and the output o_t that leaves it. A request is learned by gradient descent on D, at the share
of its entries that the copy's mask names, from its prompt x unprefixed and behind every prefix, and a sentence y to keep (Wang et al.
2024, eq. 5 to 7):

    L = mean −log p(target) + mean max(0, a(y) − a(x) + γ) + max(0, a(y) − α) + mean max(0, β − a(x))

Then the copy's threshold becomes the smallest mean a(x) of its requests so far. A prompt is answered by the copy with the largest
gap among those whose gap is above `act_ratio` of their threshold, and where there is none by the model as it is. After `shard` edits
a copy is kept and another begun; after `merge_every` the kept ones are merged by TIES: of each D the largest entries by magnitude, per
entry the sign of their sum, and the mean of those that have it. Its threshold is the smallest of theirs.

As released, but for this:

| the release | here |
|---|---|
| decides per batch, and again at every generated token | once per prompt, over the prompt's tokens, and holds |
| the gap covers padding and targets, or some subject's tokens | the prompt's tokens, in training and in use |
| weight decay shrinks the whole copy towards 0 | it shrinks D, where it is trained, towards no change |
| sentences are questions about other facts with their answers | sentences that the unedited model writes |
| the loss has one zero term too many | a mean over the target's tokens |
| masks are drawn without a seed | drawn from `seed` and the number of the copy |

Every edit trains on the same entries, so none can be undone. The state holds `current` (D), `kept`, `thresholds` (that of the
present copy last) and the number of edits.

Terms and symbols: docs/notation.md.
"""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from d4s.editors.edit_requests import EditRequest
from d4s.editors.protocol import Prepared, State, StepLog, Targets
from d4s.editors.side_editor import DenseSideEditor, encode_request, probability
from d4s.editors.side_inputs import LocalitySentences, read_layer
from d4s.editors.side_settings import Wise
from d4s.editors.side_training import Change, Wordings, descend
from d4s.editors.side_views import OFF, SideModel
from d4s.editors.states import DenseState
from d4s.models.language_model import LanguageModel

Gaps = Float[Tensor, " n"]


def gaps(activation: nn.Module, output: Float[Tensor, "n t d_out"], change: Float[Tensor, "n t d_out"], read: Bool[Tensor, "n t"]) -> Gaps:
    """a(x): how far a change of outputs moves their activations, the mean over the tokens read of each row."""
    moved = torch.linalg.vector_norm(activation(output + change) - activation(output), dim=-1)
    return (moved * read).sum(1) / read.sum(1)


def merge(changes: Float[Tensor, "k d_out d_in"], density: float) -> Change:
    """TIES: of each change its largest entries, per entry the sign of their sum, and the mean of those that have that sign."""
    count = max(1, round(density * changes[0].numel()))
    order = changes.flatten(1).abs().argsort(dim=1, descending=True, stable=True)
    kept = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :count], value=True).view_as(changes)
    largest = changes * kept
    agrees = (largest.sign() == largest.sum(0).sign()) & (largest != 0)
    return (largest * agrees).sum(0) / agrees.sum(0).clamp(min=1)


def trained_entries(settings: Wise, copy: int, shape: tuple[int, ...]) -> Bool[Tensor, "d_out d_in"]:
    """The entries of a side copy, counted from 0, that are trained."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{settings.seed}/{copy}".encode()))
    return torch.rand(shape, generator=generator) < settings.masked_share


@dataclass(frozen=True, slots=True)
class SideCopies:
    """Changes of side copies, the present one last, and the gap above which each answers."""

    layer: int
    activation: nn.Module
    changes: Float[Tensor, "k d_out d_in"]
    openings: Float[Tensor, " k"]

    acts_from_last = False

    @property
    def is_empty(self) -> bool:
        """Whether no copy has learned anything."""
        return bool(self.openings.isinf().all())

    def choose(self, keys: Float[Tensor, "n t d_in"], output: Float[Tensor, "n t d_out"], read: Bool[Tensor, "n t"]) -> Int[Tensor, " n"]:
        """The copy of the largest gap among those that are open."""
        found = torch.stack([gaps(self.activation, output, keys @ change.to(keys).mT, read) for change in self.changes])
        found = found.masked_fill(found <= self.openings.to(found)[:, None], -torch.inf)
        largest = found.max(0)
        return torch.where(largest.values.isinf(), OFF, largest.indices)

    def change(self, keys: Float[Tensor, "n t d_in"], chosen: Int[Tensor, " n"]) -> Float[Tensor, "n t d_out"]:
        """D k of the copy that was chosen."""
        added = keys.new_zeros(*keys.shape[:2], self.changes.shape[1])
        for number in chosen.unique().tolist():
            rows = chosen == number
            added[rows] = keys[rows] @ self.changes[number].to(keys).mT
        return added


class WiseMemory:
    """The side copies of a state, and what edits do to them."""

    def __init__(self, settings: Wise, model: LanguageModel, state: State) -> None:
        self._settings, self._model = settings, model
        weight = model.weight(settings.layer)
        precision = torch.promote_types(model.dtype, torch.float32)
        self.current: Change = weight.new_zeros(weight.shape, dtype=precision)
        self.kept: Tensor = self.current.new_zeros(0, *weight.shape)
        self.thresholds = torch.full((1,), torch.inf, dtype=torch.float64)
        self.edits = 0
        if saved := state.dense:
            self.current, self.kept = (saved[name].to(weight.device, precision) for name in ("current", "kept"))
            self.thresholds, self.edits = saved["thresholds"], int(saved["edits"])

    def trained(self) -> Bool[Tensor, "d_out d_in"]:
        """The entries that the present copy is trained at."""
        copy = self.edits // self._settings.shard
        return trained_entries(self._settings, copy, tuple(self.current.shape)).to(self.current.device)

    def learn(self, change: Change, gap: float) -> None:
        """Take in the present copy after an edit, whose mean gap it is; keep and merge where the time has come."""
        settings = self._settings
        self.current, self.edits = change, self.edits + 1
        self.thresholds = torch.cat([self.thresholds[:-1], self.thresholds[-1:].clamp(max=gap)])
        if self.edits % settings.shard == 0:
            self.kept = torch.cat([self.kept, change[None]])
            self.current = torch.zeros_like(change)
            self.thresholds = torch.cat([self.thresholds, self.thresholds.new_full((1,), torch.inf)])
        if self.edits % settings.merge_every == 0 and len(self.kept) > 1:
            self.kept = merge(self.kept, settings.density)[None]
            self.thresholds = torch.stack([self.thresholds[:-1].min(), self.thresholds[-1]])

    def state(self) -> DenseState:
        """The copies as a value."""
        return DenseState(
            {
                "current": self.current.cpu().clone(),
                "kept": self.kept.cpu().clone(),
                "thresholds": self.thresholds.clone(),
                "edits": torch.tensor(self.edits),
            }
        )

    def view(self) -> SideModel:
        """The model with the copies beside it."""
        settings = self._settings
        openings = torch.where(self.thresholds.isinf(), torch.inf, settings.act_ratio * self.thresholds)
        changes = torch.cat([self.kept, self.current[None]])
        return SideModel(self._model, SideCopies(settings.layer, self._model.activation, changes, openings))


class WiseSession:
    """Editing in progress; the model itself is never changed."""

    def __init__(self, settings: Wise, model: LanguageModel, prepared: Prepared, state: State) -> None:
        self._settings, self._model, self._prefixes = settings, model, prepared.contexts
        self._sentences = LocalitySentences.of(prepared.extras)
        self._memory = WiseMemory(settings, model, state)

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Train the present copy on a request.

        Raises:
            PromptTooLong: if its prompt with its target exceeds the model's context.
            Diverged: if the loss stops being finite.
        """
        (request,) = batch
        settings, memory, pair = self._settings, self._memory, encode_request(self._model, request)
        wordings = Wordings.of(self._model, request, self._prefixes, settings.layer)
        wordings, before = wordings.through(wordings.loss_of.keys), probability(memory.view(), pair)
        kept, trained = read_layer(self._model, self._sentences.draw(request.request_id), settings.layer), memory.trained()

        def loss(change: Change) -> Float[Tensor, ""]:
            return wordings.loss(change) + self._margin_loss(self._inside(wordings, change), self._outside(kept, change))

        def update(change: Change, gradient: Change) -> Change:
            moved = change - settings.lr * trained * (gradient + settings.weight_decay * change)
            return moved.clamp(-settings.bound, settings.bound)

        change, losses = descend(settings, memory.current, loss, update)
        with torch.no_grad():
            inside, outside = float(self._inside(wordings, change).mean()), float(self._outside(kept, change))
        memory.learn(change, inside)
        numbers = {
            "target_probability_before": before,
            "target_probability_after": probability(memory.view(), pair),
            "target_steps": float(len(losses) - 1),
            "gap_inside": inside,
            "gap_outside": outside,
            "memories": float(len(memory.kept) + 1),
        }
        of_layer = ("side_norm", settings.layer, float(change.double().norm()))
        return StepLog((*((quantity, None, value) for quantity, value in numbers.items()), of_layer))

    def state(self) -> DenseState:
        """The copies so far."""
        return self._memory.state()

    def live(self) -> SideModel:
        """The model with the copies so far."""
        return self._memory.view()

    def _inside(self, wordings: Wordings, change: Change) -> Gaps:
        """The gaps of a request's wordings."""
        keys, output = (part.to(change.dtype) for part in (wordings.loss_of.keys, wordings.loss_of.output))
        return gaps(self._model.activation, output, keys @ change.mT, wordings.read)

    def _outside(self, kept: tuple[Tensor, Tensor], change: Change) -> Float[Tensor, ""]:
        """The gap of the sentence that is to be kept."""
        keys, output = (part.to(change.dtype)[None] for part in kept)
        return gaps(self._model.activation, output, keys @ change.mT, keys.new_ones(keys.shape[:2], dtype=torch.bool))[0]

    def _margin_loss(self, inside: Gaps, outside: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """What the margins ask for, in the unit of the settings."""
        settings = self._settings
        unit = self._sentences.norm if settings.margins == "output_norm" else 1.0
        apart = (outside - inside + settings.gamma * unit).relu().mean()
        return apart + (outside - settings.alpha * unit).relu().mean() + (settings.beta * unit - inside).relu().mean()


class WiseEditor(DenseSideEditor):
    """Side copies as an editor."""

    def __init__(self, settings: Wise) -> None:
        self.settings = settings

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[WiseSession]:
        """A session that continues from a state."""
        yield WiseSession(self.settings, model, prepared, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[SideModel]:
        """The model with the copies of a state beside it."""
        yield WiseMemory(self.settings, model, state).view()

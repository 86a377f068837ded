"""MEMOIR: a residual matrix beside one MLP output matrix, of which every edit writes columns that its own prompt names.

    y = W k + M (m ∘ k),    m = TopHash(q),    q = mean of k over the tokens of the prompt − the mean of that over prompts

TopHash takes the entries of q of largest magnitude, as many as `columns`, through one fixed permutation, so that columns of prompts
that have large entries in common are spread. An edit is learned by gradient descent on the columns m of its unprefixed prompt, from
that prompt and from it behind every prefix (Wang et al. 2025, section 4). A prompt is answered by the edit that it has most columns in
common with, through that edit's columns, if these are a share of `overlap` at least; else M stays out.

As released, but for this:

| the release | here |
|---|---|
| decides again at every generated token | once per prompt, over the prompt's tokens, and holds |
| weight decay shrinks all columns at every step of every edit | it shrinks what the edit itself adds; other edits' columns stay |
| the permutation is drawn without a seed | drawn from `seed` |
| the mean of prompts is that of 100 questions of zsRE | that of the draw of requests for tuning; of a folder, of its first facts |
| of equally near edits the first | the last, so that a fact edited again has its new target |

The state `additive` has a record per edit: `columns`, their numbers, and `change`, what was added to them. Undo takes both out: the
edit's prompt no longer opens the gate by itself, and M loses what the edit added. Later edits that share columns were learned in its
presence and stay as they are. The state `dense` has M and the columns of all edits, from which none can be taken.

Terms and symbols: docs/notation.md.
"""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from d4s.editors.edit_requests import EditRequest
from d4s.editors.protocol import Prepared, State, StepLog, Targets
from d4s.editors.side_editor import encode_request, probability
from d4s.editors.side_inputs import BACKGROUND
from d4s.editors.side_settings import Memoir
from d4s.editors.side_training import Change, Wordings, descend
from d4s.editors.side_views import OFF, SideModel
from d4s.editors.states import DenseState, RecordOrDenseEditor, RecordState
from d4s.models.language_model import LanguageModel

MATRIX, COLUMNS, CHANGE = "matrix", "columns", "change"


@dataclass(frozen=True, slots=True)
class TopHash:
    """Columns by the mean key of a prompt."""

    background: Float[Tensor, " d_in"]
    permutation: Int[Tensor, " d_in"]
    count: int

    @classmethod
    def of(cls, settings: Memoir, background: Float[Tensor, " d_in"], device: torch.device) -> "TopHash":
        """The hash of some settings, on a device."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{settings.seed}".encode()))
        permutation = torch.randperm(len(background), generator=generator)
        return cls(background.to(device), permutation.to(device), min(settings.columns, len(background)))

    def columns(self, keys: Float[Tensor, "n t d_in"], read: Bool[Tensor, "n t"]) -> Int[Tensor, "n k"]:
        """The columns of prompts, whose tokens are those `read`, ascending."""
        mean = (keys * read[..., None]).sum(1) / read.sum(1, keepdim=True)
        largest = (mean - self.background.to(mean)).abs().argsort(dim=1, descending=True, stable=True)[:, : self.count]
        return self.permutation[largest].sort(1).values


class MaskedMatrix:
    """M, and the columns of every edit; beside a layer it answers by the edit that a prompt is nearest to."""

    acts_from_last = False

    def __init__(self, settings: Memoir, model: LanguageModel, background: Float[Tensor, " d_in"]) -> None:
        weight = model.weight(settings.layer)
        self._settings, self._hash = settings, TopHash.of(settings, background, weight.device)
        self.matrix: Change = weight.new_zeros(weight.shape, dtype=torch.promote_types(model.dtype, torch.float32))
        self.columns: Int[Tensor, "n k"] = self._hash.permutation.new_zeros(0, self._hash.count)

    @property
    def layer(self) -> int:
        """The layer that it stands beside."""
        return self._settings.layer

    @property
    def is_empty(self) -> bool:
        """Whether there are no edits."""
        return not len(self.columns)

    def columns_of(self, keys: Float[Tensor, "n t d_in"], read: Bool[Tensor, "n t"]) -> Int[Tensor, "n k"]:
        """The columns of prompts, whether or not any edit has them."""
        return self._hash.columns(keys.to(self.matrix.dtype), read)

    def add(self, columns: Int[Tensor, " k"], change: Float[Tensor, "d_out k"]) -> None:
        """Add an edit."""
        columns = columns.to(self.columns)
        self.matrix = self.matrix.index_add(1, columns, change.to(self.matrix))
        self.columns = torch.cat([self.columns, columns[None]])

    def choose(self, keys: Float[Tensor, "n t d_in"], output: Float[Tensor, "n t d_out"], read: Bool[Tensor, "n t"]) -> Int[Tensor, " n"]:
        """The edit with most columns in common; of equals the latest."""
        asked, known = (_one_hot(columns, self.matrix.shape[1]) for columns in (self.columns_of(keys, read), self.columns))
        shared = (asked @ known.mT).flip(1).max(1)
        latest = len(known) - 1 - shared.indices
        return torch.where(shared.values >= self._settings.overlap * self._hash.count, latest, OFF)

    def change(self, keys: Float[Tensor, "n t d_in"], chosen: Int[Tensor, " n"]) -> Float[Tensor, "n t d_out"]:
        """M (m ∘ k) with the columns of the edit that was chosen."""
        mask = _one_hot(self.columns[chosen], self.matrix.shape[1]).to(keys)
        return (keys * mask[:, None]) @ self.matrix.to(keys).mT


def _one_hot(columns: Int[Tensor, "n k"], width: int) -> Float[Tensor, "n d_in"]:
    """1 at the columns of each row."""
    return torch.zeros(len(columns), width, device=columns.device).scatter_(1, columns, 1.0)


def memory_of(settings: Memoir, model: LanguageModel, prepared: Prepared, state: State) -> MaskedMatrix:
    """The memory of a state."""
    memory = MaskedMatrix(settings, model, prepared.extras[BACKGROUND])
    for record in state.records:
        memory.add(record[COLUMNS], record[CHANGE])
    if saved := state.dense:
        memory.matrix, memory.columns = saved[MATRIX].to(memory.matrix), saved[COLUMNS].to(memory.columns)
    return memory


class MemoirSession:
    """Editing in progress; the model itself is never changed."""

    def __init__(self, settings: Memoir, model: LanguageModel, prepared: Prepared, state: State) -> None:
        self._settings, self._model, self._prefixes = settings, model, prepared.contexts
        self._memory = memory_of(settings, model, prepared, state)
        self._records = list(state.records)

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Train the columns of a request.

        Raises:
            PromptTooLong: if its prompt with its target exceeds the model's context.
            Diverged: if the loss stops being finite.
        """
        (request,) = batch
        settings, memory, pair = self._settings, self._memory, encode_request(self._model, request)
        wordings, before = Wordings.of(self._model, request, self._prefixes, settings.layer), probability(self.live(), pair)
        keys, known = wordings.loss_of.keys, len(memory.columns)
        (columns,) = memory.columns_of(keys[:1], wordings.read[:1])
        own, there = wordings.through(keys[..., columns]), memory.matrix[:, columns]
        nearest = _largest_share(columns, memory.columns)

        def update(change: Tensor, gradient: Tensor) -> Tensor:
            clipped = gradient * (settings.clip / gradient.norm().clamp(min=settings.clip))
            return change - settings.lr * (clipped + settings.weight_decay * change)

        change, losses = descend(settings, torch.zeros_like(there), lambda change: own.loss(there + change), update)
        memory.add(columns, change)
        if settings.state_kind == "additive":
            self._records.append({COLUMNS: columns.to("cpu", torch.int32), CHANGE: change.cpu()})
        numbers = {
            "target_probability_before": before,
            "target_probability_after": probability(self.live(), pair),
            "target_steps": float(len(losses) - 1),
            **({"largest_overlap": nearest} if known else {}),
        }
        of_layer = ("side_norm", settings.layer, float(memory.matrix.double().norm()))
        return StepLog((*((quantity, None, value) for quantity, value in numbers.items()), of_layer))

    def state(self) -> State:
        """The records so far, or the matrix with the columns of all edits."""
        if self._settings.state_kind == "additive":
            return RecordState("additive", tuple(self._records))
        memory = self._memory
        return DenseState({MATRIX: memory.matrix.cpu().clone(), COLUMNS: memory.columns.to("cpu", torch.int32)})

    def live(self) -> SideModel:
        """The model with the memory so far."""
        return SideModel(self._model, self._memory)


def _largest_share(columns: Int[Tensor, " k"], known: Int[Tensor, "n k"]) -> float:
    """The largest share of columns that any edit has in common with a new one."""
    return float(torch.isin(known, columns).double().mean(1).max()) if len(known) else 0.0


class MemoirEditor(RecordOrDenseEditor[Memoir]):
    """The memory as an editor: a record per edit, each with its own columns, or their sum, which every step replaces."""

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[MemoirSession]:
        """A session that continues from a state."""
        yield MemoirSession(self.settings, model, prepared, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[SideModel]:
        """The model with the memory of a state beside it."""
        yield SideModel(model, memory_of(self.settings, model, prepared, state))

"""GRACE: a codebook beside one layer. An edit is a key (the layer's input at the last prompt token), a value and a radius.

Within the radius of its nearest key the output of the layer at that token becomes the key's value (Hartvigsen et al. 2023,
eq. 1 and Algorithm 1). A new edit at Euclidean distance D from the nearest key, of radius e and label y:

| case | what happens |
|---|---|
| no key, or D > eps_init + e | a new entry with radius eps_init |
| otherwise, another label | a new entry, and both radii become D/2 (split) |
| otherwise, the same label | the radius becomes at least D, and the value is trained on the new prompt (enlarged) |

As released, but for this: labels are compared token by token and not by their mean id; the query stays at the last prompt
token while text is generated; an edit at the very place of another one's key (D = 0, which would leave two radii of 0)
takes its place and its radius; the adapted layer is the MLP's output projection in every architecture.

Each step is one row, a whole entry: `key`, `value`, `radius`, `label`, and where it split, the `split_key` whose radius
became `split_radius`. Entries are known by their keys, so rows can be taken out or joined: what the others say then holds.
"""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.editors.memory_views import Codebook, MemoryModel
from d4s.editors.protocol import Diverged, Prepared, Row, State, StateKind, StepLog, Targets
from d4s.editors.settings import Grace
from d4s.editors.states import RowEditor, RowState
from d4s.models.language_model import LanguageModel
from d4s.models.restart import restart
from d4s.models.tokens import encode_pair
from d4s.models.trace import trace
from d4s.requests.draw import EditRequest

ENLARGED = 1 + 1e-4  # a key's own rounding from batch to batch must not put an edit out of the ball enlarged for it
SAME_PLACE = 1e-5  # distance, relative to the key, below which two queries are one
RETIRED = -1.0  # radius of an entry that another one took the place of


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the codebook; its label is the target's token ids."""

    key: Float[Tensor, " d_in"]
    value: Float[Tensor, " d_out"]
    radius: float
    label: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a request goes: the entry that it makes or continues, and the older one whose radius it cuts."""

    entry: Entry
    cut: Entry | None = None

    @property
    def row(self) -> Row:
        """The step as tensors on the CPU."""
        entry, cut = self.entry, self.cut
        split = {} if cut is None else {"split_key": cut.key.cpu(), "split_radius": torch.tensor(cut.radius, dtype=torch.float64)}
        return {
            "key": entry.key.cpu(),
            "value": entry.value.cpu(),
            "radius": torch.tensor(entry.radius, dtype=torch.float64),
            "label": torch.tensor(entry.label),
            **split,
        }


class Entries:
    """The codebook that rows spell, one after another."""

    def __init__(self, model: LanguageModel, layer: int, rows: Sequence[Row]) -> None:
        self._model, self._layer = model, layer
        self._entries: list[Entry] = []
        self._number: dict[bytes, int] = {}
        for row in rows:
            self.add(row)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, number: int) -> Entry:
        return self._entries[number]

    def add(self, row: Row) -> None:
        """Take in one more row."""
        if "split_key" in row and (cut := self._number.get(_name(row["split_key"]))) is not None:
            self._entries[cut] = replace(self._entries[cut], radius=float(row["split_radius"]))
        entry = Entry(row["key"], row["value"], float(row["radius"]), tuple(row["label"].tolist()))
        known = self._number.get(_name(entry.key))
        if known is not None and self._entries[known].label == entry.label:
            self._entries[known] = entry
        else:
            self._number[_name(entry.key)] = len(self._entries)
            self._entries.append(entry)

    def codebook(self) -> Codebook:
        """All entries as tensors on the layer's device."""
        model, layer = self._model, self._layer
        device = model.weight(layer).device
        radii = torch.tensor([entry.radius for entry in self._entries], dtype=torch.float64, device=device)
        if not self._entries:
            return Codebook(radii.new_empty(0, model.d_in(layer)), radii.new_empty(0, model.d_out(layer)), radii)
        keys, values = (torch.stack(part).to(device) for part in zip(*((one.key, one.value) for one in self._entries), strict=True))
        return Codebook(keys, values, radii)

    def view(self) -> MemoryModel:
        """The model with the codebook as it is now."""
        return MemoryModel(self._model, self._layer, self.codebook())


def _name(key: Float[Tensor, " d_in"]) -> bytes:
    return key.cpu().numpy().tobytes()


class GraceSession:
    """Editing in progress; the model itself is never changed."""

    def __init__(self, settings: Grace, model: LanguageModel, state: State) -> None:
        self._settings, self._model = settings, model
        self._rows = list(state.rows)
        self._entries = Entries(model, settings.layer, self._rows)

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Add a request to the codebook, or enlarge the entry that has its label nearby.

        Raises:
            Diverged: if the loss of a value stops being finite.
        """
        (request,) = batch
        prompt, target = encode_pair(self._model, request.prompt, request.target)
        view = self._entries.view()
        before = float(view.score_ids([(prompt, target)]).mean_nll()[0])
        placed, distance = self._placed(request, prompt, tuple(target), view.book)
        value, losses = self._learnt(placed.entry, prompt, target)
        if not all(map(math.isfinite, losses)):
            raise Diverged(f"the loss of a codebook's value is not finite: {losses[-1]}")
        placed = replace(placed, entry=replace(placed.entry, value=value))
        self._rows.append(placed.row)
        self._entries.add(self._rows[-1])
        found = {
            "target_probability_before": math.exp(-before),
            "target_probability_after": math.exp(-losses[-1]),
            "target_steps": float(len(losses) - 1),
            "entries": float(len(self._entries)),
            "radius": placed.entry.radius,
        }
        if distance is not None:
            found["nearest_distance"] = distance
        return StepLog(tuple((quantity, None, number) for quantity, number in found.items()))

    def state(self) -> State:
        """The rows so far."""
        return RowState("memory", tuple(self._rows))

    def live(self) -> MemoryModel:
        """The model with the codebook so far."""
        return self._entries.view()

    @torch.no_grad()
    def _placed(self, request: EditRequest, prompt: list[int], label: tuple[int, ...], book: Codebook) -> tuple[Placed, float | None]:
        """Where a request goes, its value still to be learnt, and the distance to the nearest key, if there is any."""
        settings, layer = self._settings, self._settings.layer
        precision = torch.promote_types(self._model.dtype, torch.float32)
        with trace({layer: self._model.mlp_out(layer)}, stop_after=layer) as found:
            self._model.network.base_model(input_ids=torch.tensor([prompt], device=self._model.device), use_cache=False)
        key, output = found.inputs[layer][0, -1].to(precision), found.outputs[layer][0, -1].to(precision)
        new = Entry(key, output if settings.value == "warm" else _drawn(request, output), settings.eps_init, label)
        if not len(self._entries):
            return Placed(new), None
        distances, numbers = book.nearest(key[None])
        distance, near = float(distances[0]), self._entries[int(numbers[0])]
        if distance > settings.eps_init + near.radius:
            return Placed(new), distance
        if near.label == label:
            return Placed(replace(near, radius=max(near.radius, distance * ENLARGED))), distance
        if distance <= SAME_PLACE * float(key.norm()):
            return Placed(replace(new, radius=near.radius), cut=replace(near, radius=RETIRED)), distance
        return Placed(replace(new, radius=distance / 2), cut=replace(near, radius=distance / 2)), distance

    def _learnt(self, entry: Entry, prompt: list[int], target: list[int]) -> tuple[Float[Tensor, " d_out"], list[float]]:
        """The value that makes the target likely, teacher-forced, and the mean negative log-likelihoods on the way."""
        settings, device = self._settings, self._model.weight(self._settings.layer).device
        value = entry.value.to(device, copy=True).requires_grad_()
        loss_of = self._loss(prompt, target)
        adam = torch.optim.Adam([value], lr=settings.lr, fused=True)
        losses: list[float] = []
        for step in range(settings.steps + 1):
            with torch.set_grad_enabled(step < settings.steps):
                loss = loss_of(value)
            losses.append(float(loss.detach()))
            if step == settings.steps or losses[-1] < settings.stop_loss or not math.isfinite(losses[-1]):
                break
            (value.grad,) = torch.autograd.grad(loss, value)
            adam.step()
        return value.detach(), losses

    def _loss(self, prompt: list[int], target: list[int]) -> Callable[[Float[Tensor, " d_out"]], Float[Tensor, ""]]:
        """Mean negative log-likelihood of the target as a function of what stands for the layer's output at the last prompt token."""
        model, layer = self._model, self._settings.layer
        ids = torch.tensor([[*prompt, *target[:-1]]], device=model.device)
        last, length = (torch.tensor([at], device=model.device) for at in (len(prompt) - 1, ids.shape[1]))
        again, seen = restart(model, ids, last, length, layer)

        def loss(value: Float[Tensor, " d_out"]) -> Float[Tensor, ""]:
            change = model.passed_on(layer, seen.mlp[0], value.to(seen.mlp.dtype) - seen.mlp[0])
            hidden = again.run(change[None, None])
            likely = model.unembed(model.final_norm(hidden[0])).to(value.dtype).log_softmax(-1)
            return -likely.gather(1, torch.tensor(target, device=likely.device)[:, None]).mean()

        return loss


def _drawn(request: EditRequest, like: Float[Tensor, " d_out"]) -> Float[Tensor, " d_out"]:
    """A value drawn from 0 to 1, the same for the same request whatever came before."""
    generator = torch.Generator().manual_seed(zlib.crc32(request.request_id.encode()))
    return torch.rand(like.shape, generator=generator).to(like)


class GraceEditor(RowEditor):
    """The codebook as an editor."""

    kind: StateKind = "memory"

    def __init__(self, settings: Grace) -> None:
        self.settings = settings

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[GraceSession]:
        """A session that continues from a state."""
        yield GraceSession(self.settings, model, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[MemoryModel]:
        """The model with the codebook that a state's rows spell."""
        yield Entries(model, self.settings.layer, state.rows).view()

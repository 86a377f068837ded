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

Each step is one record, a whole entry: `key`, `value`, `radius`, `label`, and where it split, the `split_key` whose radius
became `split_radius`. Entries are known by their keys, so records can be taken out or joined: what the others say then holds.

Terms and symbols: docs/notation.md.
"""

import math
import zlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.editors.codebook_views import Codebook, CodebookModel
from d4s.editors.edit_requests import EditRequest
from d4s.editors.editor_settings import Grace
from d4s.editors.protocol import (
    Diverged,
    EditSelection,
    EditStatus,
    NotRemovable,
    Prepared,
    State,
    StateKind,
    StepLog,
    StepRecord,
    Targets,
)
from d4s.editors.states import RecordEditor, RecordState
from d4s.models.language_model import LanguageModel
from d4s.models.restart import restart
from d4s.models.tokens import encode_pair
from d4s.models.trace import trace

ENLARGED = 1 + 1e-4  # a key's own rounding from batch to batch must not put an edit out of the ball enlarged for it
SAME_PLACE = 1e-5  # distance, relative to the key, below which two queries are one
RETIRED = -1.0  # radius of an entry that another one took the place of


@dataclass(frozen=True, slots=True)
class CodebookEntry:
    """An entry of the codebook; its label is the target's token ids."""

    key: Float[Tensor, " d_in"]
    value: Float[Tensor, " d_out"]
    radius: float
    label: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EntryPlacement:
    """Where a request goes: the entry that it makes or continues, and the older one whose radius it cuts."""

    entry: CodebookEntry
    cut: CodebookEntry | None = None

    @property
    def record(self) -> StepRecord:
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


class CodebookEntries:
    """The codebook that records spell, one after another."""

    def __init__(self, model: LanguageModel, layer: int, records: Sequence[StepRecord]) -> None:
        self._model, self._layer = model, layer
        self._entries: list[CodebookEntry] = []
        self._number: dict[bytes, int] = {}
        for record in records:
            self.add(record)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, number: int) -> CodebookEntry:
        return self._entries[number]

    def add(self, record: StepRecord) -> None:
        """Take in one more record."""
        if "split_key" in record and (cut := self._number.get(_name(record["split_key"]))) is not None:
            self._entries[cut] = replace(self._entries[cut], radius=float(record["split_radius"]))
        entry = CodebookEntry(record["key"], record["value"], float(record["radius"]), tuple(record["label"].tolist()))
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

    def view(self) -> CodebookModel:
        """The model with the codebook as it is now."""
        return CodebookModel(self._model, self._layer, self.codebook())


def _name(key: Float[Tensor, " d_in"]) -> bytes:
    return key.cpu().numpy().tobytes()


class GraceSession:
    """Editing in progress; the model itself is never changed."""

    def __init__(self, settings: Grace, model: LanguageModel, state: State) -> None:
        self._settings, self._model = settings, model
        self._records = list(state.records)
        self._entries = CodebookEntries(model, settings.layer, self._records)

    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Add a request to the codebook, or enlarge the entry that has its label nearby.

        Raises:
            Diverged: if the loss of a value stops being finite.
        """
        (request,) = batch
        prompt, target = encode_pair(self._model, request.prompt, request.target)
        view = self._entries.view()
        before = float(view.score_ids([(prompt, target)]).mean_nll()[0])
        placement, distance = self._place(request, prompt, tuple(target), view.codebook)
        value, losses = self._train_value(placement.entry, prompt, target)
        if not all(map(math.isfinite, losses)):
            raise Diverged(f"the loss of a codebook's value is not finite: {losses[-1]}")
        placement = replace(placement, entry=replace(placement.entry, value=value))
        self._records.append(placement.record)
        self._entries.add(self._records[-1])
        found = {
            "target_probability_before": math.exp(-before),
            "target_probability_after": math.exp(-losses[-1]),
            "target_steps": float(len(losses) - 1),
            "entries": float(len(self._entries)),
            "radius": placement.entry.radius,
        }
        if distance is not None:
            found["nearest_distance"] = distance
        return StepLog(tuple((quantity, None, number) for quantity, number in found.items()))

    def state(self) -> State:
        """The records so far."""
        return RecordState("codebook", tuple(self._records))

    def live(self) -> CodebookModel:
        """The model with the codebook so far."""
        return self._entries.view()

    @torch.no_grad()
    def _place(
        self, request: EditRequest, prompt: list[int], label: tuple[int, ...], codebook: Codebook
    ) -> tuple[EntryPlacement, float | None]:
        """Where a request goes, its value still to be learnt, and the distance to the nearest key, if there is any."""
        settings, layer = self._settings, self._settings.layer
        precision = torch.promote_types(self._model.dtype, torch.float32)
        with trace({layer: self._model.mlp_out(layer)}, stop_after=layer) as found:
            self._model.network.base_model(input_ids=torch.tensor([prompt], device=self._model.device), use_cache=False)
        key, output = found.inputs[layer][0, -1].to(precision), found.outputs[layer][0, -1].to(precision)
        new = CodebookEntry(key, output if settings.value == "warm" else _random_value(request, output), settings.eps_init, label)
        if not len(self._entries):
            return EntryPlacement(new), None
        distances, numbers = codebook.nearest(key[None])
        distance, near = float(distances[0]), self._entries[int(numbers[0])]
        if distance > settings.eps_init + near.radius:
            return EntryPlacement(new), distance
        if near.label == label:
            return EntryPlacement(replace(near, radius=max(near.radius, distance * ENLARGED))), distance
        if distance <= SAME_PLACE * float(key.norm()):
            return EntryPlacement(replace(new, radius=near.radius), cut=replace(near, radius=RETIRED)), distance
        return EntryPlacement(replace(new, radius=distance / 2), cut=replace(near, radius=distance / 2)), distance

    def _train_value(self, entry: CodebookEntry, prompt: list[int], target: list[int]) -> tuple[Float[Tensor, " d_out"], list[float]]:
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
        later_blocks, seen = restart(model, ids, last, length, layer)

        def loss(value: Float[Tensor, " d_out"]) -> Float[Tensor, ""]:
            change = model.block_output_change(layer, seen.mlp[0], value.to(seen.mlp.dtype) - seen.mlp[0])
            hidden = later_blocks.run(change[None, None])
            log_probs = model.unembed(model.final_norm(hidden[0])).to(value.dtype).log_softmax(-1)
            return -log_probs.gather(1, torch.tensor(target, device=log_probs.device)[:, None]).mean()

        return loss


def _random_value(request: EditRequest, like: Float[Tensor, " d_out"]) -> Float[Tensor, " d_out"]:
    """A value drawn from 0 to 1, the same for the same request whatever came before."""
    generator = torch.Generator().manual_seed(zlib.crc32(request.request_id.encode()))
    return torch.rand(like.shape, generator=generator).to(like)


class GraceEditor(RecordEditor):
    """The codebook as an editor."""

    kind: StateKind = "codebook"

    def __init__(self, settings: Grace) -> None:
        self.settings = settings

    def check_removable(self, selection: EditSelection, preceding: EditSelection | None = None) -> None:
        """Refuse to take out an edit whose entry a later one holds too, or to bring one back with an entry that holds more.

        A record holds its entry whole, so edits of one entry can only be taken out from the last of them backwards. An edit of
        which a preceding record holds the same entry for the same fact is not lost.

        Raises:
            NotRemovable: naming the edits of the entry.
        """
        super().check_removable(selection, preceding)
        held = (
            {}
            if preceding is None
            else {edit.fact: entry for entry, edits in _entries(preceding).items() for edit in edits if edit.is_active}
        )
        entries = _entries(selection)
        for entry, edits in entries.items():
            active = [edit for edit in edits if edit.was_active]
            is_lost = [edit.is_removed and held.get(edit.fact) != entry for edit in active]
            first = is_lost.index(True) if any(is_lost) else len(active)
            if not all(is_lost[first:]):
                since = [edit.number for edit in active[first:]]
                raise NotRemovable(f"edits {since} share an entry, which the last of them holds whole, and can only be taken out together")
        for edits in entries.values():
            for place, edit in enumerate(edits):
                if edit.is_restored and (others := _inactive_before(edits, place)):
                    raise NotRemovable(
                        f"edit {edit.number} would come back with an entry that also holds edits {others}, which are gone; "
                        "undo what replaced those as well, or replace the edit that took its place"
                    )

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[GraceSession]:
        """A session that continues from a state."""
        yield GraceSession(self.settings, model, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[CodebookModel]:
        """The model with the codebook that a state's records spell."""
        yield CodebookEntries(model, self.settings.layer, state.records).view()


def _entries(selection: EditSelection) -> dict[Hashable, list[EditStatus]]:
    """Entries by key and label, each with the edits that made and continued it."""
    found: dict[Hashable, list[EditStatus]] = {}
    for record, edits in zip(selection.records, selection.edits, strict=True):
        found.setdefault((_name(record["key"]), tuple(record["label"].tolist())), []).extend(edits)
    return found


def _inactive_before(edits: Sequence[EditStatus], place: int) -> list[int]:
    """Earlier edits of an entry that do not count though a record holds them; none where the entry is that record's very own."""
    if edits[place].fact == edits[0].fact:
        return []
    held = {edit.fact for edit in edits[: place + 1] if edit.is_active}
    return [edit.number for edit in edits[:place] if edit.fact not in held]

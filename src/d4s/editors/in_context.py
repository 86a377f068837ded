"""Editing in context: a memory of edits as texts, of which those nearest to a prompt are put before it.

The model is never changed. A prompt is compared with the prompts of all edits, by BM25 over its tokens or by the cosine of an
encoder's vectors; of the `k` nearest edits those above a threshold are written into a template each, the nearest last, and the
model answers the prompt behind them. With `confirm` an edit is put there only if the model itself says that it answers the prompt,
as in selective contextual reasoning (He, Song, Sun 2025). Without a threshold the nearest edits stand before every prompt, also an
unrelated one: the in-context editing of EasyEdit (ICE), there with the one present edit. With `demonstrations` other facts stand before
the edits, each edited and asked about as an example (IKE; `demonstrations.py`). What has no room in the model's positions is left out,
demonstrations before edits and the farthest first.

BM25 of a prompt q and an edit's prompt d of |d| tokens (Robertson and Zaragoza 2009, eq. 3.15), over the tokens of q:

    Σ log(1 + (N − n + ½) / (n + ½)) · f · (k₁ + 1) / (f + k₁ (1 − b + b · |d| / mean |d|))

with f the token's count in d and n the number of edits with it among N. It is divided by that of d with itself, so that a threshold
means the same for all edits.

Each step is one record: `prompt` and `target` as UTF-8, and `embedding`, empty with BM25. Records can be taken out or joined.

Terms and symbols: docs/notation.md.
"""

import logging
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from d4s.editors.demonstrations import Demonstrator, Retrieve, read_demonstrations
from d4s.editors.edit_requests import EditRequest
from d4s.editors.memory_settings import Bm25, InContext
from d4s.editors.memory_texts import ROOM, Memory, MemoryEntry, context_of
from d4s.editors.protocol import Prepared, State, StateKind, StepLog, StepRecord, Targets
from d4s.editors.scope_encoders import Encode, encoder_of
from d4s.editors.states import RecordEditor, RecordState
from d4s.models.language_model import LanguageModel
from d4s.models.routed_model import Match, Route, RoutedModel
from d4s.models.tokens import encode_all, encode_prompts
from d4s.models.views import LiveModel

QUESTION = "Fact: {prompt} {target}\nQuestion: {query}\nDoes the fact answer the question?"
YES, NO = " Yes", " No"
log = logging.getLogger(__name__)


class Bm25Retriever:
    """Similarity by BM25 over the tokens of prompts, as a share of the edit's similarity to itself."""

    def __init__(self, settings: Bm25, model: LanguageModel, prompts: Sequence[str]) -> None:
        self._settings, self._model = settings, model
        self._counts = [Counter(ids) for ids in encode_prompts(model, prompts)]
        self._holders = Counter(token for counts in self._counts for token in counts)
        self._mean_length = sum(counts.total() for counts in self._counts) / max(len(prompts), 1)
        self._own = [self._score(counts, counts) for counts in self._counts]

    def __call__(self, prompts: Sequence[str]) -> Float[Tensor, "n entries"]:
        """Shares of prompts, as asked."""
        asked = [Counter(ids) for ids in encode_prompts(self._model, prompts)]
        found = [[self._score(query, counts) / own for counts, own in zip(self._counts, self._own, strict=True)] for query in asked]
        return torch.tensor(found, dtype=torch.float64).reshape(len(prompts), len(self._counts))

    def _score(self, query: Mapping[int, int], counts: Counter[int]) -> float:
        k1, b = self._settings.k1, self._settings.b
        length = 1 - b + b * counts.total() / self._mean_length
        return sum(
            times * self._rarity(token) * counts[token] * (k1 + 1) / (counts[token] + k1 * length)
            for token, times in query.items()
            if token in counts
        )

    def _rarity(self, token: int) -> float:
        holders = self._holders[token]
        return math.log(1 + (len(self._counts) - holders + 0.5) / (holders + 0.5))


class CosineRetriever:
    """Similarity by the cosine of an encoder's vectors."""

    def __init__(self, encode: Encode, embeddings: Float[Tensor, "entries m"]) -> None:
        self._encode, self._embeddings = encode, torch.nn.functional.normalize(embeddings, dim=1)

    def __call__(self, prompts: Sequence[str]) -> Float[Tensor, "n entries"]:
        """Cosines of prompts."""
        vectors = torch.nn.functional.normalize(self._encode(prompts), dim=1)
        return (vectors[:, None] * self._embeddings).sum(2)  # a row at a time: no prompt's cosine depends on the others


class Placed(NamedTuple):
    """A prompt's route, how many demonstrations stand before it, and for how many there was no room."""

    route: Route = Route()
    demonstrations: int = 0
    left_out: int = 0


class ContextRouter:
    """The routes of prompts by a memory: the model itself, with the edits that are near before the prompt."""

    def __init__(self, settings: InContext, model: LanguageModel, memory: Memory, demonstrator: Demonstrator | None = None) -> None:
        self._settings, self._model, self._memory, self._demonstrator = settings, model, memory, demonstrator

    def __call__(self, prompts: Sequence[str]) -> list[Route]:
        """The texts before prompts; equal prompts have equal ones."""
        once = [*dict.fromkeys(prompts)]
        by_prompt = dict(zip(once, self.place(once), strict=True)) if len(self._memory) else {}
        return [by_prompt.get(prompt, Placed()).route for prompt in prompts]

    @property
    def prompts(self) -> Sequence[str]:
        """The prompts of the edits, by number."""
        return [entry.prompt for entry in self._memory.entries]

    @property
    def bytes(self) -> int:
        """What the records of the edits hold."""
        return self._memory.bytes

    def match(self, prompts: Sequence[str]) -> list[Match]:
        """The nearest edit of each prompt, if it is above the threshold."""
        return [Match(*found[0]) if found else Match(None, 0.0) for found in self.nearest(prompts)]

    def resized(self, count: int) -> "ContextRouter":
        """The router with a number of edits, its own (at least one) again and again."""
        return ContextRouter(self._settings, self._model, self._memory.resized(count), self._demonstrator)

    def nearest(self, prompts: Sequence[str]) -> list[list[tuple[int, float]]]:
        """By prompt the edits above the threshold, the nearest first, those that are equally near by their texts."""
        if not len(self._memory):
            return [[] for _ in prompts]
        least = -math.inf if self._settings.threshold is None else self._settings.threshold
        texts, found = [entry.prompt for entry in self._memory.entries], list[list[tuple[int, float]]]()
        for similarities in self._retrieve([prompt.rstrip(" ") for prompt in prompts]).tolist():
            order = sorted(range(len(similarities)), key=lambda entry, of=similarities: (-of[entry], texts[entry]))
            found.append([(entry, similarities[entry]) for entry in order[: self._settings.k] if similarities[entry] > least])
        return found

    def place(self, prompts: Sequence[str]) -> list[Placed]:
        """What stands before prompts, of which each is there once."""
        near = [[entry for entry, _ in found] for found in self.nearest(prompts)]
        if self._settings.confirm:
            near = self._confirmed(prompts, near)
        placed = [self._place(prompt, entries) for prompt, entries in zip(prompts, near, strict=True)]
        if left_out := sum(one.left_out for one in placed):
            log.debug("no room for %d demonstrations before %d prompts; the farthest are left out", left_out, len(prompts))
        return placed

    def _confirmed(self, prompts: Sequence[str], near: Sequence[Sequence[int]]) -> list[list[int]]:
        """Of the edits near each prompt those that the model says are about it."""
        asked = [(number, entry) for number, entries in enumerate(near) for entry in entries]
        questions = [self._text(QUESTION, entry).replace("{query}", prompts[number]) for number, entry in asked]
        scores = LiveModel(self._model).score(questions * 2, [YES] * len(asked) + [NO] * len(asked)).mean_nll().view(2, -1)
        kept = {pair for pair, yes, no in zip(asked, *scores.tolist(), strict=True) if yes < no}
        return [[entry for entry in entries if (number, entry) in kept] for number, entries in enumerate(near)]

    def _place(self, prompt: str, entries: Sequence[int]) -> Placed:
        """The edits before a prompt, the nearest last, without the farthest where there is no room for all of them."""
        for count in range(len(entries), 0, -1):
            context = "".join(self._text(self._settings.context, entry) for entry in reversed(entries[:count]))
            if self._fits(context + prompt):
                return self._demonstrated(prompt, entries[0], context)
        return Placed()

    def _demonstrated(self, prompt: str, nearest: int, context: str) -> Placed:
        """The same behind as many demonstrations of the nearest edit as there is room for, the nearest of them."""
        texts = () if self._demonstrator is None else self._demonstrator.before(self._memory.entries[nearest])

        def behind(count: int) -> str:
            return "".join(texts[len(texts) - count :]) + context

        count = bisect_left(range(1, len(texts) + 1), 1, key=lambda more: not self._fits(behind(more) + prompt))
        return Placed(Route(1.0, behind(count)), count, len(texts) - count)

    def _fits(self, text: str) -> bool:
        """Whether a text leaves room for a target."""
        (ids,) = encode_all(self._model, [text])
        return len(ids) + ROOM <= self._model.max_positions

    def _text(self, template: str, number: int) -> str:
        entry = self._memory.entries[number]
        return context_of(template, entry.prompt, entry.target)

    @cached_property
    def _retrieve(self) -> Retrieve:
        entries, retriever = self._memory.entries, self._settings.retriever
        if isinstance(retriever, Bm25):
            return Bm25Retriever(retriever, self._model, [entry.prompt.rstrip(" ") for entry in entries])
        return CosineRetriever(encoder_of(retriever, self._model), torch.stack([entry.embedding for entry in entries]))


def retriever_of(settings: InContext, model: LanguageModel, prompts: Sequence[str]) -> Retrieve:
    """What compares other prompts with some, as a memory's are compared."""
    if isinstance(settings.retriever, Bm25):
        return Bm25Retriever(settings.retriever, model, prompts)
    encode = encoder_of(settings.retriever, model)
    return CosineRetriever(encode, encode(prompts))


def demonstrator_of(settings: InContext, model: LanguageModel, prepared: Prepared) -> Demonstrator | None:
    """What stands before edits; None where nothing does."""
    if settings.demonstrations is None:
        return None
    facts = read_demonstrations(prepared.extras)
    return Demonstrator(settings.demonstrations, settings.context, facts, partial(retriever_of, settings, model))


class InContextSession:
    """Editing in progress; the model itself is never changed."""

    def __init__(self, settings: InContext, model: LanguageModel, prepared: Prepared, state: State) -> None:
        self._settings, self._model, self._records = settings, model, list[StepRecord](state.records)
        self._memory, self._demonstrator = Memory.of(self._records), demonstrator_of(settings, model, prepared)

    @torch.no_grad()
    def step(self, batch: Sequence[EditRequest], targets: Targets | None) -> StepLog:
        """Add a request to the memory."""
        (request,) = batch
        before = self._router()
        near = before.nearest([request.prompt])[0]
        entry = MemoryEntry(request.prompt, request.target, self._embedding(request.prompt))
        self._records.append(entry.record)
        self._memory = self._memory.joined(entry)
        after = self._router()
        found_again = after.nearest([request.prompt])[0]
        views = [view_of(self._model, router) for router in (before, after)]
        probabilities = [math.exp(-float(view.score([request.prompt], [request.target]).mean_nll()[0])) for view in views]
        found = {
            "target_probability_before": probabilities[0],
            "target_probability_after": probabilities[1],
            "entries": float(len(self._memory)),
            "nearest_similarity": near[0][1] if near else 0.0,
            "routed_back": float(bool(found_again) and found_again[0][0] == len(self._memory) - 1),
        }
        if self._demonstrator is not None:
            (placed,) = after.place([request.prompt])
            found |= {"demonstrations": float(placed.demonstrations), "demonstrations_left_out": float(placed.left_out)}
        return StepLog(tuple((quantity, None, number) for quantity, number in found.items()))

    def state(self) -> State:
        """The records so far."""
        return RecordState("memory", tuple(self._records))

    def live(self) -> RoutedModel:
        """The model with the memory so far."""
        return view_of(self._model, self._router())

    def _router(self) -> ContextRouter:
        return ContextRouter(self._settings, self._model, self._memory, self._demonstrator)

    def _embedding(self, prompt: str) -> Float[Tensor, " m"]:
        if isinstance(self._settings.retriever, Bm25):
            return torch.empty(0)
        return encoder_of(self._settings.retriever, self._model)([prompt.rstrip(" ")])[0]


def view_of(model: LanguageModel, router: ContextRouter) -> RoutedModel:
    """The model that reads the edits of a memory before prompts near to them."""
    return RoutedModel(LiveModel(model), LiveModel(model), router)


class InContextEditor(RecordEditor):
    """The memory as an editor."""

    kind: StateKind = "memory"

    def __init__(self, settings: InContext) -> None:
        self.settings = settings

    @contextmanager
    def editing(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[InContextSession]:
        """A session that continues from a state."""
        yield InContextSession(self.settings, model, prepared, state)

    @contextmanager
    def edited(self, model: LanguageModel, prepared: Prepared, state: State) -> Iterator[RoutedModel]:
        """The model with the memory that a state's records spell."""
        yield view_of(model, ContextRouter(self.settings, model, Memory.of(state.records), demonstrator_of(self.settings, model, prepared)))

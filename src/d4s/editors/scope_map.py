"""The trained part of SERAC's router: a linear map of prompts' vectors, and the scale of the similarity exp(− c · ‖a − b‖²).

Trained as the release trains its router: mean − log s of pairs in scope, plus mean − log(1 − s) of pairs out of scope, so that
neither kind outweighs the other, however many there are of it.

Terms and symbols: docs/notation.md.
"""

import copy
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from d4s.editors.parts.scope_settings import ScopeSettings
from d4s.editors.scope_examples import ScopeExample, ScopeExamples
from d4s.questions.question_items import keyed_rng

log = logging.getLogger(__name__)
MAP, SCALE = "scope.map", "scope.scale"
FACTS_PER_STEP, NEGATIVES = 16, 4
SMALLEST = 1e-6  # − log s of the nearest pair that log(1 − s) is taken of


@dataclass(frozen=True, slots=True)
class ScopeMap:
    """A map of vectors, and the scale of squared distances between what it gives."""

    matrix: Float[Tensor, "width m"]
    scale: Float[Tensor, ""]

    @classmethod
    def of(cls, extras: Mapping[str, Tensor]) -> "ScopeMap":
        """The map among an editor's prepared tensors."""
        return cls(extras[MAP], extras[SCALE])

    def tensors(self) -> dict[str, Tensor]:
        """The map as prepared tensors."""
        return {MAP: self.matrix, SCALE: self.scale}

    def embed(self, vectors: Float[Tensor, "n m"]) -> Float[Tensor, "n width"]:
        """Embeddings of vectors."""
        return vectors @ self.matrix.mT

    def log_similarity(self, left: Float[Tensor, "*n width"], right: Float[Tensor, "*n width"]) -> Float[Tensor, "*n"]:
        """− c · ‖a − b‖² of embeddings, pair by pair."""
        return -self.scale * (left - right).square().sum(-1)


def balanced_loss(inside: Float[Tensor, " p"], outside: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean − log s of pairs in scope plus mean − log(1 − s) of pairs out of scope, from log s."""
    return -inside.mean() - (-torch.expm1(outside.clamp(max=-SMALLEST))).log().mean()


def train_map(settings: ScopeSettings, examples: ScopeExamples, vectors: Float[Tensor, "t m"]) -> ScopeMap:
    """The map that separates facts best on those held out; `vectors` are of the texts of the examples.

    It begins at random, the scale at one over the mean squared distance of pairs in scope.
    """
    rng = np.random.default_rng([settings.seed, 0])
    held = _pairs(settings, examples.held_out, examples, keyed_rng("held out", settings.seed))
    m = vectors.shape[1]
    matrix = torch.from_numpy(rng.normal(0, m**-0.5, (settings.width, m))).float().requires_grad_()
    first = _pairs(settings, examples.learnt, examples, keyed_rng("first pairs", settings.seed))
    begin = first_scale(vectors, first, matrix.detach()) if settings.scale == "trained" else settings.scale
    log_scale = torch.tensor(begin).log().requires_grad_(settings.scale == "trained")
    trained = [matrix, *([log_scale] if settings.scale == "trained" else [])]
    adam, best, waited = torch.optim.Adam(trained, lr=settings.lr), (float("inf"), matrix, log_scale), 0
    for epoch in range(settings.epochs):
        order = rng.permutation(len(examples.learnt))
        for start in range(0, len(order), FACTS_PER_STEP):
            chosen = [examples.learnt[int(place)] for place in order[start : start + FACTS_PER_STEP]]
            loss = _loss(ScopeMap(matrix, log_scale.exp()), vectors, _pairs(settings, chosen, examples, rng))
            for parameter, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
                parameter.grad = gradient
            adam.step()
        with torch.no_grad():
            found = float(_loss(ScopeMap(matrix, log_scale.exp()), vectors, held))
        log.debug("router, pass %d: loss %.3f on held-out facts", epoch + 1, found)
        best, waited = ((found, *copy.deepcopy((matrix, log_scale))), 0) if found < best[0] else (best, waited + 1)
        if waited == settings.patience:
            break
    return ScopeMap(best[1].detach(), best[2].detach().exp())


def first_scale(vectors: Float[Tensor, "t m"], pairs: "Pairs", matrix: Float[Tensor, "width m"]) -> float:
    """One over the mean squared distance of pairs in scope."""
    entries, queries = pairs.inside.unbind(1)
    return 1.0 / max(float(((vectors[entries] - vectors[queries]) @ matrix.mT).square().sum(1).mean()), SMALLEST)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Numbers of texts, an entry and a query each, in scope and out of it."""

    inside: Int[Tensor, "p two"]
    outside: Int[Tensor, "n two"]


def _pairs(settings: ScopeSettings, chosen: Sequence[ScopeExample], examples: ScopeExamples, rng: np.random.Generator) -> Pairs:
    """Of every fact one wording as entry, another as query in scope, and as many near misses as far ones among the negatives.

    Far ones are about other subjects of the same part, learnt or held out.
    """
    part = examples.held_out if chosen is examples.held_out else examples.learnt
    inside, outside, numbers = list[tuple[int, int]](), list[tuple[int, int]](), examples.texts
    for one in chosen:
        entry, query = (one.wordings[int(place)] for place in rng.permutation(len(one.wordings))[:2])
        inside.append((numbers[entry], numbers[query]))
        near = itertools.islice(itertools.cycle(one.near), NEGATIVES // 2 if settings.near_misses and one.near else 0)
        far = [other for other in part if other.fact.subject != one.fact.subject]
        texts = [_pick(rng, kind) for kind in near]
        texts += [_pick(rng, far[int(rng.integers(len(far)))].wordings) for _ in range(NEGATIVES - len(texts) if far else 0)]
        outside += [(numbers[entry], numbers[text]) for text in texts]
    return Pairs(torch.tensor(inside), torch.tensor(outside).view(-1, 2))


def _pick(rng: np.random.Generator, texts: Sequence[str]) -> str:
    return texts[int(rng.integers(len(texts)))]


def _loss(router: ScopeMap, vectors: Float[Tensor, "t m"], pairs: Pairs) -> Float[Tensor, ""]:
    inside, outside = (_log_similarities(router, vectors, part) for part in (pairs.inside, pairs.outside))
    return balanced_loss(inside, outside)


def _log_similarities(router: ScopeMap, vectors: Float[Tensor, "t m"], pairs: Int[Tensor, "k two"]) -> Float[Tensor, " k"]:
    return router.log_similarity(*(router.embed(vectors[side]) for side in pairs.unbind(1)))


@torch.no_grad()
def held_out_rates(settings: ScopeSettings, router: ScopeMap, examples: ScopeExamples, vectors: Float[Tensor, "t m"]) -> dict[str, float]:
    """Recall of a router at the threshold on held-out facts, and its precision against each kind of negative.

    Entries are the facts' own prompts. Precision counts pairs in scope and pairs of one kind out of scope alike.
    """
    queries: dict[str, list[tuple[int, int]]] = {"in_scope": [], "same_subject": [], "shared_name": [], "far": []}
    for one in examples.held_out:
        others = [other.wordings[0] for other in examples.held_out if other.fact.subject != one.fact.subject]
        kinds = {"in_scope": one.wordings[1:], "same_subject": one.same_subject, "shared_name": one.shared_name, "far": others}
        for kind, texts in kinds.items():
            queries[kind] += [(examples.texts[one.wordings[0]], examples.texts[text]) for text in texts]
    routed = {
        kind: float((_log_similarities(router, vectors, torch.tensor(pairs)).exp() > settings.threshold).double().mean())
        for kind, pairs in queries.items()
        if pairs
    }
    recall = routed.pop("in_scope")
    precision = {f"precision_{kind}": recall / (recall + share) if recall + share else 0.0 for kind, share in routed.items()}
    return {"recall": recall, **precision}

"""A routed model whose two models answer together: next-token probabilities (1 − s) · p + s · q at every token, s by prompt.

This is how EasyEdit runs SERAC, in training and at test. A prompt with s = 0 is the first model's alone, bit for bit.

Terms and symbols: docs/notation.md.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from d4s.models.edited_model import Scores, StopCriterion
from d4s.models.language_model import LanguageModel
from d4s.models.routed_model import RoutedModel, Router, merge_scores
from d4s.models.tokens import encode_pairs, encode_prompts
from d4s.models.views import LiveModel, draw_tokens

ROWS_PER_PASS = 32
Choose = Callable[[Float[Tensor, "n vocab"], Sequence[int], int], Int[Tensor, " n"]]
"""The next token of rows, from log-probabilities, the numbers of their prompts, and how many tokens were written before."""


class MixedPrompt(NamedTuple):
    """A prompt with its share, as ids for the first model and, with text before it, for the other."""

    share: float
    base: list[int]
    other: list[int]


class MixedModel(RoutedModel):
    """A routed model that mixes where a route's share is neither 0 nor 1."""

    def __init__(self, base: LiveModel, other: LiveModel, router: Router) -> None:
        super().__init__(base, other, router)
        self._models, self._ends = (base.model, other.model), {*base.end_tokens()}

    def score_and_generate(
        self,
        prompts: Sequence[str],
        targets: Sequence[str],
        generation_prompts: Sequence[str],
        max_new_tokens: int,
        should_stop: StopCriterion | None = None,
    ) -> tuple[Scores, list[str]]:
        """Scores of targets after prompts and greedy continuations of other prompts."""
        whole, mixed = self._split(prompts)
        whole_written, mixed_written = self._split(generation_prompts)
        asked = [prompts[place] for place in whole], [targets[place] for place in whole]
        scores, found = super().score_and_generate(
            *asked, [generation_prompts[place] for place in whole_written], max_new_tokens, should_stop
        )
        own = self._mixed_scores([prompts[place] for place in mixed], [targets[place] for place in mixed])
        continued = [generation_prompts[place] for place in mixed_written]
        written = self._write(continued, _likeliest, max_new_tokens, should_stop)
        texts = dict(zip((*whole_written, *mixed_written), (*found, *written), strict=True))
        return merge_scores([(whole, scores), (mixed, own)], len(prompts)), [texts[place] for place in range(len(texts))]

    def sample(self, prompts: Sequence[str], draws: Float[Tensor, "n t"], top_k: int) -> list[str]:
        """Continuations drawn from the likeliest tokens, each row by numbers of its own (see `EditedModel.sample`)."""
        whole, mixed = self._split(prompts)
        found = super().sample([prompts[place] for place in whole], draws[whole], top_k)
        choose = partial(_draw, draws=draws[mixed], top_k=top_k)
        texts = dict(
            zip((*whole, *mixed), (*found, *self._write([prompts[place] for place in mixed], choose, draws.shape[1])), strict=True)
        )
        return [texts[place] for place in range(len(texts))]

    def _split(self, prompts: Sequence[str]) -> tuple[list[int], list[int]]:
        """The places of prompts that one model answers, and of those that both do."""
        is_mixed = [0 < route.share < 1 for route in self.router(prompts)]
        return [place for place, mixed in enumerate(is_mixed) if not mixed], [place for place, mixed in enumerate(is_mixed) if mixed]

    # --- both models --------------------------------------------------------------------------------------------------

    def _mixed_scores(self, prompts: Sequence[str], targets: Sequence[str]) -> Scores:
        routes = self.router(prompts)
        pairs = encode_pairs(self._models[0], prompts, targets)
        others = encode_pairs(self._models[1], [route.context + prompt for route, prompt in zip(routes, prompts, strict=True)], targets)
        rows = [
            (MixedPrompt(route.share, ids, context_ids), target)
            for route, (ids, target), (context_ids, _) in zip(routes, pairs, others, strict=True)
        ]
        parts = [(places := [*range(first, min(first + ROWS_PER_PASS, len(rows)))], self._scores_of([rows[k] for k in places]))
                 for first in range(0, len(rows), ROWS_PER_PASS)]  # fmt: skip
        return merge_scores(parts, len(rows))

    def _scores_of(self, rows: Sequence[tuple[MixedPrompt, list[int]]]) -> Scores:
        counts = [len(target) for _, target in rows]
        log_probs = self._log_probs([MixedPrompt(row.share, row.base + ids[:-1], row.other + ids[:-1]) for row, ids in rows], counts)
        tokens, width = torch.tensor([token for _, target in rows for token in target]), max(counts)
        mask = torch.arange(width) < torch.tensor(counts)[:, None]
        nll, predicted, correct = torch.zeros(mask.shape), torch.zeros(mask.shape, dtype=torch.long), torch.zeros_like(mask)
        nll[mask] = -log_probs.gather(1, tokens[:, None])[:, 0]
        predicted[mask] = log_probs.argmax(1)
        correct[mask] = predicted[mask] == tokens
        return Scores(nll=nll, correct=correct, predicted=predicted, mask=mask)

    def _log_probs(self, rows: Sequence[MixedPrompt], counts: Sequence[int]) -> Float[Tensor, "k vocab"]:
        """Mixed log-probabilities of what follows each of the last `counts` tokens of every row."""
        base = last_log_probs(self._models[0], [row.base for row in rows], counts)
        other = last_log_probs(self._models[1], [row.other for row in rows], counts)
        shares = torch.tensor([row.share for row in rows], dtype=torch.float64).repeat_interleave(torch.tensor(counts))[:, None]
        return torch.logaddexp(base + (1 - shares).log(), other + shares.log()).float()

    def _write(self, prompts: Sequence[str], choose: Choose, max_new_tokens: int, should_stop: StopCriterion | None = None) -> list[str]:
        """Continuations token by token, every one by passes over all that stands before it."""
        routes = self.router(prompts)
        contexts = [route.context + prompt for route, prompt in zip(routes, prompts, strict=True)]
        base, other = (encode_prompts(model, texts) for model, texts in zip(self._models, (prompts, contexts), strict=True))
        written, texts, going = [list[int]() for _ in prompts], [""] * len(prompts), [*range(len(prompts))]
        for place in range(max_new_tokens):
            going = [number for number in going if len(other[number]) + place <= self._models[1].max_positions]
            if not going:
                break
            rows = [MixedPrompt(routes[k].share, base[k] + written[k], other[k] + written[k]) for k in going]
            for number, token in zip(going, choose(self._log_probs(rows, [1] * len(rows)), going, place).tolist(), strict=True):
                written[number].append(token)
            going = [number for number in going if written[number][-1] not in self._ends]
            for number in going:
                texts[number] = self._models[0].tokenizer.batch_decode([written[number]], skip_special_tokens=True)[0]
            going = [number for number in going if should_stop is None or not should_stop(prompts[number], texts[number])]
        return texts


@torch.no_grad()
def last_log_probs(model: LanguageModel, rows: Sequence[Sequence[int]], counts: Sequence[int]) -> Float[Tensor, "k vocab"]:
    """Log-probabilities, in float64 on the CPU, of what follows each of the last `counts` tokens of every row of ids."""
    width = max(map(len, rows))
    ids = torch.tensor([(*row, *(0,) * (width - len(row))) for row in rows], device=model.device)
    hidden = model.network.base_model(input_ids=ids, use_cache=False).last_hidden_state
    places = [
        (number, place) for number, (row, count) in enumerate(zip(rows, counts, strict=True)) for place in range(len(row) - count, len(row))
    ]
    number, place = torch.tensor(places, device=hidden.device).unbind(1)
    return model.unembed(hidden[number, place]).double().log_softmax(1).cpu()


def _likeliest(log_probs: Float[Tensor, "n vocab"], numbers: Sequence[int], place: int) -> Int[Tensor, " n"]:
    return log_probs.argmax(1)


def _draw(
    log_probs: Float[Tensor, "n vocab"], numbers: Sequence[int], place: int, draws: Float[Tensor, "m t"], top_k: int
) -> Int[Tensor, " n"]:
    return draw_tokens(log_probs, draws[list(numbers), place], top_k)

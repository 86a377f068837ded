"""A language model with its present weights as an `EditedModel`; results do not depend on how work is batched.

A prompt is read once, however many targets are scored after it and whether or not it is continued: targets and continuations
start from its cache. Rows are padded on the right, where causal attention cannot see it, or grouped by equal length, so no attention
mask is needed; equal token sequences run once; the LM head runs only at positions that predict a token.
"""

import copy
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from d4s.models.edited_model import Scores, StopCriterion
from d4s.models.language_model import LanguageModel
from d4s.models.pass_sizes import LOGITS_PER_CHUNK, TOKENS_ON_ACCELERATORS, TOKENS_ON_CPU
from d4s.models.tokens import Pair, encode_pairs, encode_prompts

MAX_WIDTH_RATIO = 1.25  # a row longer than the first of its batch by more than this opens a new one: all rows run to the longest
PADDING_PER_PASS = 24  # tokens of filler that cost no more than another pass, so that few rows are not split
MIN_ACTIVE_SHARE = 0.75  # rows that are still written, as a share of those that run, below which the others are taken out
Ids = tuple[int, ...]
Tails = dict[Ids, list[int]]  # by the ids that run after a prompt, the indices of the pairs that need them


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens that run together: from `start` on they predict target tokens, from `column` on, of the pairs with these indices.

    `parent` is the row of the prompt read before, if any.
    """

    tokens: Ids
    start: int
    column: int
    pairs: Sequence[int]
    parent: int = 0


class _ScoreTable:
    """The scores of pairs while they are being filled in."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        shape = len(pairs), max((len(target) for _, target in pairs), default=0)
        self.nll, self.predicted = torch.zeros(shape), torch.zeros(shape, dtype=torch.long)
        self.expected = torch.full(shape, -1)
        for number, (_, target) in enumerate(pairs):
            self.expected[number, : len(target)] = torch.tensor(target, dtype=torch.long)

    def scores(self) -> Scores:
        """The scores, once all are filled in."""
        mask = self.expected >= 0
        return Scores(nll=self.nll, correct=(self.predicted == self.expected) & mask, predicted=self.predicted, mask=mask)


class LiveModel:
    """An `EditedModel` over a language model with its weights at each call; `reference` has the unedited weights by layer."""

    def __init__(
        self,
        model: LanguageModel,
        reference: Mapping[int, Float[Tensor, "d_out d_in"]] | None = None,
        tokens_per_batch: int | None = None,
    ) -> None:
        self.model = model
        self.reference = reference
        self.tokens_per_batch = tokens_per_batch or (TOKENS_ON_CPU if model.device.type == "cpu" else TOKENS_ON_ACCELERATORS)

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> Scores:
        """Teacher-forced scores of each target after its prompt, float32 on the CPU."""
        return self.score_ids(encode_pairs(self.model, prompts, targets))

    def score_ids(self, pairs: Sequence[Pair]) -> Scores:
        """Teacher-forced scores of target ids after prompt ids."""
        return self._score_and_generate(pairs, (), 0, lambda _ids, _text: True)[0]

    def generate(self, prompts: Sequence[str], max_new_tokens: int, should_stop: StopCriterion | None = None) -> list[str]:
        """Greedy continuations, without the prompt, up to the end-of-text token, the last position, or where `should_stop` holds."""
        return self.score_and_generate((), (), prompts, max_new_tokens, should_stop)[1]

    def score_and_generate(
        self,
        prompts: Sequence[str],
        targets: Sequence[str],
        generation_prompts: Sequence[str],
        max_new_tokens: int,
        should_stop: StopCriterion | None = None,
    ) -> tuple[Scores, list[str]]:
        """Scores of targets after prompts and greedy continuations of other prompts; shared prompts are read once."""
        inputs = [tuple(ids) for ids in encode_prompts(self.model, generation_prompts)]
        prompts_of: dict[Ids, list[str]] = {}
        for ids, prompt in zip(inputs, generation_prompts, strict=True):
            prompts_of.setdefault(ids, []).append(prompt)

        def should_stop_all(ids: Ids, text: str) -> bool:
            return should_stop is not None and all(should_stop(prompt, text) for prompt in prompts_of[ids])

        scores, texts = self._score_and_generate(encode_pairs(self.model, prompts, targets), prompts_of, max_new_tokens, should_stop_all)
        return scores, [texts[ids] for ids in inputs]

    @torch.no_grad()
    def sample(self, prompts: Sequence[str], draws: Float[Tensor, "n t"], top_k: int) -> list[str]:
        """Continuations drawn from the likeliest tokens, each row by numbers of its own (see `EditedModel.sample`)."""
        inputs = [tuple(ids) for ids in encode_prompts(self.model, prompts)]
        self._check_lengths([*map(len, inputs)])
        texts = [""] * len(inputs)
        for rows in self._batches([Row(ids, len(ids) - 1, 0, (number,)) for number, ids in enumerate(inputs)], max_ratio=1.0):
            numbers = [row.pairs[0] for row in rows]
            written = self._draw_tokens([row.tokens for row in rows], draws[numbers], top_k)
            for number, text in zip(numbers, self._decoded(written), strict=True):
                texts[number] = text
        return texts

    def text_nll(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, " n"]:
        """Summed negative log-likelihood (nats) of each row of token ids; the first token of a row is context."""
        return self.score_ids([([int(row[0])], [int(token) for token in row[1:]]) for row in rows]).joint_nll()

    def weight_changes(self) -> Mapping[int, Float[Tensor, "d_out d_in"]] | None:
        """Present minus reference weights by layer, in float32 or better; None without a reference."""
        if self.reference is None:
            return None
        return {layer: _wide(self.model.weight(layer)) - _wide(before) for layer, before in self.reference.items()}

    # --- passes ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _score_and_generate(
        self, pairs: Sequence[Pair], generation_prompts: Collection[Ids], max_new_tokens: int, should_stop: Callable[[Ids, str], bool]
    ) -> tuple[Scores, dict[Ids, str]]:
        """Scores of pairs, and continuations by prompt."""
        table, tails, texts = _ScoreTable(pairs), _tails(pairs), dict[Ids, str]()
        prompts = [*dict.fromkeys((*generation_prompts, *tails))]
        self._check_lengths([len(prompt) + max(map(len, tails.get(prompt, [()]))) for prompt in prompts])
        once = {prompt for prompt in prompts if prompt in generation_prompts or _is_cache_worthwhile(prompt, tails[prompt])}
        whole = [_whole_row(prompt, tail, pairs) for prompt in prompts if prompt not in once for tail, pairs in tails[prompt].items()]
        for rows in self._batches(whole):
            self._run(table, rows)
        for rows in self._batches([_prompt_row(prompt, tails.get(prompt, {})) for prompt in prompts if prompt in once], max_ratio=1.0):
            cache = self._new_cache()
            token = self._run(table, rows, cache)
            later = [tail for number, row in enumerate(rows) for tail in _tail_rows(number, tails.get(row.tokens, {}))]
            for part in self._batches(later):
                self._run(table, part, _select_rows(cache, [row.parent for row in part]))
            going = [number for number, row in enumerate(rows) if row.tokens in generation_prompts]
            if going:
                batch = [rows[number].tokens for number in going]
                texts |= self._write(batch, _select_rows(cache, going), token[going], max_new_tokens, should_stop)
        return table.scores(), texts

    def _batches(self, rows: Sequence[Row], max_ratio: float = MAX_WIDTH_RATIO) -> Iterator[list[Row]]:
        """Batches of rows of similar length, of at most `tokens_per_batch` tokens with padding."""
        batch: list[Row] = []
        real = 0
        for row in sorted(rows, key=lambda row: len(row.tokens)):
            width = len(row.tokens)
            is_wider = width > max_ratio * len(batch[0].tokens) if batch else False
            has_padding = max_ratio == 1 or len(batch) * width - real > PADDING_PER_PASS
            if batch and ((len(batch) + 1) * width > self.tokens_per_batch or (is_wider and has_padding)):
                yield batch
                batch, real = [], 0
            batch.append(row)
            real += width
        if batch:
            yield batch

    def _check_lengths(self, lengths: Sequence[int]) -> None:
        """Refuse inputs that are empty or exceed the model's positions.

        Raises:
            ValueError: naming the lengths.
        """
        if lengths and (min(lengths) == 0 or max(lengths) > self.model.max_positions):
            raise ValueError(f"inputs must have 1 to {self.model.max_positions} tokens, found {min(lengths)} to {max(lengths)}")

    def _run(self, table: _ScoreTable, rows: Sequence[Row], cache: DynamicCache | None = None) -> Int[Tensor, " n"]:
        """Run rows and fill in their scores; returns the likeliest token at each predicting position."""
        last = torch.tensor([self._last_read(row) for row in rows]) if rows[0].column == 0 else None
        hidden = self._hidden(_padded([row.tokens for row in rows], self.model.device), cache, last)
        at = [(number, place) for number, row in enumerate(rows) for place in range(row.start, len(row.tokens))]
        number, place = torch.tensor(at, device=hidden.device).unbind(1)
        firsts = itertools.accumulate((len(row.tokens) - row.start for row in rows), initial=0)
        reads = [
            (first + place, pair, row.column + place)
            for first, row in zip(firsts, rows, strict=False)
            for pair in row.pairs
            for place in range(len(row.tokens) - row.start)
        ]
        return self._fill_scores(table, hidden[number, place], torch.tensor(reads, dtype=torch.long).view(-1, 3))

    def _new_cache(self) -> DynamicCache:
        """An empty cache, in which prompts are kept that are to be continued."""
        return DynamicCache(config=self.model.network.config)

    def _last_read(self, row: Row) -> int:
        """Where the prompt of a row that begins with one ends: what a memory decides by."""
        return row.start

    def _hidden(
        self, ids: Int[Tensor, "n t"], cache: DynamicCache | None = None, last: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n t d_out"]:
        """Hidden states after the final norm; with a cache, of the tokens that follow it, which are added to it.

        Where rows begin with a prompt, `last` is the position of its last token in each row; else rows continue what the cache holds.
        """
        return self.model.network.base_model(input_ids=ids, past_key_values=cache, use_cache=cache is not None).last_hidden_state

    def _fill_scores(self, table: _ScoreTable, hidden: Float[Tensor, "n d_out"], reads: Int[Tensor, "k 3"]) -> Int[Tensor, " n"]:
        """Score target tokens, each from a hidden state, for a pair and column; returns the likeliest token of every hidden state."""
        size, likeliest = max(1, LOGITS_PER_CHUNK // self.model.network.config.get_text_config().vocab_size), list[Tensor]()
        for start, part in zip(range(0, len(hidden), size), hidden.split(size), strict=True):
            logits = self.model.unembed(part).float()
            likeliest.append(logits.argmax(1).cpu())
            row, pair, column = reads[(reads[:, 0] >= start) & (reads[:, 0] < start + size)].unbind(1)
            row, total = row - start, logits.logsumexp(1).cpu()
            table.nll[pair, column] = total[row] - logits[row.to(logits.device), table.expected[pair, column].to(logits.device)].cpu()
            table.predicted[pair, column] = likeliest[-1][row]
        return torch.cat(likeliest)

    def _write(
        self,
        batch: Sequence[Ids],
        cache: DynamicCache,
        token: Int[Tensor, " n"],
        max_new_tokens: int,
        should_stop: Callable[[Ids, str], bool],
    ) -> dict[Ids, str]:
        """Greedy continuations by prompt, for cached prompts of equal length, from the tokens that follow them."""
        ends, running = {*self.end_tokens()}, [*range(len(batch))]
        written: list[list[int]] = [[] for _ in batch]
        texts, going = [""] * len(batch), {*running}
        for left in reversed(range(min(max_new_tokens, self.model.max_positions - len(batch[0]) + 1))):
            for number, found in zip(running, token.tolist(), strict=True):
                if number in going and found not in ends:
                    written[number].append(found)
                else:
                    going.discard(number)
            for number, text in zip(now := sorted(going), self._decoded([written[number] for number in now]), strict=True):
                texts[number] = text
                if should_stop(batch[number], text):
                    going.discard(number)
            if not left or not going:
                break
            if len(going) < MIN_ACTIVE_SHARE * len(running):
                kept = [row for row, number in enumerate(running) if number in going]
                running, token, cache = [running[row] for row in kept], token[kept], _select_rows(cache, kept)
            hidden = self._hidden(token.to(self.model.device)[:, None], cache)[:, -1]
            token = self.model.unembed(hidden).argmax(1).cpu()
        return dict(zip(batch, texts, strict=True))

    def _draw_tokens(self, batch: Sequence[Ids], draws: Float[Tensor, "n t"], top_k: int) -> list[list[int]]:
        """Tokens drawn after prompts of equal length, each row up to an end token."""
        ends, going, written = {*self.end_tokens()}, {*range(len(batch))}, [list[int]() for _ in batch]
        cache, ids = self._new_cache(), _padded(batch, self.model.device)
        last = torch.full((len(batch),), ids.shape[1] - 1)
        for place in range(min(draws.shape[1], self.model.max_positions - len(batch[0]) + 1)):
            hidden = self._hidden(ids, cache, None if place else last)[:, -1]
            token = draw_tokens(self.model.unembed(hidden).float().cpu(), draws[:, place], top_k)
            for number, found in enumerate(token.tolist()):
                if number in going and found not in ends:
                    written[number].append(found)
                else:
                    going.discard(number)
            if not going:
                break
            ids = token.to(self.model.device)[:, None]
        return written

    def _decoded(self, rows: list[list[int]]) -> list[str]:
        return self.model.tokenizer.batch_decode(rows, skip_special_tokens=True) if rows else []

    def end_tokens(self) -> list[int]:
        """The ids after which a text is over."""
        configured = getattr(self.model.network.generation_config, "eos_token_id", None)
        ids = configured if isinstance(configured, list) else [configured]
        return sorted({int(token) for token in (*ids, self.model.tokenizer.eos_token_id) if isinstance(token, int)})


def draw_tokens(logits: Float[Tensor, "n vocab"], draws: Float[Tensor, " n"], top_k: int) -> Int[Tensor, " n"]:
    """One of the likeliest tokens of every row, by a number between 0 and 1."""
    values, tokens = logits.double().topk(min(top_k, logits.shape[1]), dim=1)
    below = values.softmax(1).cumsum(1) <= draws.double()[:, None]
    return tokens.gather(1, below.sum(1, keepdim=True).clamp(max=tokens.shape[1] - 1))[:, 0]


def _tails(pairs: Sequence[Pair]) -> dict[Ids, Tails]:
    """By prompt and by the ids that run after it (a target without its last token), the indices of the pairs."""
    found: dict[Ids, Tails] = {}
    for number, (prompt, target) in enumerate(pairs):
        if target:
            found.setdefault(tuple(prompt), {}).setdefault(tuple(target[:-1]), []).append(number)
    return found


def _is_cache_worthwhile(prompt: Ids, tails: Tails) -> bool:
    """Whether reading a prompt first and then its targets saves tokens: more are spared than added."""
    return (len(tails) - 1) * len(prompt) > sum(map(len, tails))


def _whole_row(prompt: Ids, tail: Ids, pairs: Sequence[int]) -> Row:
    return Row(prompt + tail, len(prompt) - 1, 0, pairs)


def _prompt_row(prompt: Ids, tails: Tails) -> Row:
    return Row(prompt, len(prompt) - 1, 0, [pair for pairs in tails.values() for pair in pairs])


def _tail_rows(parent: int, tails: Tails) -> Iterator[Row]:
    """Rows of the targets after a prompt that was read."""
    return (Row(tail, 0, 1, pairs, parent) for tail, pairs in tails.items() if tail)


def _select_rows(cache: DynamicCache, rows: Sequence[int]) -> DynamicCache:
    """Some rows of a cache, in any order and number, as a cache that can be continued without changing the original."""
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    branch.batch_select_indices(torch.tensor(rows))
    return branch


def _padded(inputs: Sequence[Ids], device: torch.device) -> Int[Tensor, "n t"]:
    """Ids padded on the right; causal attention keeps real tokens from seeing the padding."""
    width = max(map(len, inputs))
    return torch.tensor([(*ids, *(0,) * (width - len(ids))) for ids in inputs], device=device)


def _wide(weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
    return weight.to(torch.promote_types(weight.dtype, torch.float32))

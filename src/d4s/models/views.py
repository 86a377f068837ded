"""A language model, as its weights are now, in the form that measuring sees; nothing here depends on how work is batched.

Prompts are padded on the right, where causal attention cannot see it, or grouped by equal length, so that no attention
mask is needed; equal token sequences run once; the LM head runs only where a target token is predicted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from d4s.models.edited import Scores
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import Pair, encode_pairs, encode_prompt

TOKENS_PER_BATCH = {"cpu": 1024}  # what stays in a core's caches
TOKENS_ON_ACCELERATORS = 16_384
LOGITS_PER_CHUNK = 2**26
Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """One target token: its pair, its column there, where its logits are read, and itself."""

    pair: int
    column: int
    position: int
    token: int


class LiveModel:
    """An `EditedModel` over a language model as it is at each call; `reference` holds the unedited weights by layer."""

    def __init__(
        self,
        model: LanguageModel,
        reference: Mapping[int, Float[Tensor, "d_out d_in"]] | None = None,
        tokens_per_batch: int | None = None,
    ) -> None:
        self.model = model
        self.reference = reference
        self.tokens_per_batch = tokens_per_batch or TOKENS_PER_BATCH.get(model.device.type, TOKENS_ON_ACCELERATORS)

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> Scores:
        """Teacher-forced scores of each target after its prompt, in float32 and on the CPU."""
        return self.score_ids(encode_pairs(self.model, prompts, targets))

    @torch.no_grad()
    def score_ids(self, pairs: Sequence[Pair]) -> Scores:
        """Teacher-forced scores of target ids after prompt ids."""
        width = max((len(target) for _, target in pairs), default=0)
        nll = torch.zeros(len(pairs), width)
        predicted = torch.zeros(len(pairs), width, dtype=torch.long)
        expected = torch.full((len(pairs), width), -1)
        places = _places(pairs)
        for inputs in self._batches([*places]):
            hidden = self._hidden(_padded(inputs, self.model.device))
            rows = torch.tensor([row for row, ids in enumerate(inputs) for _ in places[ids]], device=hidden.device)
            flat = [place for ids in inputs for place in places[ids]]
            at = torch.tensor([place.position for place in flat], device=hidden.device)
            tokens = torch.tensor([place.token for place in flat])
            found_nll, found = self._read(hidden[rows, at], tokens)
            index = torch.tensor([place.pair for place in flat]), torch.tensor([place.column for place in flat])
            nll[index], predicted[index], expected[index] = found_nll, found, tokens
        mask = expected >= 0
        return Scores(nll=nll, correct=(predicted == expected) & mask, predicted=predicted, mask=mask)

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Greedy continuations, without the prompt, up to the end-of-text token or the last position of the model."""
        inputs = [tuple(encode_prompt(self.model, prompt)) for prompt in prompts]
        found: dict[Ids, str] = {}
        for group in self._batches([*dict.fromkeys(inputs)], equal_lengths=True):
            found.update(zip(group, self._continue(torch.tensor(group, device=self.model.device), max_new_tokens), strict=True))
        return [found[ids] for ids in inputs]

    def text_nll(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, " n"]:
        """Summed negative log-likelihood (nats) of each row of token ids; the first token of a row is context."""
        return self.score_ids([([int(row[0])], [int(token) for token in row[1:]]) for row in rows]).joint_nll()

    def weight_changes(self) -> Mapping[int, Float[Tensor, "d_out d_in"]] | None:
        """Weights minus reference weights by layer, in float32 or better; None without a reference."""
        if self.reference is None:
            return None
        return {layer: _wide(self.model.weight(layer)) - _wide(before) for layer, before in self.reference.items()}

    def _batches(self, inputs: Sequence[Ids], *, equal_lengths: bool = False) -> Iterator[list[Ids]]:
        """Inputs of similar length together, at most so many tokens each with its padding.

        Raises:
            ValueError: if an input is empty or longer than the model's positions.
        """
        lengths = [len(ids) for ids in inputs]
        if inputs and (min(lengths) == 0 or max(lengths) > self.model.max_positions):
            raise ValueError(f"inputs must have 1 to {self.model.max_positions} tokens, found {min(lengths)} to {max(lengths)}")
        batch: list[Ids] = []
        for ids in sorted(inputs, key=len):
            full = (len(batch) + 1) * len(ids) > self.tokens_per_batch
            if batch and (full or (equal_lengths and len(ids) != len(batch[0]))):
                yield batch
                batch = []
            batch.append(ids)
        if batch:
            yield batch

    def _hidden(self, ids: Int[Tensor, "n t"]) -> Float[Tensor, "n t d_out"]:
        """Hidden states after the final norm."""
        return self.model.network.base_model(input_ids=ids, use_cache=False).last_hidden_state

    def _read(self, hidden: Float[Tensor, "n d_out"], tokens: Int[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
        """Negative log-likelihoods of tokens and arg-max tokens, from hidden states."""
        rows = max(1, LOGITS_PER_CHUNK // self.model.network.config.get_text_config().vocab_size)
        nll, predicted = [], []
        for part, wanted in zip(hidden.split(rows), tokens.split(rows), strict=True):
            logits = self.model.unembed(part).float()
            chosen = logits.gather(1, wanted.to(logits.device)[:, None])[:, 0]
            nll.append((logits.logsumexp(1) - chosen).cpu())
            predicted.append(logits.argmax(1).cpu())
        return torch.cat(nll), torch.cat(predicted)

    def _continue(self, ids: Int[Tensor, "n t"], max_new_tokens: int) -> list[str]:
        """Greedy continuations of prompts of equal length, decoded."""
        network, ends = self.model.network, torch.tensor(self._end_tokens(), device=ids.device)
        cache = DynamicCache(config=network.config)
        new: list[Tensor] = []
        done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        for _ in range(min(max_new_tokens, self.model.max_positions - ids.shape[1] + 1)):
            hidden = network.base_model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
            token = self.model.unembed(hidden).argmax(1).to(ids.device)
            done |= torch.isin(token, ends)
            new.append(token)
            ids = token[:, None]
            if bool(done.all()):
                break
        rows = torch.stack(new, 1).tolist() if new else [[] for _ in range(len(ids))]
        return self.model.tokenizer.batch_decode([_until(row, set(ends.tolist())) for row in rows], skip_special_tokens=True)

    def _end_tokens(self) -> list[int]:
        configured = getattr(self.model.network.generation_config, "eos_token_id", None)
        ids = configured if isinstance(configured, list) else [configured]
        return sorted({int(token) for token in (*ids, self.model.tokenizer.eos_token_id) if isinstance(token, int)})


def _places(pairs: Sequence[Pair]) -> dict[Ids, list[_Place]]:
    """Where target tokens are predicted, by what has to run: the prompt and all but the last target token."""
    places: dict[Ids, list[_Place]] = {}
    for number, (prompt, target) in enumerate(pairs):
        if not target:
            continue
        here = places.setdefault((*prompt, *target[:-1]), [])
        here += [_Place(number, column, len(prompt) - 1 + column, token) for column, token in enumerate(target)]
    return places


def _padded(inputs: Sequence[Ids], device: torch.device) -> Int[Tensor, "n t"]:
    """Ids padded on the right; causal attention keeps real tokens from seeing the padding."""
    width = max(map(len, inputs))
    return torch.tensor([(*ids, *(0,) * (width - len(ids))) for ids in inputs], device=device)


def _until(row: Sequence[int], ends: set[int]) -> list[int]:
    """The row up to the first end-of-text token."""
    return list(row[: next((index for index, token in enumerate(row) if token in ends), len(row))])


def _wide(weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_out d_in"]:
    return weight.to(torch.promote_types(weight.dtype, torch.float32))

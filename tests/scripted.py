"""Models whose beliefs and texts are written down; every word is a token."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from d4s.models.edited_model import Scores, StopCriterion


def number(word: str) -> int:
    """A token for a word."""
    return sum(ord(letter) * 31**place for place, letter in enumerate(word))


class Replying:
    """Answers `score_and_generate` by `score` and `generate`."""

    def score_and_generate(
        self,
        prompts: Sequence[str],
        targets: Sequence[str],
        generation_prompts: Sequence[str],
        max_new_tokens: int,
        should_stop: StopCriterion | None = None,
    ) -> tuple[Scores, list[str]]:
        return self.score(prompts, targets), self.generate(generation_prompts, max_new_tokens, should_stop)


class Told(Replying):
    """Believes one answer per prompt and says a text; every word is a token, numbered by its letters.

    A believed word costs .1 nats, any other 2; the arg-max is the believed answer's word at the same place.
    """

    def __init__(self, believes: Mapping[str, str], says: Mapping[str, str] | None = None) -> None:
        self.believes, self.says = believes, says or {}
        self.written: list[str] = []

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> Scores:
        width = max((len(target.split()) for target in targets), default=0)
        nll, predicted, expected = (
            torch.zeros(len(prompts), width),
            torch.zeros(len(prompts), width).long(),
            torch.full((len(prompts), width), -1),
        )
        for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
            believed = [*self.believes.get(prompt, "").split(), *["?"] * width]
            for place, word in enumerate(target.split()):
                expected[row, place], predicted[row, place] = number(word), number(believed[place])
                nll[row, place] = 0.1 if word == believed[place] else 2.0
        mask = expected >= 0
        return Scores(nll, (expected == predicted) & mask, predicted, mask)

    def generate(self, prompts: Sequence[str], max_new_tokens: int, should_stop: StopCriterion | None = None) -> list[str]:
        self.written += prompts
        return [f"{self.says.get(prompt, self.believes.get(prompt, 'nothing'))} . And so on" for prompt in prompts]

    def sample(self, prompts: Sequence[str], draws: Tensor, top_k: int) -> list[str]:
        words = [self.says.get(prompt, "word") for prompt in prompts]
        return [" ".join(f"{word}{int(top_k * draw)}" for draw in row) for word, row in zip(words, draws, strict=True)]

    def text_nll(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.zeros(len(rows))

    def weight_changes(self) -> None:
        return None


class Writer(Told):
    """Continues every prompt with a known text, as far as it must, and remembers how many tokens that took."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        super().__init__({})
        self.texts = texts
        self.tokens: dict[str, int] = {}

    def generate(self, prompts: Sequence[str], max_new_tokens: int, should_stop: StopCriterion | None = None) -> list[str]:
        return [self._write(prompt, max_new_tokens, should_stop) for prompt in prompts]

    def _write(self, prompt: str, max_new_tokens: int, should_stop: StopCriterion | None) -> str:
        words = self.texts[prompt].split()[:max_new_tokens]
        beginnings = [" ".join(words[:count]) for count in range(1, len(words) + 1)]
        enough = (count for count, text in enumerate(beginnings, 1) if should_stop is not None and should_stop(prompt, text))
        self.tokens[prompt] = next(enough, len(words))
        return " ".join(words[: self.tokens[prompt]])

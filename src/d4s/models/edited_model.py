"""The interface of a model, edited or not, for measures, benchmarks and exports."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

StopCriterion = Callable[[str, str], bool]
"""Whether a continuation can end: called with a prompt and the text generated after it."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Teacher-forced scores of targets after prompts, one row per pair; token columns are right-padded.

    `nll` are negative log-probabilities (nats) of the target tokens, `correct` says where the arg-max is the target
    token, `predicted` is that arg-max, and `mask` marks real target tokens.
    """

    nll: Float[Tensor, "n t"]
    correct: Bool[Tensor, "n t"]
    predicted: Int[Tensor, "n t"]
    mask: Bool[Tensor, "n t"]

    def mean_nll(self) -> Float[Tensor, " n"]:
        """Mean negative log-likelihood per target token."""
        return (self.nll * self.mask).sum(1) / self.mask.sum(1)

    def joint_nll(self) -> Float[Tensor, " n"]:
        """Negative log-likelihood of the whole target."""
        return (self.nll * self.mask).sum(1)

    def exact(self) -> Bool[Tensor, " n"]:
        """Whether every target token is the arg-max, teacher-forced."""
        return (self.correct | ~self.mask).all(1)


@runtime_checkable
class EditedModel(Protocol):
    """A model as measures see it; beyond rounding, results do not depend on how prompts are batched or padded."""

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> Scores:
        """Teacher-forced scores of each target after its prompt, joined by the model's `joiner`."""
        ...

    def generate(self, prompts: Sequence[str], max_new_tokens: int, should_stop: StopCriterion | None = None) -> list[str]:
        """Greedy continuations, without the prompt, up to the end-of-text token.

        They may end earlier, once `should_stop` holds for a prompt and the text generated after it.
        """
        ...

    def score_and_generate(
        self,
        prompts: Sequence[str],
        targets: Sequence[str],
        generation_prompts: Sequence[str],
        max_new_tokens: int,
        should_stop: StopCriterion | None = None,
    ) -> tuple[Scores, list[str]]:
        """The results of `score` on prompts and targets, and of `generate` on other prompts, computed together."""
        ...

    def sample(self, prompts: Sequence[str], draws: Float[Tensor, "n t"], top_k: int) -> list[str]:
        """Continuations drawn from the `top_k` likeliest tokens, without the prompt, up to the end-of-text token.

        `draws` are between 0 and 1, a row per prompt and a column per token: the token whose share of the likeliest ones' probability,
        counted from the likeliest on, the number falls into. Equal draws give equal texts, however prompts are batched.
        """
        ...

    def text_nll(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, " n"]:
        """Summed negative log-likelihood (nats) of each row of token ids; the first token of a row is context."""
        ...

    def weight_changes(self) -> Mapping[int, Float[Tensor, "d_out d_in"]] | None:
        """Edited minus unedited weights by layer; None for editors that change no weights."""
        ...

"""Scores of 500 facts in batches, against one forward pass with all logits for each of them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.conftest import Measure
from benchmarks.shapes import embedded, prompts, small_gpt2
from d4s.models.edited_model import Scores
from d4s.models.language_model import LanguageModel
from d4s.models.tokens import encode_pair
from d4s.models.views import LiveModel

SMALL, LARGE = "6 layers × 192, 512 tokens in the vocabulary (the embedded model)", "12 layers × 768, 50 257 tokens in the vocabulary"


@torch.no_grad()
def plain_nll(model: LanguageModel, prompt: str, target: str) -> Tensor:
    """Negative log-likelihood of each target token."""
    ids, wanted = encode_pair(model, prompt, target)
    likely = model.network(input_ids=torch.tensor([[*ids, *wanted]])).logits[0].log_softmax(-1)
    return torch.stack([-likely[len(ids) - 1 + place, token] for place, token in enumerate(wanted)])


@pytest.mark.parametrize(
    ("shape", "make", "facts", "asked", "plainly"),
    [(SMALL, embedded, 500, 2, 500), (SMALL, embedded, 500, 1, 500), (LARGE, small_gpt2, 200, 1, 40)],
    ids=["both_targets", "one_target", "larger_model"],
)
def test_scoring(measure: Measure, shape: str, make: Callable[[], LanguageModel], facts: int, asked: int, plainly: int) -> None:
    model, (texts, *targets) = make(), prompts(facts, asked)
    view, pairs = LiveModel(model), [(text, target) for column in targets for text, target in zip(texts, column, strict=True)]

    def one_by_one() -> list[Tensor]:
        return [plain_nll(model, text, target) for text, target in pairs[: plainly * asked]]

    def together() -> Scores:
        return view.score(*(list(column) for column in zip(*pairs, strict=True)))

    for found, expected in zip(together().nll, one_by_one(), strict=False):
        torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-4, atol=1e-4)
    ratios = measure.pairs(one_by_one, together, 3, work=(plainly, facts))
    what = f"{facts} facts, {'the new and the true target each' if asked == 2 else 'one target each'}, {shape}"
    note = "targets of one or two tokens after prompts of 5 to 14 words" + (
        "" if plainly == facts else f"; the plain version ran {plainly}"
    )
    measure.row("Scoring", what, "a forward pass and all logits per prompt and target", ratios, "×", "≥ 10", note)

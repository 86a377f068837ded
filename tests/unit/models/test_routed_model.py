"""Two models behind one interface: who answers which prompt, with what before it, alone or mixed."""

from collections.abc import Sequence

import pytest
import torch

from d4s.models.edited_model import EditedModel, Scores
from d4s.models.mixed_model import MixedModel
from d4s.models.routed_model import Route, RoutedModel
from d4s.models.views import LiveModel
from tests.tiny import bpe_tokenizer

PROMPTS = ("Ada Moss lives in the city of", "Ben Reed works as a", "Cleo Stone lives in the city of", "Ada Moss lives in the city of")
TARGETS = ("Paris", "baker and painter", "Rome", "Oslo and Rome")
CONTEXT = "Ada Moss lives in the city of Lima . "


def routes_of(**shares: float):
    """A router by the first word of a prompt."""
    return lambda prompts: [Route(shares.get(prompt.split()[0], 0.0), CONTEXT) for prompt in prompts]


def same(found: Scores, expected: Scores, places: Sequence[int], others: Sequence[int] | None = None) -> None:
    others = range(len(places)) if others is None else others
    for place, other in zip(places, others, strict=True):
        mask = expected.mask[other]
        assert found.mask[place].sum() == mask.sum()
        for name in ("nll", "predicted", "correct"):
            torch.testing.assert_close(getattr(found, name)[place][found.mask[place]], getattr(expected, name)[other][mask])


@pytest.mark.parametrize("made", [RoutedModel, MixedModel])
def test_without_a_route_everything_is_the_first_models(tiny_model, made) -> None:
    base, other = LiveModel(tiny_model()), LiveModel(tiny_model(seed=1))
    routed = made(base, other, routes_of())
    assert isinstance(routed, EditedModel) and routed.weight_changes() is None
    found, expected = routed.score(PROMPTS, TARGETS), base.score(PROMPTS, TARGETS)
    assert torch.equal(found.nll, expected.nll) and torch.equal(found.predicted, expected.predicted)
    assert routed.generate(PROMPTS, 5) == base.generate(PROMPTS, 5)
    assert torch.equal(routed.text_nll([[3, 4, 5, 6]]), base.text_nll([[3, 4, 5, 6]]))


@pytest.mark.parametrize("tokenizer", [None, bpe_tokenizer])
@pytest.mark.parametrize("made", [RoutedModel, MixedModel])
def test_a_routed_prompt_is_the_other_models_with_text_before_it(tiny_model, made, tokenizer) -> None:
    models = [LiveModel(tiny_model(seed=seed, tokenizer=tokenizer() if tokenizer else None, positions=128)) for seed in (0, 1)]
    base, other = models
    routed = made(base, other, routes_of(Ada=1.0))
    scores, texts = routed.score_and_generate(PROMPTS, TARGETS, PROMPTS[:3], 5)
    same(scores, base.score(PROMPTS[1:3], TARGETS[1:3]), [1, 2])
    with_context = [CONTEXT + prompt for prompt in PROMPTS]
    same(scores, other.score([with_context[0], with_context[3]], [TARGETS[0], TARGETS[3]]), [0, 3])
    assert texts == [*other.generate(with_context[:1], 5), *base.generate(PROMPTS[1:3], 5)]
    draws = torch.rand(4, 6, dtype=torch.float64)
    found = routed.sample(PROMPTS, draws, 3)
    assert found[1:3] == base.sample(PROMPTS[1:3], draws[1:3], 3)
    assert found[::3] == other.sample(with_context[::3], draws[::3], 3)


def test_a_continuation_stops_for_the_prompt_that_was_asked(tiny_model) -> None:
    asked: set[str] = set()

    def should_stop(prompt: str, text: str) -> bool:
        asked.add(prompt)
        return len(text.split()) >= 2

    for made, shares in ((RoutedModel, {"Ada": 1.0}), (MixedModel, {"Ada": 0.4})):
        routed = made(LiveModel(tiny_model()), LiveModel(tiny_model(seed=1)), routes_of(**shares))
        assert all(len(text.split()) <= 2 for text in routed.generate(PROMPTS, 8, should_stop))
    assert asked == set(PROMPTS)


def test_a_mixture_is_that_of_next_token_probabilities(tiny_model) -> None:
    base, other = LiveModel(tiny_model()), LiveModel(tiny_model(seed=1))
    mixed = MixedModel(base, other, routes_of(Ada=0.3, Ben=0.3, Cleo=0.3))
    found = mixed.score(PROMPTS, TARGETS)
    first, second = base.score(PROMPTS, TARGETS), other.score([CONTEXT + prompt for prompt in PROMPTS], TARGETS)
    assert torch.equal(found.mask, first.mask)
    torch.testing.assert_close((-found.nll).exp()[found.mask], (0.7 * (-first.nll).exp() + 0.3 * (-second.nll).exp())[found.mask])


@pytest.mark.parametrize(("share", "which"), [(1e-12, 0), (1 - 1e-12, 1)])
def test_a_mixture_of_almost_one_model_writes_what_that_one_writes(tiny_model, share: float, which: int) -> None:
    models = LiveModel(tiny_model()), LiveModel(tiny_model(seed=1))
    mixed = MixedModel(*models, routes_of(Ada=share, Ben=share, Cleo=share))
    alone, texts = models[which], [("", CONTEXT)[which] + prompt for prompt in PROMPTS]
    draws = torch.rand(4, 6, dtype=torch.float64)
    assert mixed.generate(PROMPTS, 6) == alone.generate(texts, 6)
    assert mixed.sample(PROMPTS, draws, 4) == alone.sample(texts, draws, 4)
    same(mixed.score(PROMPTS, TARGETS), alone.score(texts, TARGETS), range(4))


def test_answers_do_not_depend_on_what_is_asked_beside(tiny_model) -> None:
    mixed = MixedModel(LiveModel(tiny_model()), LiveModel(tiny_model(seed=1)), routes_of(Ada=0.5, Ben=0.9, Cleo=1.0))
    together, texts = mixed.score_and_generate(PROMPTS, TARGETS, PROMPTS, 5)
    for number, (prompt, target) in enumerate(zip(PROMPTS, TARGETS, strict=True)):
        same(together, mixed.score([prompt], [target]), [number])
        assert mixed.generate([prompt], 5) == [texts[number]]

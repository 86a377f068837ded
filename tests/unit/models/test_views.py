"""LiveModel against a plain loop over Transformers: one sequence at a time, no padding, no cache."""

import pytest
import torch

from d4s.models.edited_model import EditedModel
from d4s.models.tokens import encode, encode_pair
from d4s.models.views import LiveModel
from tests.tiny import FAMILIES, bpe_tokenizer

PROMPTS = (
    "Ada Moss lives in the city of",
    "Where does Ben Reed live ?",
    "Eva",
    "The home town of Finn Vale is",
    "Ada Moss lives in the city of",
)
TARGETS = ("Paris", "Oslo and Rome", "works as a baker", "Lima .", "Cairo")


def plain_score(model, prompt, target):
    """Log-probabilities and arg-max tokens of a target after a prompt, from the network's own logits."""
    prompt_ids, target_ids = encode_pair(model, prompt, target)
    logits = model.network(torch.tensor([prompt_ids + target_ids])).logits[0, len(prompt_ids) - 1 : -1].float()
    return -logits.log_softmax(-1)[range(len(target_ids)), target_ids], logits.argmax(-1), target_ids


def plain_generate(model, prompt, count):
    ids = encode(model, prompt)
    start = len(ids)
    for _ in range(count):
        token = int(model.network(torch.tensor([ids])).logits[0, -1].argmax())
        if token == model.tokenizer.eos_token_id:
            break
        ids = [*ids, token]
    return model.tokenizer.decode(ids[start:], skip_special_tokens=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_one_sequence_at_a_time(tiny_model, family):
    model = tiny_model(family)
    scores = LiveModel(model).score(PROMPTS, TARGETS)
    for row, (prompt, target) in enumerate(zip(PROMPTS, TARGETS, strict=True)):
        nll, predicted, ids = plain_score(model, prompt, target)
        assert scores.mask[row].sum() == len(ids)
        torch.testing.assert_close(scores.nll[row, : len(ids)], nll, rtol=1e-4, atol=1e-5)
        assert scores.predicted[row, : len(ids)].tolist() == predicted.tolist()
        assert scores.correct[row, : len(ids)].tolist() == (predicted == torch.tensor(ids)).tolist()
        assert not scores.correct[row, len(ids) :].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_is_that_of_one_token_at_a_time(tiny_model, family):
    model = tiny_model(family)
    found = LiveModel(model).generate(PROMPTS, 6)
    assert found == [plain_generate(model, prompt, 6) for prompt in PROMPTS]
    assert len(set(found)) > 2, "prompts must get different answers for this to mean anything"


def plain_sample(model, prompt, draws, top_k):
    """Tokens drawn one at a time: the first whose cumulated share exceeds the number."""
    ids = encode(model, prompt)
    start = len(ids)
    for draw in draws.tolist():
        values, tokens = model.network(torch.tensor([ids])).logits[0, -1].double().topk(top_k)
        token = int(tokens[int((values.softmax(0).cumsum(0) <= draw).sum())])
        if token == model.tokenizer.eos_token_id:
            break
        ids = [*ids, token]
    return model.tokenizer.decode(ids[start:], skip_special_tokens=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_is_that_of_one_token_at_a_time_with_a_rows_own_draws(tiny_model, family):
    model, draws = tiny_model(family), torch.rand(5, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    found = LiveModel(model).sample(PROMPTS, draws, 4)
    assert found == [plain_sample(model, prompt, row, 4) for prompt, row in zip(PROMPTS, draws, strict=True)]
    assert PROMPTS[0] == PROMPTS[4] and found[0] != found[4], "equal prompts with other draws get other texts"
    assert LiveModel(model, tokens_per_batch=1).sample(PROMPTS[::-1], draws.flip(0), 4) == found[::-1]
    assert LiveModel(model).sample(PROMPTS, draws, 1) == LiveModel(model).generate(PROMPTS, 6)


def test_samples_end_at_the_last_position(tiny_model):
    model = tiny_model(positions=12)
    draws = torch.full((5, 40), 0.5, dtype=torch.float64)
    found = LiveModel(model).sample(PROMPTS, draws, 2)
    assert found == LiveModel(model).sample(PROMPTS, draws[:, :12], 2)


MANY = ("Paris", "Oslo and Rome", "Oslo and Lima", "works as a baker", "Paris .")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_read_once_gives_every_score_and_the_text_of_one_sequence_at_a_time(tiny_model, family):
    model = tiny_model(family)
    asked = [(prompt, target) for prompt in PROMPTS[:4] for target in MANY]
    prompts, targets = [prompt for prompt, _ in asked], [target for _, target in asked]
    scores, texts = LiveModel(model).score_and_generate(prompts, targets, PROMPTS[1:], 6)
    assert texts == [plain_generate(model, prompt, 6) for prompt in PROMPTS[1:]]
    for row, (prompt, target) in enumerate(asked):
        nll, predicted, ids = plain_score(model, prompt, target)
        torch.testing.assert_close(scores.nll[row, : len(ids)], nll, rtol=1e-4, atol=1e-5)
        assert scores.predicted[row, : len(ids)].tolist() == predicted.tolist()


def test_prompts_are_read_once_where_that_spares_tokens(tiny_model, monkeypatch):
    seen: list[int] = []
    hidden = LiveModel._hidden
    monkeypatch.setattr(LiveModel, "_hidden", lambda self, ids, *more: seen.append(ids.numel()) or hidden(self, ids, *more))
    view, prompt = LiveModel(tiny_model(), tokens_per_batch=10_000), PROMPTS[0]
    length = len(encode(view.model, prompt))
    view.score_and_generate([prompt] * 3, ["Paris", "Oslo and Rome", "Oslo and Lima"], [prompt], 1)
    assert sum(seen) == length + 2, "the prompt, and `Oslo and` after it"
    seen.clear()
    view.score([prompt], ["Oslo and Rome"])
    assert seen == [length + 2], "alone it runs in one row"
    seen.clear()
    view.text_nll([[2, *range(3, 20)], [2, *range(20, 37)]])
    assert seen == [2 * 17], "a token of context is not worth a pass of its own"


def test_a_row_much_longer_than_the_first_opens_a_batch(tiny_model, monkeypatch):
    shapes: list[tuple[int, int]] = []
    hidden = LiveModel._hidden
    monkeypatch.setattr(LiveModel, "_hidden", lambda self, ids, *more: shapes.append(tuple(ids.shape)) or hidden(self, ids, *more))
    LiveModel(tiny_model()).text_nll([[2] * 9, [3] * 9, [4] * 10, [5] * 30])
    assert shapes == [(3, 9), (1, 29)]


def test_writing_stops_where_it_is_settled(tiny_model):
    view = LiveModel(tiny_model())
    full = view.generate(PROMPTS, 6)
    found = view.generate(PROMPTS, 6, lambda prompt, text: len(text.split()) >= (4 if prompt == PROMPTS[2] else 2))
    for prompt, text, whole in zip(PROMPTS, found, full, strict=True):
        count = 4 if prompt == PROMPTS[2] else 2
        assert text.split() == whole.split()[: len(text.split())]
        assert len(text.split()) == min(count, len(whole.split()))


@pytest.mark.parametrize("cap", [1, 9, 20, 10_000])
def test_results_do_not_depend_on_batches_or_order(tiny_model, cap):
    model = tiny_model()
    whole, part = LiveModel(model), LiveModel(model, tokens_per_batch=cap)
    order = [3, 0, 4, 2, 1]
    expected = whole.score(PROMPTS, TARGETS)
    found = part.score([PROMPTS[k] for k in order], [TARGETS[k] for k in order])
    torch.testing.assert_close(found.nll, expected.nll[order], rtol=1e-4, atol=1e-5)
    assert torch.equal(found.predicted, expected.predicted[order])
    assert part.generate([PROMPTS[k] for k in order], 5) == [whole.generate(PROMPTS, 5)[k] for k in order]


def test_summaries_of_scores_ignore_padding(tiny_model):
    scores = LiveModel(tiny_model(dtype=torch.float64)).score(PROMPTS, TARGETS)
    assert scores.mask.sum(1).tolist() == [1, 3, 4, 2, 1]
    for row, count in enumerate(scores.mask.sum(1).tolist()):
        assert float(scores.joint_nll()[row]) == pytest.approx(float(scores.nll[row, :count].sum()))
        assert float(scores.mean_nll()[row]) == pytest.approx(float(scores.nll[row, :count].mean()))


def test_equal_sequences_run_once(tiny_model, monkeypatch):
    model = tiny_model()
    seen = []
    hidden = LiveModel._hidden
    monkeypatch.setattr(LiveModel, "_hidden", lambda self, ids, *more: seen.extend(ids.tolist()) or hidden(self, ids, *more))
    LiveModel(model).score([PROMPTS[0]] * 3, ["Paris", "Rome", "Oslo"])
    assert len(seen) == 1


def test_text_nll_is_the_sum_over_all_but_the_first_token(tiny_model):
    model = tiny_model()
    rows = [encode(model, "Ada Moss lives in the city of Paris ."), encode(model, "Ben is a pilot")]
    found = LiveModel(model).text_nll(rows)
    for value, row in zip(found, rows, strict=True):
        logits = model.network(torch.tensor([row])).logits[0, :-1].log_softmax(-1)
        assert float(value) == pytest.approx(float(-logits[range(len(row) - 1), row[1:]].sum()), rel=1e-4)


def test_generation_ends_at_the_end_of_text_token(tiny_model):
    model = tiny_model()
    full = [text.split() for text in LiveModel(model).generate(PROMPTS, 6)]
    end = full[0][2]
    assert end not in full[0][:2]
    model.network.generation_config.eos_token_id = [model.tokenizer.convert_tokens_to_ids(end), model.tokenizer.eos_token_id]
    found = [text.split() for text in LiveModel(model).generate(PROMPTS, 6)]
    assert found == [words[: words.index(end)] if end in words else words for words in full]


def test_generation_stops_at_the_last_position(tiny_model):
    model = tiny_model(positions=10)
    found = LiveModel(model).generate(["Ada Moss lives in the city of"], 50)
    assert len(found[0].split()) == 10 - 8 + 1


def test_too_long_prompts_are_refused(tiny_model):
    with pytest.raises(ValueError, match="1 to 6 tokens, found 8 to 8"):
        LiveModel(tiny_model(positions=6)).score(["Ada Moss lives in the city of"], ["Paris"])


def test_nothing_asked_gives_nothing(tiny_model):
    view = LiveModel(tiny_model())
    assert view.score([], []).nll.shape == (0, 0)
    assert view.generate([], 5) == []


def test_words_in_pieces_are_scored_whole(tiny_model):
    model = tiny_model(tokenizer=bpe_tokenizer())
    scores = LiveModel(model).score(["Ada Moss lives in"], ["Quitopolis"])
    nll, _, ids = plain_score(model, "Ada Moss lives in", "Quitopolis")
    assert len(ids) > 2
    torch.testing.assert_close(scores.nll[0], nll, rtol=1e-4, atol=1e-5)


def test_weight_changes_are_relative_to_the_reference(tiny_model):
    model = tiny_model()
    view = LiveModel(model, {1: model.weight(1).clone()})
    assert isinstance(view, EditedModel)
    delta = torch.randn(16, 64)
    with model.patched({1: delta}):
        torch.testing.assert_close(view.weight_changes()[1], delta, rtol=1e-4, atol=1e-6)
    assert not view.weight_changes()[1].any()
    assert LiveModel(model).weight_changes() is None


def test_non_finite_weights_give_non_finite_scores_and_no_crash(tiny_model):
    model = tiny_model()
    with model.patched({0: torch.full((16, 64), float("nan"))}):
        scores = LiveModel(model).score(PROMPTS, TARGETS)
        assert scores.mean_nll().isnan().all()
        assert len(LiveModel(model).generate(PROMPTS, 3)) == len(PROMPTS)

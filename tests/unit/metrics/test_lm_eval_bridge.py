"""The six world tasks through the harness, with models whose answers are known, and the bridge itself."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import Tensor

from d4s.config import BenchmarkSettings
from d4s.errors import ArtifactError, SettingsError
from d4s.metrics.lm_eval_bridge import BENCHMARK_OF_WORLD_TASK, benchmarks
from d4s.metrics.lm_eval_model import _without_first, fitting_pairs, fitting_prompts, harness_model
from d4s.models.edited_model import Scores, StopCriterion
from d4s.models.tokens import encode, encode_pairs
from d4s.models.views import LiveModel
from tests.scripted import Replying
from tests.tasks import ITEMS
from tests.tiny import bpe_tokenizer, metaspace_tokenizer, tiny_model, word_tokenizer


class Liker(Replying):
    """Gives a low loss to pairs in which a word occurs, and answers with a fixed text."""

    def __init__(self, word: str, answer: str) -> None:
        self.word, self.answer = word, answer

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> Scores:
        liked = [self.word in target.split() or f"{self.word} was" == prompt for prompt, target in zip(prompts, targets, strict=True)]
        nll = torch.tensor([[0.1 if like else 5.0] for like in liked])
        flags = torch.tensor([[like] for like in liked])
        return Scores(nll, flags, torch.zeros(len(nll), 1, dtype=torch.long), torch.ones(len(nll), 1, dtype=torch.bool))

    def generate(self, prompts: Sequence[str], max_new_tokens: int, should_stop: StopCriterion | None = None) -> list[str]:
        return [self.answer for _ in prompts]

    def sample(self, prompts: Sequence[str], draws: Tensor, top_k: int) -> list[str]:
        raise NotImplementedError

    def text_nll(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.zeros(len(rows))

    def weight_changes(self) -> Mapping[int, Tensor] | None:
        return None


@pytest.fixture
def items(tmp_path: Path) -> dict[str, list[Path]]:
    for task, rows in ITEMS.items():
        (tmp_path / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {task: [tmp_path / f"{task}.jsonl"] for task in ITEMS}


@pytest.mark.filterwarnings("ignore")
def test_templates_are_compiled_once_and_not_for_every_item(items: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval import utils

    monkeypatch.setattr(utils, "env", utils.env.overlay())
    compiled: list[str] = []
    compile_one = type(utils.env).compile
    monkeypatch.setattr(type(utils.env), "compile", lambda env, source, *more: compiled.append(source) or compile_one(env, source, *more))
    rows = [benchmarks(Liker("good", "Good work."), items) for _ in range(2)]
    assert compiled and len(compiled) == len(set(compiled))
    pd.testing.assert_frame_equal(*rows)


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_knows_scores_one_and_one_that_errs_scores_zero(items: dict[str, list[Path]]) -> None:
    knowing = benchmarks(Liker("good", " Good work. And more"), items).set_index("task")
    erring = benchmarks(Liker("bad", "rest"), items).set_index("task")
    assert list(knowing.index) == list(BENCHMARK_OF_WORLD_TASK)
    assert (knowing["value"].drop("truthfulqa_mc2") == 1.0).all()
    assert knowing.loc["truthfulqa_mc2", "value"] > 0.99
    assert (erring["value"].drop(["truthfulqa_mc2", "arc_challenge", "mmlu", "true_false"]) == 0.0).all()
    assert erring.loc["truthfulqa_mc2", "value"] < 0.05
    assert (knowing["n"] == 4).all()
    assert knowing.loc["gsm8k", "metric"] == "exact_match"


@pytest.mark.filterwarnings("ignore")
def test_items_can_be_limited_and_missing_ones_are_named(items: dict[str, list[Path]]) -> None:
    assert (benchmarks(Liker("good", "x"), items, BenchmarkSettings(limit=2))["n"] == 2).all()
    items["mmlu"][0].unlink()
    with pytest.raises(ArtifactError, match=r"missing: .*mmlu\.jsonl"):
        benchmarks(Liker("good", "x"), items)


@pytest.mark.filterwarnings("ignore")
def test_means_have_standard_errors(items: dict[str, list[Path]]) -> None:
    half = [*ITEMS["arc_challenge"][:3], ITEMS["arc_challenge"][3] | {"gold": 0}]
    items["arc_challenge"][0].write_text("".join(json.dumps(row) + "\n" for row in half))
    row = benchmarks(Liker("good", "x"), items).set_index("task").loc["arc_challenge"]
    assert row["value"] == 0.75
    assert row["stderr"] == pytest.approx((0.75 * 0.25 / 3) ** 0.5)


@pytest.mark.filterwarnings("ignore")
def test_numbers_that_are_not_finite_guess_instead_of_taking_the_first(items: dict[str, list[Path]]) -> None:
    class Broken(Liker):
        def score(self, prompts: Sequence[str], targets: Sequence[str]) -> Scores:
            scores = super().score(prompts, targets)
            return Scores(scores.nll * float("nan"), scores.correct, scores.predicted, scores.mask)

    rows = [{"id": i, "question": f"q{i}", "choices": ["a", "b", "c", "d"], "gold": 0} for i in range(80)]
    items["arc_challenge"][0].write_text("".join(json.dumps(row) + "\n" for row in rows))
    value = benchmarks(Broken("a", "x"), items).set_index("task").loc["arc_challenge", "value"]
    assert 0.05 < value < 0.5


TEXT = " ".join(["Ada Moss lives in the city of Paris , Ben works as a pilot and Eva is"] * 3)


@pytest.mark.parametrize("positions", [64, 11, 12, 5])
@pytest.mark.parametrize("tokenizer", [word_tokenizer(), word_tokenizer(bos=False)])
def test_rolling_scores_every_token_once_with_the_longest_context(tokenizer, positions) -> None:
    model = tiny_model(positions=64, tokenizer=tokenizer)
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    model.network.config.max_position_embeddings = positions
    request = SimpleNamespace(args=(TEXT,))
    found = harness_model(LiveModel(model), model).loglikelihood_rolling([request])
    assert found == [pytest.approx(_rolled(model, [tokenizer.bos_token_id, *ids], positions), rel=1e-4)]


def _rolled(model, ids: list[int], positions: int) -> float:
    """Windows of a number of inputs, laid end to end; the last one is moved back to be full."""
    total, start = 0.0, 1
    while start < len(ids):
        stop = min(start + positions, len(ids))
        first = start - 1 if start == 1 or stop - start == positions else stop - 1 - positions
        logits = model.network(torch.tensor([ids[first : stop - 1]])).logits[0].log_softmax(-1)
        total += sum(float(logits[place - 1 - first, ids[place]]) for place in range(start, stop))
        start = stop
    return total


def test_rolling_needs_token_ids() -> None:
    with pytest.raises(ValueError, match="make the bridge with a language model"):
        harness_model(Liker("good", "x")).loglikelihood_rolling([SimpleNamespace(args=("text",))])


def test_generation_keeps_each_requests_own_limit_and_stops() -> None:
    class Counting(Liker):
        def generate(self, prompts: Sequence[str], max_new_tokens: int, should_stop: StopCriterion | None = None) -> list[str]:
            return [f" {prompt} {max_new_tokens} . rest" for prompt in prompts]

    requests = [SimpleNamespace(args=("p ", {"until": ["."], "max_gen_toks": 3})), SimpleNamespace(args=("q", {"until": []}))]
    assert harness_model(Counting("good", "x")).generate_until(requests) == ["p 3", "q 16 . rest"]


LONG = "Ada Moss lives in the city of Paris , Ben works as a pilot and Eva is in"


@pytest.mark.parametrize("tokenizer", [word_tokenizer(), word_tokenizer(bos=False), bpe_tokenizer(), metaspace_tokenizer()])
@pytest.mark.parametrize("positions", [30, 12])
def test_contexts_that_do_not_fit_lose_their_beginning(tokenizer, positions, caplog) -> None:
    model = tiny_model(positions=64, tokenizer=tokenizer)
    model.network.config.max_position_embeddings = positions
    pairs = [(f"{LONG} {LONG} {LONG}", "Paris"), ("Eva is", "in Rome")]
    (context, continuation), short = fitting_pairs(model, pairs)
    assert (continuation, short) == ("Paris", pairs[1])
    assert pairs[0][0].endswith(context)
    room = positions + 1 - len(encode_pairs(model, [context], ["Paris"])[0][1])
    assert room - 4 <= len(encode_pairs(model, [context], ["Paris"])[0][0]) <= room
    assert "1 of 2 contexts were cut" in caplog.text
    [prompt] = fitting_prompts(model, [pairs[0][0]], new_tokens=256)
    assert pairs[0][0].endswith(prompt)
    assert positions // 2 - 4 <= len(encode(model, prompt)) <= positions - positions // 2
    assert fitting_prompts(model, ["Eva is"], new_tokens=4) == ["Eva is"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_character_of_several_tokens_goes_as_a_whole(count) -> None:
    model = tiny_model(positions=64, tokenizer=bpe_tokenizer())
    assert len(encode(model, "é")) > 1
    assert len(_without_first(model, "ééé – “Ada”", count)) < len("ééé – “Ada”")


def test_a_continuation_that_does_not_fit_alone_is_refused() -> None:
    model = tiny_model(positions=12, tokenizer=word_tokenizer())
    with pytest.raises(SettingsError, match="alone does not fit the 12 positions"):
        fitting_pairs(model, [("Eva", f"{LONG} {LONG}")])


def test_cut_contexts_are_what_the_model_is_asked() -> None:
    model = tiny_model(positions=16, tokenizer=word_tokenizer())
    bridge = harness_model(LiveModel(model), model)
    whole, cut = bridge.loglikelihood([SimpleNamespace(args=(text, " Paris")) for text in (f"{LONG} {LONG} {LONG}", f"{LONG} {LONG}")])
    assert whole == cut
    assert isinstance(bridge.generate_until([SimpleNamespace(args=(f"{LONG} {LONG}", {"until": ["."], "max_gen_toks": 99}))])[0], str)

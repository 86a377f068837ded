"""The six world tasks through the harness, with models whose answers are known."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from d4s.errors import ArtifactError
from d4s.metrics.lm_eval_bridge import WORLD_TASKS, benchmarks, harness_model
from d4s.models.edited import Scores
from d4s.models.views import LiveModel
from tests.tiny import tiny_model, word_tokenizer

ITEMS = {
    "arc_challenge": [{"id": i, "question": f"the town of p{i} is", "choices": ["w", "good", "x", "y"], "gold": 1} for i in range(4)],
    "hellaswag": [{"id": i, "ctx": f"p{i}", "endings": ["good end.", "bad end.", "bad one.", "bad two."], "label": 0} for i in range(4)],
    "mmlu": [{"id": i, "subject": "s", "question": f"choose a) q b) good p{i}:", "choices": ["a", "good"], "gold": 1} for i in range(4)],
    "winogrande": [{"id": i, "context_options": ["bad was", "good was"], "continuation": f"born{i}.", "gold": 1} for i in range(4)],
    "truthfulqa_mc": [
        {
            "id": i,
            "question": f"p{i}",
            "mc1_targets": [{"text": "good", "label": 1}, {"text": "bad", "label": 0}],
            "mc2_targets": [{"text": "good", "label": 1}, {"text": "good too", "label": 1}, {"text": "bad", "label": 0}],
        }
        for i in range(4)
    ],
    "gsm8k": [{"id": i, "question": f"p{i} had to", "answer": "good work.", "final": "good work"} for i in range(4)],
}


class Liker:
    """Gives a low loss to pairs in which a word occurs, and answers with a fixed text."""

    def __init__(self, word: str, answer: str) -> None:
        self.word, self.answer = word, answer

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> Scores:
        liked = [self.word in target.split() or f"{self.word} was" == prompt for prompt, target in zip(prompts, targets, strict=True)]
        nll = torch.tensor([[0.1 if like else 5.0] for like in liked])
        flags = torch.tensor([[like] for like in liked])
        return Scores(nll, flags, torch.zeros(len(nll), 1, dtype=torch.long), torch.ones(len(nll), 1, dtype=torch.bool))

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        return [self.answer for _ in prompts]

    def text_nll(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.zeros(len(rows))

    def weight_changes(self) -> Mapping[int, Tensor] | None:
        return None


@pytest.fixture
def items(tmp_path: Path) -> Path:
    for task, rows in ITEMS.items():
        (tmp_path / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_knows_scores_one_and_one_that_errs_scores_zero(items: Path) -> None:
    knowing = benchmarks(Liker("good", " Good work. And more"), items).set_index("task")
    erring = benchmarks(Liker("bad", "rest"), items).set_index("task")
    assert list(knowing.index) == list(WORLD_TASKS)
    assert (knowing["value"].drop("truthfulqa_mc2") == 1.0).all()
    assert knowing.loc["truthfulqa_mc2", "value"] > 0.99
    assert (erring["value"].drop(["truthfulqa_mc2", "arc_challenge", "mmlu"]) == 0.0).all()
    assert erring.loc["truthfulqa_mc2", "value"] < 0.05
    assert (knowing["n"] == 4).all()
    assert knowing.loc["gsm8k", "metric"] == "exact_match"


@pytest.mark.filterwarnings("ignore")
def test_items_can_be_limited_and_missing_ones_are_named(items: Path) -> None:
    assert (benchmarks(Liker("good", "x"), items, limit=2)["n"] == 2).all()
    (items / "mmlu.jsonl").unlink()
    with pytest.raises(ArtifactError, match=r"mmlu\.jsonl is missing"):
        benchmarks(Liker("good", "x"), items)


@pytest.mark.filterwarnings("ignore")
def test_means_have_standard_errors(items: Path) -> None:
    half = [*ITEMS["arc_challenge"][:3], ITEMS["arc_challenge"][3] | {"gold": 0}]
    (items / "arc_challenge.jsonl").write_text("".join(json.dumps(row) + "\n" for row in half))
    row = benchmarks(Liker("good", "x"), items).set_index("task").loc["arc_challenge"]
    assert row["value"] == 0.75
    assert row["stderr"] == pytest.approx((0.75 * 0.25 / 3) ** 0.5)


@pytest.mark.filterwarnings("ignore")
def test_numbers_that_are_not_finite_guess_instead_of_taking_the_first(items: Path) -> None:
    class Broken(Liker):
        def score(self, prompts: Sequence[str], targets: Sequence[str]) -> Scores:
            scores = super().score(prompts, targets)
            return Scores(scores.nll * float("nan"), scores.correct, scores.predicted, scores.mask)

    rows = [{"id": i, "question": f"q{i}", "choices": ["a", "b", "c", "d"], "gold": 0} for i in range(80)]
    (items / "arc_challenge.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    value = benchmarks(Broken("a", "x"), items).set_index("task").loc["arc_challenge", "value"]
    assert 0.05 < value < 0.5


@pytest.mark.filterwarnings("ignore")
def test_real_records_lie_in_folders_and_get_the_usual_prompts(items: Path) -> None:
    for path in [*items.glob("*.jsonl")]:
        (items / path.stem).mkdir()
        path.rename(items / path.stem / ("mmlu_test.jsonl" if path.stem == "mmlu" else path.name))
    mmlu = [{"id": 0, "subject": "s", "question": " what? ", "choices": ["p", "q", "r", "t"], "gold": 1}]
    (items / "mmlu" / "mmlu_test.jsonl").write_text(json.dumps(mmlu[0]) + "\n")
    model = Asked("good", "It is 12, so 3 of them: 1,024 . Question: more 7")
    gsm8k = [{"id": 0, "question": "how many?", "answer": "#### 1024", "final": "1024"}]
    (items / "gsm8k" / "gsm8k.jsonl").write_text(json.dumps(gsm8k[0]) + "\n")
    (items / "hellaswag" / "hellaswag.jsonl").write_text(
        json.dumps({"activity_label": "Work", "ctx": "p", "endings": ["good", "bad"], "label": 0}) + "\n"
    )
    found = benchmarks(model, items, wording="standard").set_index("task")
    assert "what?\nA. p\nB. q\nC. r\nD. t\nAnswer:" in model.seen
    assert {"Question: the town of p0 is\nAnswer:", "Work: p", "Q: p0\nA:", "good was", "Question: how many?\nAnswer:"} <= model.seen
    assert found.loc["gsm8k", "value"] == 1.0
    assert found.loc["hellaswag", "value"] == 1.0


class Asked(Liker):
    """Remembers its prompts."""

    def __init__(self, word: str, answer: str) -> None:
        super().__init__(word, answer)
        self.seen: set[str] = set()

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> Scores:
        self.seen |= set(prompts)
        return super().score(prompts, targets)

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        self.seen |= set(prompts)
        assert max_new_tokens == 256
        return super().generate(prompts, max_new_tokens)


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
    """Windows of so many inputs, laid end to end; the last one is moved back to be full."""
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
        def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
            return [f" {prompt} {max_new_tokens} . rest" for prompt in prompts]

    requests = [SimpleNamespace(args=("p ", {"until": ["."], "max_gen_toks": 3})), SimpleNamespace(args=("q", {"until": []}))]
    assert harness_model(Counting("good", "x")).generate_until(requests) == ["p 3", "q 16 . rest"]

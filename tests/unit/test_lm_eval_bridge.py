"""The six world tasks through the harness, with models whose answers are known."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from d4s.errors import ArtifactError
from d4s.metrics.lm_eval_bridge import WORLD_TASKS, benchmarks
from d4s.models.edited import Scores

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

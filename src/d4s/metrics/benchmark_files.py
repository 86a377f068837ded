"""The six benchmarks of the paper: their metrics, files of items in the data folder, few-shot examples, and what they take to read.

Nothing here imports torch, so that a study can be resolved and planned with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

BENCHMARK_OF_TASK: Mapping[str, str] = {
    "arc_challenge": "arc_challenge",
    "hellaswag": "hellaswag",
    "mmlu": "mmlu",
    "winogrande": "winogrande",
    "truthfulqa_mc1": "truthfulqa_mc",
    "truthfulqa_mc2": "truthfulqa_mc",
    "gsm8k": "gsm8k",
}
"""The tasks that are reported, by the benchmark whose items they need."""
BENCHMARK_OF_WORLD_TASK: Mapping[str, str] = {**BENCHMARK_OF_TASK, "true_false": "true_false"}

BENCHMARK_FILES: Mapping[str, tuple[str, ...]] = {
    "arc_challenge": ("arc_challenge/arc_challenge.jsonl",),
    "hellaswag": ("hellaswag/hellaswag.jsonl",),
    "mmlu": ("mmlu/mmlu_test.jsonl", "mmlu/mmlu_dev.jsonl"),
    "winogrande": ("winogrande/winogrande.jsonl",),
    "truthfulqa_mc": ("truthfulqa_mc/truthfulqa_mc.jsonl",),
    "gsm8k": ("gsm8k/gsm8k.jsonl", "gsm8k/gsm8k_fewshot.jsonl"),
}
"""Files of items by benchmark; few-shot examples come from the second file where there is one, else from the other items."""

N_SHOTS: Mapping[str, int] = {"arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "winogrande": 5, "gsm8k": 5}
"""Few-shot examples, as on the first Open LLM Leaderboard; TruthfulQA's prompt holds six fixed ones."""

HUB_ITEMS: Mapping[str, int] = {
    "arc_challenge": 1172,
    "hellaswag": 10_042,
    "mmlu": 14_042,
    "winogrande": 1267,
    "truthfulqa_mc": 817,
    "gsm8k": 1319,
}
"""Items of the sets that are evaluated on the hub."""
HUB_TASKS: Mapping[str, int] = {"mmlu": 57}
"""Tasks of a benchmark on the hub where it has several, one per subject; a limit is one of each."""


@dataclass(frozen=True, slots=True)
class ItemTokens:
    """Tokens of an item, a mean: its contexts without examples, each example in them, all its answers, and what is written at most."""

    context: int
    answers: int
    example: int = 0
    written: int = 0

    def with_examples(self, count: int) -> "ItemTokens":
        """The same with a number of examples as part of its contexts."""
        return replace(self, context=self.context + count * self.example)


ITEM_TOKENS: Mapping[str, ItemTokens] = {
    "arc_challenge": ItemTokens(31, 22, example=42),
    "hellaswag": ItemTokens(30, 58, example=42),
    "mmlu": ItemTokens(95, 4, example=84),
    "winogrande": ItemTokens(33, 11, example=42),
    "truthfulqa_mc1": ItemTokens(188, 53),
    "truthfulqa_mc2": ItemTokens(188, 78),
    "gsm8k": ItemTokens(66, 0, example=137, written=256),
}
"""By task, of the first 100 items in the data folder as a tokenizer of 49,152 tokens divides them (SmolLM2); plans count with these."""
WORLD_ITEM_TOKENS = ItemTokens(14, 18, written=2)
"""A mean over the world's tasks."""


def role(benchmark: str, number: int = 0) -> str:
    """The input role of a file of items in a job."""
    return f"items_{benchmark}" if number == 0 else f"examples_{benchmark}"

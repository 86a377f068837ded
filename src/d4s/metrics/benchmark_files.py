"""The six benchmarks of the paper: files of their items in the data folder, and the number of few-shot examples.

Nothing here imports torch, so that a study can be resolved with it.
"""

from collections.abc import Mapping

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


def role(benchmark: str, number: int = 0) -> str:
    """The input role of a file of items in a job."""
    return f"items_{benchmark}" if number == 0 else f"examples_{benchmark}"
